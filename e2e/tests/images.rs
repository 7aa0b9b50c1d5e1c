//! Images as they lie in the library: listed, verified, found damaged, not removed while in use.

use outlast_e2e::file::flip_a_bit;
use outlast_e2e::{Lab, Setup, library, on_lab};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

#[test]
fn images_are_listed_with_what_they_need() {
    on_lab(|lab| {
        let list: serde_json::Value = lab.outlast(&["image", "ls", "--json"]).expect_code(0).json();
        let names: Vec<&str> =
            list.as_array().unwrap().iter().filter_map(|image| image["name"].as_str()).collect();
        for name in ["python", "node", "go", "base"] {
            assert!(names.contains(&name), "{name} is not built: {list:#}");
        }
        let table = lab.outlast(&["image", "ls"]);
        assert!(table.expect_code(0).stdout_text().contains("python"), "{table}");
    });
}

#[test]
fn verify_rehashes_every_part_of_an_image() {
    on_lab(|lab| {
        lab.outlast(&["image", "verify", "base"]).expect_code(0);
    });
}

/// Copies one image of the shared library into the lab's own, to be damaged there.
fn own_copy(lab: &Lab, name: &str) -> PathBuf {
    let from = fs::canonicalize(library::shared().join("images").join(name)).expect("the image is built");
    let images = lab.places().library().images();
    let to = images.join(".store").join(from.file_name().expect("a digest"));
    fs::create_dir_all(&to).expect("the lab's library can be written");
    for entry in fs::read_dir(&from).expect("an image is a directory").flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("an image can be copied");
    }
    let link = Path::new(".store").join(from.file_name().expect("a digest"));
    symlink(link, images.join(name)).expect("the lab's library can be written");
    to
}

#[test]
fn a_flipped_byte_in_an_image_is_found_by_verify_and_by_the_next_run() {
    Setup::new().library_with_only(&["vmm", "canary"]).run(|lab| {
        let image = own_copy(lab, "base");
        lab.outlast(&["image", "verify", "base"]).expect_code(0);
        flip_a_bit(&image.join("rootfs.squashfs"));
        let found = lab.outlast(&["image", "verify", "base"]);
        found.expect_code(1);
        assert!((found.stdout_text() + &found.stderr_text()).contains("rootfs.squashfs"), "{found}");
        let run = lab.outlast(&["run", "--image", "base", "--", "true"]);
        run.expect_code(125).expect_stderr(&["rootfs.squashfs"]);
    });
}

#[test]
fn an_image_in_use_is_not_removed_and_one_not_in_use_is() {
    Setup::new().library_with_only(&["vmm", "canary"]).run(|lab| {
        let image = own_copy(lab, "base");
        let started = lab.outlast(&["run", "--detach", "--image", "base", "--", "sleep", "600"]);
        let id = started.expect_code(0).stdout_text();
        lab.until_state(id.trim(), "running", std::time::Duration::from_secs(120));
        lab.outlast(&["image", "rm", "base"]).expect_code(4).expect_stderr(&["base", "use"]);
        assert!(image.join("manifest.json").exists());
        lab.outlast(&["kill", id.trim()]).expect_code(0);
        lab.until_over(id.trim(), std::time::Duration::from_secs(10));
        lab.expect_nothing_left();
        lab.outlast(&["image", "rm", "base"]).expect_code(0);
        lab.outlast(&["run", "--image", "base", "--", "true"])
            .expect_code(125)
            .expect_stderr(&["outlast image build base"]);
    });
}

#[test]
fn removing_an_image_that_is_not_there_is_not_found() {
    Setup::new().library_with_only(&["vmm", "canary"]).run(|lab| {
        lab.outlast(&["image", "rm", "base"]).expect_code(3).expect_stderr(&["base"]);
        lab.outlast(&["image", "verify", "base"]).expect_code(3);
    });
}

/// The kernel of the shared library's base image with its modules, and a squashfs of one static program.
fn own_parts(lab: &Lab, root_fs: &Path) -> (PathBuf, PathBuf, PathBuf) {
    let base = fs::canonicalize(library::shared().join("images/base")).expect("the image is built");
    let tree = lab.path("tree");
    fs::create_dir_all(tree.join("bin")).expect("the lab can be written");
    // Any static program will do that ends without a host to talk to.
    fs::copy(lab.binaries().join("outlast"), tree.join("bin/outlast")).expect("the binary is there");
    let packed = if root_fs.extension().is_some_and(|ending| ending == "ext4") {
        std::process::Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-d"])
            .arg(&tree)
            .arg(root_fs)
            .arg("64M")
            .status()
    } else {
        std::process::Command::new("mksquashfs")
            .arg(&tree)
            .arg(root_fs)
            .args(["-quiet", "-no-progress", "-comp", "zstd"])
            .status()
    };
    assert!(packed.expect("the tool is installed").success());
    (base.join("vmlinux"), base.join("modules.cpio"), root_fs.to_owned())
}

