//! An ordinary user of a lab: what such a user has, and what is lent to it by root.

use crate::{library, program};
use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The parts of a library that root lets everybody read; those that are not there are not lent.
const READ: [&str; 3] = ["images", "lean", "vmm"];
/// How they are opened to everybody.
const OPENED: u32 = 0o755;

/// An ordinary user, settled in a lab.
#[derive(Debug)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) binaries: PathBuf,
    pub(crate) library: PathBuf,
    pub(crate) reads: PathBuf,
    lent: Vec<&'static str>,
}

impl User {
    /// Gives the user home and work directory of the lab, a library, binaries, and a way to the shared images.
    pub(crate) fn settle(uid: u32, lab: &Path, binaries: &Path) -> Self {
        let at = |name: &str| lab.join(name);
        let opened = |path: &Path| {
            fs::set_permissions(path, fs::Permissions::from_mode(OPENED)).expect("it is our own");
        };
        opened(lab);
        for name in ["h", "w", "l"] {
            fs::create_dir_all(at(name)).expect("the lab's directories can be made");
            chown(at(name), Some(uid), Some(uid)).expect("root gives away");
        }
        for name in ["h", "l"] {
            fs::set_permissions(at(name), fs::Permissions::from_mode(0o700)).expect("it is our own");
        }
        let user =
            Self { uid, binaries: at("b"), library: at("l"), reads: at("s"), lent: shared_parts().collect() };
        for name in [&user.binaries, &user.reads] {
            fs::create_dir(name).expect("the lab's directories can be made");
            opened(name);
        }
        program::copy(binaries, &user.binaries);
        open_shared(&user.binaries, &at("w"));
        user.lend();
        user
    }

    /// Read-only, so that nothing that is done to the lab's directory can reach the shared library.
    fn lend(&self) {
        for name in &self.lent {
            let (from, to) = (library::shared().join(name), self.reads.join(name));
            fs::create_dir(&to).expect("the lab's directories can be made");
            mount_bind(&from, &to).expect("the shared library can be lent");
            mount_remount(&to, MountFlags::BIND | MountFlags::RDONLY, c"").expect("it can be lent read-only");
        }
    }

    /// Takes back what was lent. The lab's directory can be removed only then.
    pub(crate) fn leave(&self) {
        for name in &self.lent {
            unmount(self.reads.join(name), UnmountFlags::empty()).expect("nobody uses the library any more");
        }
    }

    /// As `OUTLAST_LIBRARY` has it.
    pub(crate) fn libraries(&self) -> OsString {
        std::env::join_paths([&self.library, &self.reads]).expect("the lab's paths have no colons")
    }
}

fn shared_parts() -> impl Iterator<Item = &'static str> {
    READ.into_iter().filter(|name| library::shared().join(name).exists())
}

/// Whatever root does with a library opens it to everybody; one that was built before that was so is opened here.
fn open_shared(binaries: &Path, home: &Path) {
    let mode = |name: &str| fs::metadata(library::shared().join(name)).map(|found| found.mode() & 0o777);
    if shared_parts().all(|name| mode(name).is_ok_and(|mode| mode == OPENED)) {
        return;
    }
    let home = home.join("root");
    let opened = Command::new(binaries.join("outlast"))
        .arg("doctor")
        .env("OUTLAST_HOME", &home)
        .env(library::SHARED, library::shared())
        .stdout(Stdio::null())
        .status();
    opened.expect("root can look at its library");
    // The doctor makes nothing where there is nothing.
    drop(fs::remove_dir_all(home));
}
