//! Making directories, and finding the place where a file is to be put. Paths come from the host, but what
//! lies along them may have been laid there by the workload, so no symbolic link is ever followed.

use crate::refusal::Reason;
use outlast_wire::guest::MakeDirectory;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use thiserror::Error;

/// Longest path, in bytes (PATH_MAX without its NUL).
const MAX_PATH: usize = 4095;

/// Permission bits of directories that are made on the way.
const PARENT_MODE: u32 = 0o755;

/// A place could not be reached or made.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum PlaceError {
    /// Not an absolute path of plain names.
    #[error("path {0:?} is not absolute and plain")]
    Path(String),
    /// The id that means "no change" to the kernel.
    #[error("{0} is no user or group")]
    Id(u32),
    /// A directory could not be entered or made; a symbolic link in its place is ENOTDIR.
    #[error("directory {0:?}")]
    Directory(String, #[source] Errno),
}

impl Reason for PlaceError {
    fn errno(&self) -> i32 {
        match self {
            Self::Path(_) | Self::Id(_) => Errno::INVAL.raw_os_error(),
            Self::Directory(_, source) => source.raw_os_error(),
        }
    }
}

/// Whose something is to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    uid: Uid,
    gid: Gid,
}

impl Owner {
    /// Checks the ids.
    pub(super) fn new(uid: u32, gid: u32) -> Result<Self, PlaceError> {
        match [uid, gid].into_iter().find(|id| *id == u32::MAX) {
            Some(id) => Err(PlaceError::Id(id)),
            None => Ok(Self { uid: Uid::from_raw(uid), gid: Gid::from_raw(gid) }),
        }
    }

    /// Makes an open file or directory this owner's, with these permission bits. Order matters: changing the
    /// owner clears set-id bits.
    pub(super) fn own(self, fd: impl AsFd, mode: Mode) -> Result<(), Errno> {
        rustix::fs::fchown(fd.as_fd(), Some(self.uid), Some(self.gid))?;
        rustix::fs::fchmod(fd, mode)
    }
}

/// Makes the directory and its missing parents. The last one gets mode and owner even when it was there.
pub(crate) fn make_directory(request: &MakeDirectory) -> Result<(), PlaceError> {
    let owner = Owner::new(request.uid, request.gid)?;
    let names = names(&request.path)?;
    let directory = walk(&names, owner)?;
    owner
        .own(&directory, mode(request.mode))
        .map_err(|source| PlaceError::Directory(request.path.clone(), source))
}

/// The directory in which the last name of `path` lies, made where it is missing, and that name.
pub(super) fn parent_of(path: &str, owner: Owner) -> Result<(OwnedFd, &str), PlaceError> {
    let names = names(path)?;
    let (name, parents) = names.split_last().ok_or_else(|| PlaceError::Path(path.to_owned()))?;
    Ok((walk(parents, owner)?, name))
}

/// The permission bits among what the host sent.
pub(super) fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(bits & 0o7777)
}

fn names(path: &str) -> Result<Vec<&str>, PlaceError> {
    let wrong = || PlaceError::Path(path.to_owned());
    let inner = path.strip_prefix('/').ok_or_else(wrong)?;
    let names: Vec<&str> = inner.split('/').filter(|name| !name.is_empty()).collect();
    let plain = |name: &&str| *name != "." && *name != ".." && !name.contains('\0');
    if path.len() > MAX_PATH || !names.iter().all(plain) {
        return Err(wrong());
    }
    Ok(names)
}

/// Goes down from the root name by name, making what is missing.
fn walk(names: &[&str], owner: Owner) -> Result<OwnedFd, PlaceError> {
    let error = |name: &str| {
        let name = name.to_owned();
        move |source| PlaceError::Directory(name, source)
    };
    let root = rustix::fs::open(c"/", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let mut here = root.map_err(error("/"))?;
    for name in names {
        here = enter(here.as_fd(), name, owner).map_err(error(name))?;
    }
    Ok(here)
}

fn enter(here: BorrowedFd<'_>, name: &str, owner: Owner) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(here, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => {}
        entered => return entered,
    }
    match rustix::fs::mkdirat(here, name, Mode::from_raw_mode(PARENT_MODE)) {
        Ok(()) => {
            let made = rustix::fs::openat(here, name, flags, Mode::empty())?;
            owner.own(&made, Mode::from_raw_mode(PARENT_MODE))?;
            Ok(made)
        }
        // Somebody was faster; theirs is as good.
        Err(Errno::EXIST) => rustix::fs::openat(here, name, flags, Mode::empty()),
        Err(errno) => Err(errno),
    }
}

/// Removes a file that was not completed.
pub(super) fn forget(directory: &OwnedFd, name: &str) {
    // What cannot be removed stays; the refusal that follows says that the file is not whole.
    let _ = rustix::fs::unlinkat(directory, name, AtFlags::empty());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn me() -> (u32, u32) {
        (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
    }

    fn directory(path: &std::path::Path, mode: u32) -> MakeDirectory {
        let (uid, gid) = me();
        MakeDirectory { path: path.to_str().unwrap().to_owned(), mode, uid, gid }
    }

    #[test]
    fn missing_parents_are_made_and_the_last_gets_its_mode() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b/c");
        make_directory(&directory(&deep, 0o700)).unwrap();
        make_directory(&directory(&deep, 0o750)).unwrap();
        assert_eq!(deep.metadata().unwrap().permissions().mode() & 0o7777, 0o750);
        assert_eq!(root.path().join("a").metadata().unwrap().permissions().mode() & 0o7777, PARENT_MODE);
    }

    #[test]
    fn a_link_on_the_way_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), root.path().join("link")).unwrap();
        let refused = make_directory(&directory(&root.path().join("link/new"), 0o755)).unwrap_err();
        assert_eq!(refused, PlaceError::Directory("link".to_owned(), Errno::NOTDIR));
        assert!(!elsewhere.path().join("new").exists());
    }

    #[test]
    fn only_absolute_plain_paths_are_paths() {
        assert_eq!(names("/a//b/").unwrap(), ["a", "b"]);
        for bad in ["", "a", "a/b", "/a/../b", "/./a", "/a\0b", &format!("/{}", "a".repeat(5000))] {
            assert!(matches!(names(bad), Err(PlaceError::Path(_))), "{bad:?}");
        }
    }
}
