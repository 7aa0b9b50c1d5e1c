//! What a destination means, looked at before anything comes.
//!
//! ```text
//!   a directory is there        the copy comes into it, under its own name
//!   a file is there             a file replaces it
//!   nothing is there            the copy gets this name; the directory above must be there
//! ```

use crate::error::{CopyError, at_destination};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, openat, stat, statat};
use rustix::io::Errno;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where a copy goes.
#[derive(Debug)]
pub(crate) enum Place {
    /// Into a directory that is there.
    Into { directory: OwnedFd, path: PathBuf },
    /// To a name in a directory.
    Named {
        parent: OwnedFd,
        name: CString,
        path: PathBuf,
        /// Whether something that is no directory has this name: it is replaced. A link there is not followed.
        replaces: bool,
        /// Whether it was written with a slash at its end, and so is a directory.
        directory: bool,
    },
}

impl Place {
    /// Looks at a destination. Links on the way to it are followed: whoever named it meant what they lead to.
    pub(crate) fn look(path: &Path) -> Result<Self, CopyError> {
        let bytes = path.as_os_str().as_bytes();
        let as_directory = bytes.ends_with(b"/") || crate::is_contents(path);
        match stat(path) {
            Ok(status) if FileType::from_raw_mode(status.st_mode) == FileType::Directory => {
                Ok(Self::Into { directory: open(path)?, path: path.to_owned() })
            }
            Ok(_) | Err(Errno::NOTDIR) if as_directory => {
                Err(CopyError::NotADirectory { path: path.to_owned() })
            }
            Ok(_) | Err(Errno::NOENT | Errno::LOOP) => Self::named(path, as_directory),
            Err(errno) => Err(at_destination("look at", path)(errno)),
        }
    }

    fn named(path: &Path, directory: bool) -> Result<Self, CopyError> {
        let nowhere = || CopyError::NoDestination { path: path.to_owned() };
        let name = crate::name_of(path).ok_or_else(nowhere)?;
        let above = match path.parent() {
            Some(above) if !above.as_os_str().is_empty() => above,
            Some(_) | None => Path::new("."),
        };
        let name = CString::new(name.as_bytes()).map_err(|_| nowhere())?;
        let parent = open(above)?;
        let found = statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW);
        let replaces = match found {
            Ok(_) => true,
            Err(Errno::NOENT) => false,
            Err(errno) => return Err(at_destination("look at", path)(errno)),
        };
        Ok(Self::Named { parent, name, path: path.to_owned(), replaces, directory })
    }

    /// The directory on whose file system the copy is to lie.
    pub(crate) fn beside(&self) -> BorrowedFd<'_> {
        match self {
            Self::Into { directory, .. } => directory.as_fd(),
            Self::Named { parent, .. } => parent.as_fd(),
        }
    }

    /// As it was written.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Into { path, .. } | Self::Named { path, .. } => path,
        }
    }
}

fn open(path: &Path) -> Result<OwnedFd, CopyError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT => CopyError::NoDestination { path: path.to_owned() },
        Errno::NOTDIR => CopyError::NotADirectory { path: path.to_owned() },
        errno => at_destination("open", path)(errno),
    })
}
