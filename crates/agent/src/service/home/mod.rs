//! The machine's own disk: moving the guest's root onto it, and closing it at the end.
//!
//! ```text
//!   image (read-only, mounted again) ─► lower ────────┐
//!   DEVICE (ext4) ─► files, work, room ───────► upper ┴─► overlay ─► becomes /
//!                                                           └ /proc /sys /dev /run /tmp /outlast/…: bound from the old /
//! ```
//!
//! Everything is made on a stage in the old root and nothing there is changed, so that a failure takes the stage away
//! and all is as before. The last step exchanges the two and lets go of the old one, with its tmpfs.
//!
//! Nothing else is served meanwhile: no program runs yet, and what is done next depends on it. Not here: making and
//! checking file systems, which the host does, and programs.

mod carried;
mod room;

use super::Nameplate;
use super::identity::IdentityError;
use crate::boot::{RootError, mount_image};
use crate::console;
use crate::link::{Uevents, WaitError};
use crate::refusal::Reason;
use carried::Carried;
use outlast_wire::guest::Settle;
use room::Room;
use rustix::fs::{CWD, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};
use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// How long the guest may take to notice its disk and that disk's size.
const DISK_LIMIT: Duration = Duration::from_secs(10);

/// Where the new root is put together, in the old one.
const STAGE: &str = "/.outlast-stage";
const LOWER: &str = "/.outlast-stage/lower";
const DISK: &str = "/.outlast-stage/disk";
const NEW_ROOT: &str = "/.outlast-stage/root";
const LAYERS: &CStr =
    c"lowerdir=/.outlast-stage/lower,upperdir=/.outlast-stage/disk/files,workdir=/.outlast-stage/disk/work";

/// Where the whole disk can be reached afterwards, by the guest's root alone.
const DISK_PLACE: &str = "/run/outlast/disk";

/// An error of the disk stops writing at once: what cannot be kept is not pretended to be.
const DISK_OPTIONS: &CStr = c"errors=remount-ro";

