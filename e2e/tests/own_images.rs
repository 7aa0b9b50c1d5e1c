//! Ordinary users building images of their own with subordinate ids, which they have in a mount namespace alone.

use outlast_e2e::{Setup, init, program};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

const NOBODY: u32 = 65_534;
/// Gives the user ids, in mounts of its own, becomes the user and builds.
const BUILD: &str = "set -e; echo nobody:200000:65536 > \"$1/ids\"; mount --bind \"$1/ids\" /etc/subuid; \
    mount --bind \"$1/ids\" /etc/subgid; cd \"$1/u\"; exec setpriv --reuid 65534 --regid 65534 --clear-groups \
    env --ignore-environment HOME=\"$1/u\" PATH=/usr/bin:/bin OUTLAST_HOME=\"$1/u/h\" \
    OUTLAST_LIBRARY=\"$1/u/l:$2\" \"$1/b/outlast\" image build base";

/// Beside the test's own program: what is built outside of the test's namespaces, which have no network, and used
/// inside.
fn shelf() -> PathBuf {
    let this = std::env::current_exe().expect("a test knows its own program");
    this.ancestors().nth(4).expect("cargo's layout of the target directory").join("own-image")
}

/// Builds in a place that everybody reaches, and takes what was made to the shelf.
fn build(shelf: &Path) {
    drop(fs::remove_dir_all(shelf));
    let place = tempfile::Builder::new().prefix("oeown").tempdir_in("/var/tmp").expect("a directory");
    let at = |name: &str| place.path().join(name);
    for name in ["b", "u"] {
        fs::create_dir(at(name)).expect("it is our own");
    }
    for path in [place.path().to_owned(), at("b"), at("u")] {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is our own");
    }
    chown(at("u"), Some(NOBODY), Some(NOBODY)).expect("root gives away");
    program::copy(&program::directory(), &at("b"));
    let mut command = Command::new("unshare");
    command.args(["--mount", "--", "sh", "-c", BUILD, "build"]).arg(place.path());
    let status = command.arg(outlast_e2e::library::shared()).status().expect("unshare can be started");
    assert!(status.success(), "the build ended with {status}");
    let taken = Command::new("cp").arg("--archive").arg(at("u/l")).arg(shelf).status();
    assert!(taken.expect("cp can be started").success());
}

/// Whatever is not the user's own, below a directory.
fn of_others(directory: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(path) = open.pop() {
        let stat = fs::symlink_metadata(&path).expect("it can be looked at");
        if (stat.uid(), stat.gid()) != (NOBODY, NOBODY) {
            found.push(path.clone());
        }
        if stat.is_dir() {
            open.extend(fs::read_dir(&path).expect("it can be listed").flatten().map(|entry| entry.path()));
        }
    }
    found
}

#[test]
fn long_an_ordinary_user_with_subordinate_ids_builds_an_image_and_runs_it() {
    let shelf = shelf();
    let outside = std::env::var_os(init::INSIDE).is_none();
    if outside {
        build(&shelf);
    }
    Setup::new().as_user(NOBODY).run(|lab| {
        assert_eq!(of_others(&shelf), Vec::<PathBuf>::new(), "what was built is the user's own");
        let library = lab.places().library().path().to_owned();
        let taken = Command::new("cp").arg("--archive").arg(shelf.join(".")).arg(&library).status();
        assert!(taken.expect("cp can be started").success());
        let digest = fs::read_link(library.join("images/base")).expect("the user's own image is named");
        assert!(library.join("images").join(digest).is_dir());
        lab.outlast(&["image", "verify", "base"]).expect_code(0);
        // A file that the packages give to another owner has that owner in the guest.
        let script = "stat -L -c '%u %g %n' /bin/sh /var/mail; id -u";
        let run = lab.outlast(&["run", "--image", "base", "--", "sh", "-c", script]);
        let said = run.expect_code(0).stdout_text();
        assert_eq!(said, "0 0 /bin/sh\n0 8 /var/mail\n1000\n");
    });
    if outside {
        fs::remove_dir_all(&shelf).expect("it is our own");
    }
}
