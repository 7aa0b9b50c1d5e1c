//! Copies of disks: sharing its blocks where the file system can, otherwise with the holes that it has.
//!
//! Whoever copies sees to it that nobody writes there meanwhile.

use super::{DiskError, open_file, parent_of};
use crate::host;
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// So much is copied at once, in bytes; between two pieces a copy can be given up.
const PIECE: usize = 1 << 20;

/// What came of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// The file's length in bytes; holes count.
    pub bytes: u64,
    /// Whether it shares its blocks with what it was copied from.
    pub shared: bool,
}

/// Copies a disk's file to `to`, 0600, which must not be there. It is not synced ([`sync`]). Blocks, for as long as it
/// takes or until `give_up` is true.
///
/// # Errors
/// [`DiskError`] names what is missing, full or broken, [`DiskError::GivenUp`] that it was told to. Nothing is left at `to`
/// then, unless it was there before ([`DiskError::Exists`]).
pub fn copy(from: &Path, to: &Path, give_up: &AtomicBool) -> Result<Copied, DiskError> {
    let source = open_source(from)?;
    let status = rustix::fs::fstat(&source).map_err(|errno| io("look at", from, errno))?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Err(DiskError::Kind { path: from.to_owned() });
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = match rustix::fs::open(to, flags, Mode::RUSR | Mode::WUSR) {
        Err(Errno::EXIST) => return Err(DiskError::Exists { path: to.to_owned() }),
        opened => opened.map_err(|errno| io("make", to, errno))?,
    };
    let work = Work { from, source, to, target, give_up };
    let copied = work.copy(u64::try_from(status.st_size).unwrap_or(0));
    if copied.is_err() {
        // What cannot be removed now is found by its name.
        let _ = fs::remove_file(to);
    }
    copied
}

/// Puts a file and its name on the disk for good. Blocks, for as long as it takes.
///
/// # Errors
/// [`DiskError::Missing`], [`DiskError::Io`].
pub fn sync(path: &Path) -> Result<(), DiskError> {
    // Order matters: whole and on the disk before its name is.
    rustix::fs::fsync(open_source(path)?).map_err(|errno| io("sync", path, errno))?;
    let parent = parent_of(path);
    let directory = open_file(parent, OFlags::RDONLY | OFlags::DIRECTORY);
    rustix::fs::fsync(directory.map_err(|errno| io("open", parent, errno))?)
        .map_err(|errno| io("sync", parent, errno))
}

/// What the copy of this disk takes at most, in bytes.
///
/// # Errors
/// [`DiskError::Missing`], [`DiskError::Io`].
pub fn allocated(path: &Path) -> Result<u64, DiskError> {
    let metadata = fs::File::from(open_source(path)?).metadata();
    let failed = |source| DiskError::Io { operation: "look at", path: path.to_owned(), source };
    Ok(host::bytes_on_disk(&metadata.map_err(failed)?))
}

struct Work<'a> {
    from: &'a Path,
    source: OwnedFd,
    to: &'a Path,
    target: OwnedFd,
    give_up: &'a AtomicBool,
}

impl Work<'_> {
    fn copy(&self, bytes: u64) -> Result<Copied, DiskError> {
        self.unless_given_up()?;
        let shared = match rustix::fs::ioctl_ficlone(&self.target, &self.source) {
            Ok(()) => true,
            // Not this file system, not these two, or not for us: then the long way.
            Err(_) => false,
        };
        if !shared {
            self.check_space()?;
            rustix::fs::ftruncate(&self.target, bytes).map_err(|errno| io("extend", self.to, errno))?;
            self.copy_data(bytes)?;
        }
        Ok(Copied { bytes, shared })
    }

    fn unless_given_up(&self) -> Result<(), DiskError> {
        if self.give_up.load(Ordering::Relaxed) {
            return Err(DiskError::GivenUp { path: self.to.to_owned() });
        }
        Ok(())
    }

    fn check_space(&self) -> Result<(), DiskError> {
        let parent = parent_of(self.to);
        let (free, needed) = (host::disk_free(parent).map_err(DiskError::Host)?, allocated(self.from)?);
        if free < needed {
            return Err(DiskError::TooLittleSpace { path: parent.to_owned(), free, needed });
        }
        Ok(())
    }

    /// What is between two holes, one after the other.
    fn copy_data(&self, end: u64) -> Result<(), DiskError> {
        let mut buffer = vec![0; PIECE];
        let mut at = 0;
        while at < end {
            let data = match rustix::fs::seek(&self.source, SeekFrom::Data(at)) {
                // Nothing but a hole follows.
                Err(Errno::NXIO) => return Ok(()),
                sought => sought.map_err(|errno| io("measure", self.from, errno))?,
            };
            let hole = rustix::fs::seek(&self.source, SeekFrom::Hole(data))
                .map_err(|errno| io("measure", self.from, errno))?;
            self.copy_piecewise(data, hole.min(end), &mut buffer)?;
            at = hole;
        }
        Ok(())
    }

    fn copy_piecewise(&self, mut at: u64, end: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        while at < end {
            self.unless_given_up()?;
            let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            let piece = buffer.get_mut(..wanted).unwrap_or_default();
            let read = rustix::io::pread(&self.source, piece, at).map_err(|e| io("read", self.from, e))?;
            if read == 0 {
                return Err(io("read", self.from, Errno::IO));
            }
            let mut rest = buffer.get(..read).unwrap_or_default();
            while !rest.is_empty() {
                let written =
                    rustix::io::pwrite(&self.target, rest, at).map_err(|e| io("write", self.to, e))?;
                rest = rest.get(written..).unwrap_or_default();
                at = at.saturating_add(u64::try_from(written).unwrap_or(0));
            }
        }
        Ok(())
    }
}

