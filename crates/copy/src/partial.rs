//! The directory in which a copy lies until it is whole: beside its destination, nobody else's, and gone afterwards.
//!
//! Whoever fills it holds a lock on it, which the kernel takes back however its holder dies. Whoever copies to the same
//! place later removes those that nobody holds.

use crate::error::{CopyError, at_destination};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, chmodat, flock, fstat, mkdirat, openat, statat,
    unlinkat,
};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What the names of such directories begin with.
const PREFIX: &[u8] = b".outlast-copy-";
/// Another process may remove one between its making and its lock; that it does so again and again is no accident.
const TRIES: u32 = 8;

/// A directory of our own. Dropped, it is removed with all that is in it.
#[derive(Debug)]
pub(crate) struct Partial {
    beside: OwnedFd,
    name: CString,
    directory: OwnedFd,
    kept: bool,
}

impl Partial {
    /// Makes one in the directory `beside`, whose path is for errors.
    pub(crate) fn create(beside: BorrowedFd<'_>, path: &Path) -> Result<Self, CopyError> {
        let failed = at_destination("write in", path);
        let beside = rustix::io::fcntl_dupfd_cloexec(beside, 0).map_err(at_destination("open", path))?;
        sweep(beside.as_fd());
        let lock = |directory: BorrowedFd<'_>| flock(directory, FlockOperation::NonBlockingLockExclusive);
        let made = (0..TRIES).find_map(|attempt| match make(beside.as_fd(), attempt, lock) {
            Ok(Some((name, directory))) => Some(Ok((name, directory))),
            Ok(None) => None,
            Err(errno) => Some(Err(errno)),
        });
        match made.unwrap_or(Err(Errno::EXIST)) {
            Ok((name, directory)) => Ok(Self { beside, name, directory, kept: false }),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// The directory.
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Its name beside the destination.
    pub(crate) fn name(&self) -> &CStr {
        &self.name
    }

    /// It has another name now: there is nothing to remove any more.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed now is removed by whoever copies here next.
            let _ = remove(self.beside.as_fd(), &self.name);
        }
    }
}

/// `None` when somebody took it for left behind, or the name is taken.
fn make(
    beside: BorrowedFd<'_>,
    attempt: u32,
    lock: impl FnOnce(BorrowedFd<'_>) -> Result<(), Errno>,
) -> Result<Option<(CString, OwnedFd)>, Errno> {
    let name = name(attempt);
    match mkdirat(beside, &name, Mode::RWXU) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(None),
        Err(errno) => return Err(errno),
    }
    match hold(beside, &name, lock) {
        Ok(directory) => Ok(directory.map(|directory| (name, directory))),
        // Without a lock of ours it is anybody's: it would be swept while it is filled.
        Err(errno) => {
            let _ = unlinkat(beside, &name, AtFlags::REMOVEDIR);
            Err(errno)
        }
    }
}

/// `None` when somebody else holds it, or has removed it. A file system that knows no locks is no such somebody.
fn hold(
    beside: BorrowedFd<'_>,
    name: &CStr,
    lock: impl FnOnce(BorrowedFd<'_>) -> Result<(), Errno>,
) -> Result<Option<OwnedFd>, Errno> {
    let directory = match open_directory(beside, name) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    match lock(directory.as_fd()) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(None),
        Err(errno) => return Err(errno),
    }
    let there = statat(beside, name, AtFlags::SYMLINK_NOFOLLOW).ok();
    let ours = fstat(&directory)?;
    let same = there.is_some_and(|there| (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino));
    Ok(same.then_some(directory))
}

/// Its own among those of all processes that live now: whether one that is dead had it, its lock tells.
fn name(attempt: u32) -> CString {
    let pid = rustix::process::getpid().as_raw_nonzero();
    let since = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let text = format!("{pid}-{}{:09}-{attempt}", since.tv_sec, since.tv_nsec);
    CString::new([PREFIX, text.as_bytes()].concat()).unwrap_or_default()
}

