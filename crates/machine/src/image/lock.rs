//! The library's locks: files and directories, opened for locking and for nothing else.
//!
//! A build lends its locks to the programs it runs, which keeps a scratch directory locked until the last of them is
//! gone. What is locked, and why, is decided in [`super::shelf`]; how is [`crate::lock`]'s.

use super::error::LibraryError;
use crate::lock;
pub(crate) use crate::lock::{Hold, try_lock};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// The mode of lock files: who can open one can hold it for good.
pub(crate) const LOCKED: u32 = 0o600;

/// Opens (and makes, when `path` is a file that is not there) the lock file. It is never removed: two processes must
/// not come to hold locks on two files of one name.
pub(crate) fn open_lock_file(path: &Path) -> Result<File, LibraryError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::from_raw_mode(LOCKED));
    opened.map(File::from).map_err(LibraryError::sys("open the lock", path))
}

/// Opens a directory for locking.
pub(crate) fn open_directory(path: &Path) -> rustix::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

/// Takes the lock within `deadline`.
pub(crate) fn lock(file: File, hold: Hold, path: &Path, deadline: Duration) -> Result<File, LibraryError> {
    lock::lock(file, hold, deadline)
        .map_err(LibraryError::io("lock", path))?
        .ok_or_else(|| LibraryError::LockTimeout { path: path.to_owned(), seconds: deadline.as_secs() })
}