fn open_source(path: &Path) -> Result<OwnedFd, DiskError> {
    match open_file(path, OFlags::RDONLY) {
        Err(Errno::NOENT) => Err(DiskError::Missing { path: path.to_owned() }),
        Err(Errno::LOOP | Errno::NXIO) => Err(DiskError::Kind { path: path.to_owned() }),
        opened => opened.map_err(|errno| io("open", path, errno)),
    }
}

fn io(operation: &'static str, path: &Path, errno: Errno) -> DiskError {
    DiskError::Io { operation, path: path.to_owned(), source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};

    static NEVER: AtomicBool = AtomicBool::new(false);

    /// Data at both ends and in the middle, holes between, and one at the end.
    fn disk(path: &Path) {
        let file = File::create(path).unwrap();
        for (at, length) in [(0, 5000), (8 << 20, (2 << 20) + 77), (40 << 20, 1)] {
            file.write_all_at(&vec![0xa5; length], at).unwrap();
        }
        file.set_len(64 << 20).unwrap();
    }

    #[test]
    fn a_copy_is_the_same_holes_included() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        disk(&from);
        let copied = copy(&from, &to, &NEVER).unwrap();
        sync(&to).unwrap();
        assert_eq!(copied.bytes, 64 << 20);
        assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap());
        let taken = fs::metadata(&to).unwrap();
        assert!(taken.blocks() * 512 < 8 << 20, "{} blocks", taken.blocks());
        assert_eq!(taken.permissions().mode() & 0o777, 0o600);
        assert!(allocated(&from).unwrap() < 8 << 20);
    }

    #[test]
    fn an_empty_file_and_one_of_holes_alone_are_copied() {
        let root = tempfile::tempdir().unwrap();
        for length in [0, 3 << 20] {
            let from = root.path().join(format!("from-{length}"));
            let to = root.path().join(format!("to-{length}"));
            File::create(&from).unwrap().set_len(length).unwrap();
            assert_eq!(copy(&from, &to, &NEVER).unwrap().bytes, length);
            assert_eq!(fs::metadata(&to).unwrap().len(), length);
        }
    }

    #[test]
    fn a_copy_that_is_given_up_or_fails_leaves_nothing_and_one_that_is_there_stays() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        assert!(matches!(sync(&to), Err(DiskError::Missing { .. })));
        let missing = copy(&from, &to, &NEVER);
        assert!(matches!(missing, Err(DiskError::Missing { .. })), "{missing:?}");
        disk(&from);
        let given_up = copy(&from, &to, &AtomicBool::new(true));
        assert!(matches!(&given_up, Err(DiskError::GivenUp { path }) if *path == to), "{given_up:?}");
        assert!(!to.exists());
        fs::write(&to, "mine").unwrap();
        assert!(matches!(copy(&from, &to, &NEVER), Err(DiskError::Exists { .. })));
        assert_eq!(fs::read(&to).unwrap(), b"mine");
    }

    #[test]
    fn what_is_no_file_is_not_copied() {
        let root = tempfile::tempdir().unwrap();
        let (link, to) = (root.path().join("link"), root.path().join("to"));
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert!(matches!(copy(&link, &to, &NEVER), Err(DiskError::Kind { .. })));
        assert!(matches!(copy(root.path(), &to, &NEVER), Err(DiskError::Kind { .. })));
        assert!(!to.exists());
    }
}
