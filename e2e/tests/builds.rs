//! Two who make the same image at once, and one who is killed while making it: the library is whole, and nothing of the
//! dead is left after the next one. Images are added here, not built of packages: what publishes them is the same.

use outlast_e2e::{Lab, Setup, library};
use std::fs;
use std::path::{Path, PathBuf};

/// The parts of the shared library's base image are a user's own here.
fn add() -> Vec<String> {
    let base = fs::canonicalize(library::shared().join("images/base")).expect("the image is built");
    let path = |name: &str| base.join(name).to_str().expect("a library's path is text").to_owned();
    let words = ["image", "add", "mine", "--no-boot", "--replace", "--kernel"].map(str::to_owned);
    let parts = [
        path("vmlinux"),
        "--modules".into(),
        path("modules.cpio"),
        "--rootfs".into(),
        path("rootfs.squashfs"),
    ];
    words.into_iter().chain(parts).collect()
}

fn images(lab: &Lab) -> PathBuf {
    lab.places().library().images()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("the library is there").flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// One image that is whole, one version of it, and no scratch.
#[track_caller]
fn expect_one_whole_image(lab: &Lab) {
    lab.outlast(&["image", "verify", "mine"]).expect_code(0);
    let left: Vec<String> =
        names(&images(lab)).into_iter().filter(|name| !name.starts_with(".lock")).collect();
    assert_eq!(left, [".store", "mine"]);
    assert_eq!(names(&images(lab).join(".store")).len(), 1);
}

#[test]
fn two_who_make_one_image_at_once_follow_each_other_and_leave_one() {
    Setup::new().library_with_only(&["vmm", "canary"]).run(|lab| {
        let both: Vec<_> = (0..2).map(|_| lab.call(&add()).start()).collect();
        for one in both {
            one.wait().expect_code(0);
        }
        expect_one_whole_image(lab);
        assert!(lab.doctor().leaks.is_empty());
    });
}

#[test]
fn one_that_is_killed_at_any_moment_leaves_nothing_that_the_next_one_does_not_remove() {
    Setup::new().library_with_only(&["vmm", "canary"]).run(|lab| {
        let whole = lab.call(&add()).run();
        let took = whole.expect_code(0).elapsed;
        let mut cut_short = 0;
        for eighth in 0..8 {
            let running = lab.call(&add()).start();
            outlast_e2e::deadline::within(took * eighth / 8, || None::<()>);
            cut_short += u32::from(running.kill().code().is_none());
            // What had the name before still has it.
            lab.outlast(&["image", "verify", "mine"]).expect_code(0);
        }
        assert!(cut_short > 0, "every one was faster than its kill");
        lab.call(&add()).run().expect_code(0);
        expect_one_whole_image(lab);
        assert!(lab.doctor().leaks.is_empty());
    });
}