/// The guest stays where it is.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum SettleError {
    /// Not the path of a device.
    #[error("{0:?} is no device")]
    Path(String),
    /// The guest lives in its initramfs.
    #[error("this guest has no image to keep below")]
    NoImage,
    /// It has settled before.
    #[error("the guest lives on {0} already")]
    Elsewhere(String),
    /// A program would lose its files.
    #[error("a program runs")]
    Busy,
    /// The device cannot be opened.
    #[error("open {0}")]
    Device(String, #[source] Errno),
    /// The device is not the one that was meant, or the guest does not notice what it is.
    #[error("{device} has {found} bytes and should have {expected}")]
    Size {
        /// The device.
        device: String,
        /// Its size as the guest sees it.
        found: u64,
        /// Its size as the host sees it.
        expected: u64,
    },
    /// Waiting for the device failed.
    #[error("wait for the disk")]
    Wait(#[source] WaitError),
    /// A directory to put things together in.
    #[error("make {0}")]
    Directory(&'static str, #[source] Errno),
    /// The image cannot be mounted a second time.
    #[error("keep the image below")]
    Image(#[source] RootError),
    /// The disk holds no ext4, or a damaged one.
    #[error("mount {0} as ext4")]
    Disk(String, #[source] Errno),
    /// Both together.
    #[error("mount the overlay")]
    Overlay(#[source] Errno),
    /// What is mounted in the guest could not be learned.
    #[error("list mounts")]
    Mounts(#[source] std::io::Error),
    /// Something that is mounted in the old root cannot be brought into the new one.
    #[error("carry {0} along")]
    Carry(PathBuf, #[source] Errno),
    /// The last step.
    #[error("switch root")]
    Switch(#[source] Errno),
    /// The guest has moved, and does not say there who it is. Asked again, it tries again.
    #[error("say who the machine is")]
    Identity(#[source] IdentityError),
}

impl Reason for SettleError {
    fn errno(&self) -> i32 {
        match self {
            Self::Path(_) => Errno::INVAL.raw_os_error(),
            Self::NoImage => Errno::NODEV.raw_os_error(),
            Self::Elsewhere(_) | Self::Busy => Errno::BUSY.raw_os_error(),
            Self::Size { .. } | Self::Wait(WaitError::Late { .. }) => Errno::TIMEDOUT.raw_os_error(),
            Self::Wait(WaitError::Poll { source, .. })
            | Self::Device(_, source)
            | Self::Directory(_, source)
            | Self::Disk(_, source)
            | Self::Overlay(source)
            | Self::Carry(_, source)
            | Self::Switch(source) => source.raw_os_error(),
            Self::Mounts(source) => source.raw_os_error().unwrap_or(0),
            Self::Image(error) => error.errno(),
            Self::Identity(error) => error.errno(),
        }
    }
}

/// Where the guest's root is.
pub(crate) struct Home {
    /// The disk with the image.
    image: Option<PathBuf>,
    /// The disk the guest lives on, once it does.
    settled: Option<Settle>,
}

impl Home {
    /// A guest that keeps what it writes in memory, above this image.
    pub(crate) fn new(image: Option<PathBuf>) -> Self {
        Self { image, settled: None }
    }

    /// Whether that is where it is already.
    pub(crate) fn is_on(&self, request: &Settle) -> bool {
        self.settled.as_ref() == Some(request)
    }

    /// Moves onto the disk. The caller has made sure that no program runs.
    pub(crate) fn settle(&mut self, request: &Settle, nameplate: &mut Nameplate) -> Result<(), SettleError> {
        match &self.settled {
            Some(before) if before == request => {}
            Some(before) => return Err(SettleError::Elsewhere(before.device.clone())),
            None => {
                self.move_to(request)?;
                self.settled = Some(request.clone());
            }
        }
        nameplate.move_to(Path::new("/etc")).map_err(SettleError::Identity)?;
        // Order matters: who the machine is may need what was given up to get here.
        Room::on(DISK_PLACE).keep();
        Ok(())
    }

    fn move_to(&self, request: &Settle) -> Result<(), SettleError> {
        let device = device(&request.device)?;
        let image = self.image.as_deref().ok_or(SettleError::NoImage)?;
        wait_for_size(request)?;
        let carried = Carried::list().map_err(SettleError::Mounts)?;
        let staged = stage(device, image, &carried).and_then(|()| switch().map_err(SettleError::Switch));
        if staged.is_err() {
            take_stage_away();
        }
        staged
    }

    /// Makes the disk read-only, so that its file system is closed like that of a machine that was shut down. Nothing
    /// may be open for writing there.
    pub(crate) fn close(&self) -> Result<(), Errno> {
        if self.settled.is_none() {
            return Ok(());
        }
        mount_remount(DISK_PLACE, MountFlags::RDONLY | MountFlags::NODEV, c"")
    }
}

fn device(path: &str) -> Result<&str, SettleError> {
    let name = path.strip_prefix("/dev/").unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        return Err(SettleError::Path(path.chars().take(80).collect()));
    }
    Ok(path)
}

/// The disk of a clone's template had another size, and nothing can be read of the new one until the guest's kernel has
/// heard of it. It announces that.
fn wait_for_size(request: &Settle) -> Result<(), SettleError> {
    let Settle { device, bytes, .. } = request;
    let failed = |source| SettleError::Wait(WaitError::Poll { what: "the disk", source });
    let uevents = Uevents::listen().map_err(failed)?;
    let fits = || size_of(device).is_ok_and(|size| size == *bytes).then_some(());
    match uevents.wait_for("the disk", DISK_LIMIT, fits) {
        Ok(()) => Ok(()),
        Err(WaitError::Late { .. }) => Err(match size_of(device) {
            Ok(found) => SettleError::Size { device: device.clone(), found, expected: *bytes },
            Err(errno) => SettleError::Device(device.clone(), errno),
        }),
        Err(error) => Err(SettleError::Wait(error)),
    }
}

/// The size of a device. Opened and closed for it: with the last descriptor goes whatever the kernel remembers of a disk
/// that was there before, of which a clone's memory may still hold something.
fn size_of(device: &str) -> Result<u64, Errno> {
    let opened = rustix::fs::open(device, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::fs::seek(&opened, SeekFrom::End(0))
}

fn stage(device: &str, image: &Path, carried: &Carried) -> Result<(), SettleError> {
    for directory in [STAGE, LOWER, DISK, NEW_ROOT] {
        make(directory, 0o700)?;
    }
    mount_image(image, Path::new(LOWER)).map_err(SettleError::Image)?;
    mount(device, DISK, "ext4", MountFlags::NODEV, DISK_OPTIONS)
        .map_err(|source| SettleError::Disk(device.to_owned(), source))?;
    for directory in ["/.outlast-stage/disk/files", "/.outlast-stage/disk/work"] {
        make(directory, 0o755)?;
    }
    Room::on(DISK)
        .or_give(|| mount("overlay", NEW_ROOT, "overlay", MountFlags::NODEV, LAYERS))
        .map_err(SettleError::Overlay)?;
    // Order matters: /run is carried with what is mounted in it.
    show_disk().map_err(|source| SettleError::Carry(PathBuf::from(DISK_PLACE), source))?;
    carried.show_in(Path::new(NEW_ROOT))
}

/// Shows the disk in /run, which both roots share.
fn show_disk() -> Result<(), Errno> {
    for (path, mode) in [("/run/outlast", 0o700), (DISK_PLACE, 0o700)] {
        match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(mode)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    mount_bind(DISK, DISK_PLACE)
}

fn make(directory: &'static str, mode: u32) -> Result<(), SettleError> {
    match rustix::fs::mkdirat(CWD, directory, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(source) => Err(SettleError::Directory(directory, source)),
    }
}

/// The old root ends up on top of the new one (pivot_root(2), last example) and is let go of there; whoever lived in the
/// old one, the kernel moves into the new one.
fn switch() -> Result<(), Errno> {
    rustix::process::chdir(NEW_ROOT)?;
    rustix::process::pivot_root(".", ".").inspect_err(|_| {
        // Back to where everything else still is. Nothing to be told: "/" is there.
        let _ = rustix::process::chdir("/");
    })?;
    if let Err(errno) = unmount(".", UnmountFlags::DETACH) {
        console::say(&format!("let go of the old root: {errno}"));
    }
    rustix::process::chdir("/")
}

/// Undoes what was staged, however far that came. What is not there needs no undoing.
fn take_stage_away() {
    for place in [DISK_PLACE, NEW_ROOT, DISK, LOWER] {
        let _ = unmount(place, UnmountFlags::DETACH);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(device: &str, bytes: u64) -> Settle {
        Settle { device: device.to_owned(), bytes, ..Settle::default() }
    }

    fn settle(home: &mut Home, request: &Settle) -> SettleError {
        let etc = tempfile::tempdir().unwrap();
        let mut nameplate = Nameplate::put_up(etc.path()).unwrap();
        home.settle(request, &mut nameplate).unwrap_err()
    }

    #[test]
    fn only_a_device_is_settled_on() {
        for bad in
            ["", "/dev/", "vdb", "/dev/../etc/passwd", "/dev/a/b", "/dev/a,upperdir=/x", &"/".repeat(99)]
        {
            let error = settle(&mut Home::new(Some("/dev/vda".into())), &request(bad, 1));
            assert!(matches!(error, SettleError::Path(_)), "{bad}: {error:?}");
            assert_eq!(error.errno(), Errno::INVAL.raw_os_error());
        }
    }

    #[test]
    fn a_guest_without_an_image_stays_in_its_initramfs() {
        let error = settle(&mut Home::new(None), &request("/dev/vdb", 1));
        assert!(matches!(error, SettleError::NoImage), "{error:?}");
    }

    #[test]
    fn a_guest_that_has_settled_is_not_moved_to_another_disk_or_size() {
        let mut home = Home { image: None, settled: Some(request("/dev/vdb", 10)) };
        for other in [request("/dev/vdc", 10), request("/dev/vdb", 11)] {
            let error = settle(&mut home, &other);
            assert!(matches!(&error, SettleError::Elsewhere(device) if device == "/dev/vdb"), "{error:?}");
            assert_eq!(error.errno(), Errno::BUSY.raw_os_error());
        }
    }

    #[test]
    fn a_device_has_the_size_at_which_it_ends() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(12345).unwrap();
        assert_eq!(size_of(file.path().to_str().unwrap()), Ok(12345));
        assert_eq!(size_of("/nonexistent"), Err(Errno::NOENT));
    }

    #[test]
    fn a_guest_that_has_no_disk_has_nothing_to_close() {
        assert_eq!(Home::new(None).close(), Ok(()));
    }
}
