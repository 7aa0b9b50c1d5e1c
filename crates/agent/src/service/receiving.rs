//! A file on its way in: made at once, filled piece by piece against credit, removed again when it fails or
//! is abandoned half-way.

use super::place::{Owner, PlaceError, forget, mode, parent_of};
use crate::program::OverCredit;
use crate::refusal::Reason;
use outlast_wire::guest::{Credit, FileData, INITIAL_CREDIT, PutFile};
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use thiserror::Error;

/// A file was not put.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum PutError {
    /// Its directory.
    #[error("place")]
    Place(#[from] PlaceError),
    /// It cannot be made or opened; a symbolic link in its place is ELOOP.
    #[error("open {0:?}")]
    Open(String, #[source] Errno),
    /// Something else than a regular file has its name.
    #[error("{0:?} is not a regular file")]
    NotAFile(String),
    /// Its bytes cannot be written.
    #[error("write {0:?}")]
    Write(String, #[source] Errno),
}

impl Reason for PutError {
    fn errno(&self) -> i32 {
        match self {
            Self::Place(error) => error.errno(),
            Self::NotAFile(_) => Errno::EXIST.raw_os_error(),
            Self::Open(_, source) | Self::Write(_, source) => source.raw_os_error(),
        }
    }
}

/// A file of which the last piece has not come yet.
pub(crate) struct Receiving {
    file: OwnedFd,
    directory: OwnedFd,
    name: String,
    left: u64,
    complete: bool,
}

impl Receiving {
    /// Makes the file (or empties the one that is there) and gives it its owner and mode.
    pub(crate) fn begin(request: &PutFile) -> Result<Self, PutError> {
        let owner = Owner::new(request.uid, request.gid)?;
        let (directory, name) = parent_of(&request.path, owner)?;
        let name = name.to_owned();
        // NONBLOCK: a FIFO that the workload laid here must not hold us up.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&directory, name.as_str(), flags, Mode::from_raw_mode(0o600))
            .map_err(|source| PutError::Open(request.path.clone(), source))?;
        let failed = |source| PutError::Open(request.path.clone(), source);
        let status = rustix::fs::fstat(&file).map_err(failed)?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Err(PutError::NotAFile(request.path.clone()));
        }
        let begun = Self { file, directory, name, left: INITIAL_CREDIT.into(), complete: false };
        if status.st_size > 0 {
            rustix::fs::ftruncate(&begun.file, 0).map_err(failed)?;
        }
        owner.own(&begun.file, mode(request.mode)).map_err(failed)?;
        Ok(begun)
    }

    /// Writes a piece; the credit is for as many bytes again.
    ///
    /// # Errors
    /// Outer: more bytes than there was credit for. Inner: they could not be written.
    pub(crate) fn take(&mut self, piece: &FileData) -> Result<Result<Credit, PutError>, OverCredit> {
        let length = u32::try_from(piece.data.len()).map_err(|_| OverCredit)?;
        if u64::from(length) > self.left {
            return Err(OverCredit);
        }
        let written = self.write(&piece.data);
        self.complete = piece.last && written.is_ok();
        let failed = |source| PutError::Write(self.name.clone(), source);
        Ok(written.map(|()| Credit { bytes: length }).map_err(failed))
    }

    fn write(&self, mut bytes: &[u8]) -> Result<(), Errno> {
        while !bytes.is_empty() {
            match rustix::io::write(&self.file, bytes) {
                Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if !self.complete {
            forget(&self.directory, &self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    fn request(path: &Path) -> PutFile {
        PutFile {
            path: path.to_str().unwrap().to_owned(),
            mode: 0o640,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }

    fn piece(data: &[u8], last: bool) -> FileData {
        FileData { data: data.to_vec(), last }
    }

    #[test]
    fn a_file_arrives_in_pieces_with_its_mode() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("new/file");
        let mut receiving = Receiving::begin(&request(&path)).unwrap();
        assert_eq!(receiving.take(&piece(b"hello ", false)), Ok(Ok(Credit { bytes: 6 })));
        assert_eq!(receiving.take(&piece(b"world", true)), Ok(Ok(Credit { bytes: 5 })));
        drop(receiving);
        assert_eq!(std::fs::read(&path).unwrap(), b"hello world");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o640);
    }

    #[test]
    fn an_abandoned_file_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        let mut receiving = Receiving::begin(&request(&path)).unwrap();
        receiving.take(&piece(b"half", false)).unwrap().unwrap();
        drop(receiving);
        assert!(!path.exists());
    }

    #[test]
    fn a_link_a_fifo_or_a_directory_in_its_place_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("target");
        std::fs::write(&target, "precious").unwrap();
        let link = root.path().join("link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(matches!(Receiving::begin(&request(&link)), Err(PutError::Open(_, Errno::LOOP))));
        let fifo = root.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert!(matches!(Receiving::begin(&request(&fifo)), Err(PutError::Open(_, Errno::NXIO))));
        assert!(matches!(Receiving::begin(&request(root.path())), Err(PutError::Open(_, Errno::ISDIR))));
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
    }

    #[test]
    fn bytes_beyond_the_credit_are_a_violation() {
        let root = tempfile::tempdir().unwrap();
        let mut receiving = Receiving::begin(&request(&root.path().join("file"))).unwrap();
        let too_much = vec![0; usize::try_from(INITIAL_CREDIT).unwrap() + 1];
        assert_eq!(receiving.take(&piece(&too_much, false)), Err(OverCredit));
    }
}