/// Removes those of ours that nobody holds. What cannot be looked at or removed stays.
fn sweep(beside: BorrowedFd<'_>) {
    let Ok(entries) = Dir::read_from(beside) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_bytes().starts_with(PREFIX) {
            let _ = sweep_one(beside, entry.file_name());
        }
    }
}

fn sweep_one(beside: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let directory = open_directory(beside, name)?;
    if fstat(&directory)?.st_uid != rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
    remove(beside, name)
}

pub(crate) fn open_directory(beside: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(beside, name, flags, Mode::empty())
}

/// Removes a directory and all that is in it, following nothing. One level at a time is open: a guest may have made as
/// many of them as a copy may have.
fn remove(beside: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let mut path = vec![(open_for_removal(beside, name)?, name.to_owned())];
    while let Some((directory, _)) = path.last() {
        if let Some((child, name)) = empty_files(directory.as_fd())? {
            path.push((child, name));
            continue;
        }
        let (_, name) = path.pop().unwrap_or_else(|| unreachable!("there was a last one"));
        let above = path.last().map_or(beside, |(directory, _)| directory.as_fd());
        unlinkat(above, &name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

/// Removes everything that is no directory; gives back a directory that is left.
fn empty_files(directory: BorrowedFd<'_>) -> Result<Option<(OwnedFd, CString)>, Errno> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let status = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(status.st_mode) == FileType::Directory {
            return Ok(Some((open_for_removal(directory, name)?, name.to_owned())));
        }
        unlinkat(directory, name, AtFlags::empty())?;
    }
    Ok(None)
}

/// A directory may have got a mode under which not even its owner may empty it.
fn open_for_removal(beside: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let directory = match open_directory(beside, name) {
        Err(Errno::ACCESS) => {
            chmodat(beside, name, Mode::RWXU, AtFlags::empty())?;
            return open_directory(beside, name);
        }
        opened => opened?,
    };
    // Not allowed is told by what comes next.
    let _ = rustix::fs::fchmod(&directory, Mode::RWXU);
    Ok(directory)
}

/// The path of a name in a directory, for errors.
pub(crate) fn joined(path: &Path, name: &CStr) -> PathBuf {
    path.join(std::ffi::OsStr::from_bytes(name.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn listing(path: &Path) -> usize {
        fs::read_dir(path).unwrap().count()
    }

    #[test]
    fn one_that_is_dropped_is_gone_and_one_that_nobody_holds_is_swept() {
        let top = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "kept").unwrap();
        let beside = fs::File::open(top.path()).unwrap();
        let left = top.path().join(".outlast-copy-1-1");
        fs::create_dir_all(left.join("a/b")).unwrap();
        fs::write(left.join("a/file"), "x").unwrap();
        symlink(outside.path(), left.join("a/link")).unwrap();
        let living = Partial::create(beside.as_fd(), top.path()).unwrap();
        assert!(!left.exists() && listing(top.path()) == 1, "nobody held it");
        assert_eq!(fs::read_to_string(outside.path().join("kept")).unwrap(), "kept");
        let other = Partial::create(beside.as_fd(), top.path()).unwrap();
        assert_eq!(listing(top.path()), 2, "what is held stays");
        drop(other);
        drop(living);
        assert_eq!(listing(top.path()), 0);
    }

    #[test]
    fn a_file_system_without_locks_is_said_and_nothing_is_left() {
        let top = tempfile::tempdir().unwrap();
        let beside = fs::File::open(top.path()).unwrap();
        for errno in [Errno::NOLCK, Errno::NOSYS, Errno::OPNOTSUPP] {
            assert_eq!(make(beside.as_fd(), 0, |_| Err(errno)).unwrap_err(), errno);
        }
        assert_eq!(listing(top.path()), 0);
        assert!(make(beside.as_fd(), 0, |_| Err(Errno::WOULDBLOCK)).unwrap().is_none(), "somebody's");
    }
}
