//! The root file system: the read-only image below, a tmpfs for what is written above, and the initramfs
//! left behind and emptied.
//!
//! ```text
//!   /dev/vda (read-only) ─► lower ───────────┐
//!   tmpfs, half of the memory ──────► upper ─┴─► overlay ─► becomes /
//! ```
//!
//! A machine with a disk of its own moves onto that later ([`crate::service::Home`]).

use super::mounts;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};
use std::ffi::CStr;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Where the image is mounted.
const LOWER: &str = "/lower";
/// Where the writable layer is mounted.
const UPPER: &str = "/upper";
/// Where both together are mounted, before that becomes the root.
const NEW_ROOT: &str = "/root";

/// The size of the writable layer, as tmpfs understands it. What a program writes there counts against the
/// memory limit of its cgroup, what the host puts there against the machine.
const UPPER_OPTIONS: &CStr = c"mode=0755,size=50%";

/// The root file system cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum RootError {
    /// A directory of the initramfs.
    #[error("make {0}")]
    Directory(&'static str, #[source] Errno),
    /// The disk does not hold the file system it should.
    #[error("mount {0} as {1} (is that in the kernel?)")]
    Image(PathBuf, &'static str, #[source] Errno),
    /// The disk cannot be read.
    #[error("read {0}")]
    Read(PathBuf, #[source] Errno),
    /// The writable layer.
    #[error("mount the writable layer")]
    Upper(#[source] Errno),
    /// Both together.
    #[error("mount the overlay")]
    Overlay(#[source] Errno),
    /// The last step.
    #[error("switch root")]
    Switch(#[source] Errno),
}

impl RootError {
    /// The error number behind it.
    pub(crate) fn errno(&self) -> i32 {
        let (Self::Directory(_, source)
        | Self::Image(_, _, source)
        | Self::Read(_, source)
        | Self::Upper(source)
        | Self::Overlay(source)
        | Self::Switch(source)) = self;
        source.raw_os_error()
    }
}

/// Makes the file system on `disk` the root of this and all later processes.
pub(super) fn switch_to(disk: &Path) -> Result<(), RootError> {
    for directory in [LOWER, UPPER, NEW_ROOT] {
        make(directory)?;
    }
    mount_image(disk, Path::new(LOWER))?;
    mount("upper", UPPER, "tmpfs", MountFlags::NODEV, UPPER_OPTIONS).map_err(RootError::Upper)?;
    for directory in ["/upper/files", "/upper/work"] {
        make(directory)?;
    }
    let layers = c"lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work";
    mount("overlay", NEW_ROOT, "overlay", MountFlags::NODEV, layers).map_err(RootError::Overlay)?;
    enter().map_err(RootError::Switch)
}

/// Mounts the image on `disk`, read-only.
pub(crate) fn mount_image(disk: &Path, target: &Path) -> Result<(), RootError> {
    let read_only = MountFlags::RDONLY | MountFlags::NODEV;
    let (kind, options) = file_system_of(disk).map_err(|source| RootError::Read(disk.to_owned(), source))?;
    mount(disk, target, kind, read_only, options)
        .map_err(|source| RootError::Image(disk.to_owned(), kind, source))
}

/// What the disk holds, by the magic number of ext4; images are squashfs unless they say otherwise. Nothing is
/// replayed from a journal: the disk is read-only.
fn file_system_of(disk: &Path) -> Result<(&'static str, &'static CStr), Errno> {
    let device = rustix::fs::open(disk, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut magic = [0; 2];
    // Linux Documentation/filesystems/ext4/super.rst: the superblock lies at 1024, its magic at 0x38 in it.
    rustix::io::pread(&device, &mut magic, 1024 + 0x38)?;
    Ok(if magic == [0x53, 0xef] { ("ext4", c"noload") } else { ("squashfs", c"") })
}

fn make(directory: &'static str) -> Result<(), RootError> {
    match rustix::fs::mkdir(directory, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(source) => Err(RootError::Directory(directory, source)),
    }
}

/// Order matters: the kernel's file systems move while both roots can be named, the initramfs is emptied while
/// it can still be opened, and only then does the new root cover it.
fn enter() -> Result<(), Errno> {
    mounts::move_kernel_file_systems(Path::new(NEW_ROOT))?;
    let old = rustix::fs::open(c"/", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let device = rustix::fs::fstat(&old)?.st_dev;
    empty(old, device);
    rustix::process::chdir(NEW_ROOT)?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")
}

/// Frees the memory of everything in a directory of the initramfs, staying on its device. What cannot be
/// removed only costs memory.
fn empty(directory: OwnedFd, device: u64) {
    let Ok(listing) = Dir::new(directory) else { return };
    let Ok(here) = listing.fd().and_then(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 0)) else { return };
    for entry in listing.filter_map(Result::ok) {
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            remove(&here, name, device);
        }
    }
}

fn remove(here: &OwnedFd, name: &CStr, device: u64) {
    let Ok(status) = rustix::fs::statat(here.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) else { return };
    if status.st_dev != device {
        return;
    }
    if FileType::from_raw_mode(status.st_mode) != FileType::Directory {
        let _ = rustix::fs::unlinkat(here, name, AtFlags::empty());
        return;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if let Ok(directory) = rustix::fs::openat(here, name, flags, Mode::empty()) {
        empty(directory, device);
    }
    let _ = rustix::fs::unlinkat(here, name, AtFlags::REMOVEDIR);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emptying_stays_on_its_device_and_does_not_follow_links() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("precious"), "x").unwrap();
        std::fs::create_dir_all(root.path().join("modules/deep")).unwrap();
        std::fs::write(root.path().join("modules/deep/a.ko"), "x").unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("link")).unwrap();
        let open =
            || rustix::fs::open(root.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let device = rustix::fs::fstat(open()).unwrap().st_dev;
        empty(open(), device + 1);
        assert!(root.path().join("modules/deep/a.ko").exists(), "nothing of another device is touched");
        empty(open(), device);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
        assert!(outside.path().join("precious").exists());
    }
}
