//! Advisory locks on files and directories with a deadline, held as open files.
//!
//! A lock lives as long as its open file description does, so it cannot outlive its holder, however that dies, and it
//! is shared by whoever inherits the descriptor: a build lends it to the programs it runs, which keeps a scratch
//! directory locked until the last of them is gone. What is locked, and why, is decided in [`super::shelf`].

use super::error::LibraryError;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Together with other shared holders.
    Shared,
    /// Alone.
    Exclusive,
}

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

/// Takes the lock if that needs no waiting.
pub(crate) fn try_lock(file: &File, hold: Hold) -> rustix::io::Result<bool> {
    let operation = match hold {
        Hold::Shared => FlockOperation::NonBlockingLockShared,
        Hold::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    match rustix::fs::flock(file, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Takes the lock within `deadline`.
///
/// flock(2) knows no time limit and its release cannot be waited for, so a thread blocks in it. When the deadline
/// passes that thread stays behind; should it get the lock after all, it drops it at once.
pub(crate) fn lock(file: File, hold: Hold, path: &Path, deadline: Duration) -> Result<File, LibraryError> {
    let failed = LibraryError::sys("lock", path);
    if try_lock(&file, hold).map_err(failed)? {
        return Ok(file);
    }
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let operation = match hold {
            Hold::Shared => FlockOperation::LockShared,
            Hold::Exclusive => FlockOperation::LockExclusive,
        };
        let answer = rustix::io::retry_on_intr(|| rustix::fs::flock(&file, operation)).map(|()| file);
        // Nobody listens any more after the deadline: the file, and the lock with it, is dropped here.
        _ = sender.send(answer);
    });
    match receiver.recv_timeout(deadline) {
        Ok(answer) => answer.map_err(LibraryError::sys("lock", path)),
        Err(_) => Err(LibraryError::LockTimeout { path: path.to_owned(), seconds: deadline.as_secs() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_gets_the_lock_when_it_is_released() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let held = lock(open_lock_file(&path).unwrap(), Hold::Exclusive, &path, Duration::ZERO).unwrap();
        let waiter = {
            let path = path.clone();
            let file = open_lock_file(&path).unwrap();
            std::thread::spawn(move || lock(file, Hold::Exclusive, &path, Duration::from_secs(60)))
        };
        drop(held);
        waiter.join().unwrap().unwrap();
    }

    #[test]
    fn a_deadline_that_passes_is_an_error_and_leaves_no_lock() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let held = lock(open_lock_file(&path).unwrap(), Hold::Shared, &path, Duration::ZERO).unwrap();
        let late = lock(open_lock_file(&path).unwrap(), Hold::Exclusive, &path, Duration::from_millis(20));
        assert!(matches!(late, Err(LibraryError::LockTimeout { .. })));
        drop(held);
        // The thread left behind may hold the lock for a moment; it gives it up by itself.
        lock(open_lock_file(&path).unwrap(), Hold::Exclusive, &path, Duration::from_secs(60)).unwrap();
    }
}