fn add<'a>(name: &'a str, parts: &'a (PathBuf, PathBuf, PathBuf), more: &[&'a str]) -> Vec<&'a str> {
    let text = |path: &'a PathBuf| path.to_str().expect("a path of the lab is text");
    let (kernel, modules, root_fs) = (text(&parts.0), text(&parts.1), text(&parts.2));
    let mut words = vec!["image", "add", name, "--kernel", kernel, "--modules", modules, "--rootfs", root_fs];
    words.extend(more);
    words
}

#[test]
fn a_users_own_kernel_and_root_file_system_are_tried_and_run() {
    Setup::new().library_with_only(&["vmm", "canary"]).run(|lab| {
        let parts = own_parts(lab, &lab.path("root.squashfs"));
        lab.outlast(&add("mine", &parts, &[])).expect_code(0).expect_stderr(&["mine", "it boots"]);
        let list = lab.outlast(&["image", "ls"]);
        assert!(list.expect_code(0).stdout_text().contains("mine"), "{list}");
        let run = lab.outlast(&["run", "--image", "mine", "--", "/bin/outlast", "--version"]);
        assert!(run.expect_code(0).stdout_text().starts_with("outlast "), "{run}");
        lab.outlast(&["image", "verify", "mine"]).expect_code(0);
        lab.outlast(&add("mine", &parts, &[])).expect_code(4).expect_stderr(&["mine", "--replace"]);
        lab.outlast(&add("mine", &parts, &["--replace", "--no-boot"])).expect_code(0);
        lab.outlast(&add("python", &parts, &[])).expect_code(4).expect_stderr(&["python"]);
        lab.outlast(&["image", "rm", "mine"]).expect_code(0);
    });
}

#[test]
fn an_image_that_does_not_boot_is_not_added_and_its_console_says_why() {
    Setup::new().library_with_only(&["vmm", "canary"]).run(|lab| {
        // The distribution's kernel has the drivers of all its devices as modules, and none come along.
        let (kernel, _, root_fs) = own_parts(lab, &lab.path("root.squashfs"));
        let (kernel, root_fs) = (kernel.to_str().unwrap(), root_fs.to_str().unwrap());
        let refused = lab.outlast(&["image", "add", "mine", "--kernel", kernel, "--rootfs", root_fs]);
        refused.expect_code(1).expect_stderr(&["mine", "does not boot", "outlast-agent", "/dev/vda"]);
        let list: serde_json::Value = lab.outlast(&["image", "ls", "--json"]).expect_code(0).json();
        assert!(!list.to_string().contains("mine"), "{list:#}");
        lab.expect_nothing_left();
    });
}

#[test]
fn an_ext4_root_runs_too_and_is_not_written_to() {
    Setup::new().library_with_only(&["vmm", "canary"]).run(|lab| {
        let parts = own_parts(lab, &lab.path("root.ext4"));
        lab.outlast(&add("mine", &parts, &[])).expect_code(0).expect_stderr(&["it boots"]);
        lab.outlast(&["run", "--image", "mine", "--", "/bin/outlast", "--version"]).expect_code(0);
        lab.outlast(&["image", "verify", "mine"]).expect_code(0);
    });
}

#[test]
fn what_cannot_be_an_image_is_refused_before_anything_is_made() {
    Setup::new().library_with_only(&["vmm", "canary"]).run(|lab| {
        let (kernel, _, root_fs) = own_parts(lab, &lab.path("root.squashfs"));
        let text = lab.file("text", "no kernel at all");
        let cut = lab.file("cut", &fs::read(&root_fs).unwrap()[..4096]);
        let path = |path: &'_ Path| path.to_str().unwrap().to_owned();
        for (kernel, root_fs, word) in
            [(&text, &root_fs, "no kernel"), (&kernel, &text, "squashfs"), (&kernel, &cut, "cut off")]
        {
            let words = ["image", "add", "mine", "--kernel", &path(kernel), "--rootfs", &path(root_fs)];
            lab.outlast(&words).expect_code(2).expect_stderr(&[word]);
        }
        assert!(!lab.places().library().images().join(".store").exists());
    });
}
