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
