//! The way from the top of a tree to a directory in it, kept open: the next directory is mostly near the last one. No
//! link is followed on it.

use crate::partial::open_directory;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, mkdirat};
use rustix::io::Errno;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// At most as many descriptors as a name has components.
pub(crate) struct Trail<'a> {
    root: BorrowedFd<'a>,
    open: Vec<(OsString, OwnedFd)>,
}

impl<'a> Trail<'a> {
    pub(crate) fn new(root: BorrowedFd<'a>) -> Self {
        Self { root, open: Vec::new() }
    }

    /// Goes to a directory, making what is missing on the way.
    pub(crate) fn reach<'n>(&mut self, way: impl Iterator<Item = &'n OsStr>) -> Result<OwnedFd, Errno> {
        let mut depth = 0;
        for component in way {
            let known = self.open.get(depth).is_some_and(|(name, _)| name == component);
            if !known {
                self.open.truncate(depth);
                let deeper = self.deeper(component)?;
                self.open.push((component.to_owned(), deeper));
            }
            depth += 1;
        }
        self.open.truncate(depth);
        rustix::io::fcntl_dupfd_cloexec(self.end(), 0)
    }

    fn end(&self) -> BorrowedFd<'_> {
        self.open.last().map_or(self.root, |(_, directory)| directory.as_fd())
    }

    fn deeper(&self, component: &OsStr) -> Result<OwnedFd, Errno> {
        let component = CString::new(component.as_bytes()).map_err(|_| Errno::INVAL)?;
        match mkdirat(self.end(), &component, Mode::RWXU) {
            // If it is no directory, it cannot be opened as one.
            Ok(()) | Err(Errno::EXIST) => open_directory(self.end(), &component),
            Err(errno) => Err(errno),
        }
    }
}
