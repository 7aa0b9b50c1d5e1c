//! The file systems a guest has beside its root: first the three that the agent needs to find anything, then,
//! in whatever root there is by then, the ones programs expect.

use super::BootError;
use crate::console;
use crate::program::CGROUP_TREE;
use rustix::fs::{CWD, Mode};
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use std::ffi::{CStr, CString};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// One file system to mount.
struct Wanted {
    target: &'static str,
    kind: &'static str,
    flags: MountFlags,
    data: &'static CStr,
}

const fn wanted(target: &'static str, kind: &'static str, flags: MountFlags, data: &'static CStr) -> Wanted {
    Wanted { target, kind, flags, data }
}

const SAFE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);
const INERT: MountFlags = SAFE.union(MountFlags::NOEXEC);

/// What the agent needs. `hidepid` keeps the processes of others, the agent's too, out of a user's sight.
const KERNEL: [Wanted; 3] = [
    wanted("/proc", "proc", INERT, c"hidepid=invisible"),
    wanted("/sys", "sysfs", INERT, c""),
    wanted("/dev", "devtmpfs", MountFlags::NOSUID, c"mode=0755"),
];

/// What programs expect. Memory written to the tmpfs ones counts against the cgroup of whoever writes.
const REST: [Wanted; 5] = [
    wanted(
        "/dev/pts",
        "devpts",
        MountFlags::NOSUID.union(MountFlags::NOEXEC),
        c"mode=0620,gid=5,ptmxmode=0666",
    ),
    wanted("/dev/shm", "tmpfs", SAFE, c"mode=1777,size=50%"),
    wanted("/tmp", "tmpfs", SAFE, c"mode=1777,size=50%"),
    wanted("/run", "tmpfs", SAFE, c"mode=0755,size=10%"),
    wanted(CGROUP_TREE, "cgroup2", INERT, c""),
];

/// Links that udev would make.
const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Mounts proc, sys and dev in the initramfs.
pub(super) fn kernel_file_systems() -> Result<(), BootError> {
    for wanted in &KERNEL {
        wanted.mount().map_err(|source| BootError::Mount(wanted.target, source))?;
    }
    Ok(())
}

/// Takes them along into the new root, in which directories for them are made when they are not there.
pub(super) fn move_kernel_file_systems(new_root: &Path) -> Result<(), Errno> {
    for wanted in &KERNEL {
        let target = new_root.join(wanted.target.trim_start_matches('/'));
        made(&target, 0o755)?;
        rustix::mount::mount_move(wanted.target, &target)?;
    }
    Ok(())
}

/// The user that programs run as, and its group; images are built with the same number.
const GUEST_USER: u32 = 1000;

/// Where the image keeps the directories that programs work in.
const WORKPLACES: &str = "/outlast";

/// Mounts what programs expect. A guest without one of these still answers, so failures are only told.
pub(super) fn rest() {
    for wanted in &REST {
        if let Err(errno) = wanted.mount() {
            console::say(&format!("mount {}: {errno}", wanted.target));
        }
    }
    for (target, link) in LINKS {
        match rustix::fs::symlink(target, link) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => console::say(&format!("link {link}: {errno}")),
        }
    }
}

/// Puts every directory below /outlast on a tmpfs of its own, owned as in the image. They would be writable
/// without, but files going through the overlay cost a fresh clone about fifteen milliseconds more.
pub(super) fn workplaces() {
    // A root file system that was not built for this has none.
    for path in [WORKPLACES, "/outlast/work", "/outlast/out"] {
        match made(Path::new(path), 0o755) {
            Ok(true) if path != WORKPLACES => give_away(path),
            Ok(_) => {}
            Err(errno) => console::say(&format!("make {path}: {errno}")),
        }
    }
    let Ok(entries) = std::fs::read_dir(WORKPLACES) else { return };
    for entry in entries.filter_map(Result::ok) {
        match entry.metadata() {
            Ok(like) if like.is_dir() => workplace(&entry.path(), &like),
            Ok(_) => {}
            Err(error) => console::say_error("look into /outlast", &error),
        }
    }
}

/// Makes a directory unless it is there; whether it was made.
fn made(path: &Path, mode: u32) -> Result<bool, Errno> {
    match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(mode)) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// To the user that programs run as.
fn give_away(path: &str) {
    let (user, group) = (Uid::from_raw(GUEST_USER), Gid::from_raw(GUEST_USER));
    if let Err(errno) = rustix::fs::chown(path, Some(user), Some(group)) {
        console::say(&format!("give {path} to its user: {errno}"));
    }
}

fn workplace(path: &Path, like: &Metadata) {
    let mode = like.mode() & 0o7777;
    let options = format!("mode={mode:o},uid={},gid={},size=50%", like.uid(), like.gid());
    if let Err(errno) = mount("tmpfs", path, "tmpfs", SAFE, CString::new(options).ok().as_deref()) {
        console::say(&format!("mount {}: {errno}", path.display()));
    }
}

impl Wanted {
    fn mount(&self) -> Result<(), Errno> {
        match rustix::fs::mkdirat(CWD, self.target, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        mount(self.kind, self.target, self.kind, self.flags, self.data)
    }
}
