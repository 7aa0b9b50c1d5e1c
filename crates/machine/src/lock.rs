//! Advisory locks with a deadline.
//!
//! A lock lives as long as its open file description does: it cannot outlive its holder, however that dies, and whoever
//! inherits the descriptor shares it. What is locked, under which name, and what a lock guards is the callers' business.

use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, retry_on_intr};
use std::fs::File;
use std::io;
use std::sync::mpsc;
use std::time::Duration;

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Together with other shared holders.
    Shared,
    /// Alone.
    Exclusive,
}

impl Hold {
    const fn operation(self, waits: bool) -> FlockOperation {
        match (self, waits) {
            (Self::Shared, false) => FlockOperation::NonBlockingLockShared,
            (Self::Shared, true) => FlockOperation::LockShared,
            (Self::Exclusive, false) => FlockOperation::NonBlockingLockExclusive,
            (Self::Exclusive, true) => FlockOperation::LockExclusive,
        }
    }
}

/// Takes the lock if that needs no waiting; `false` when somebody else holds it.
///
/// # Errors
/// What flock(2) says.
pub fn try_lock(file: &File, hold: Hold) -> io::Result<bool> {
    match retry_on_intr(|| flock(file, hold.operation(false))) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Waits for the lock and gives the file back with it; `None` when `within` passes first.
///
/// flock(2) knows no time limit and its release cannot be waited for, so a thread blocks in it. After the deadline that
/// thread stays behind; should it get the lock after all, it drops it at once.
///
/// # Errors
/// What flock(2) says, or that no thread could be made.
pub fn lock(file: File, hold: Hold, within: Duration) -> io::Result<Option<File>> {
    if try_lock(&file, hold)? {
        return Ok(Some(file));
    }
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::Builder::new().name("lock".to_owned()).spawn(move || {
        let taken = retry_on_intr(|| flock(&file, hold.operation(true)));
        // Nobody listens after the deadline: the file, and the lock with it, is dropped here.
        _ = sender.send(taken.map(|()| file));
    })?;
    match receiver.recv_timeout(within) {
        Ok(taken) => Ok(Some(taken?)),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn open(path: &Path) -> File {
        File::options().create(true).truncate(false).write(true).open(path).unwrap()
    }

    #[test]
    fn a_waiter_gets_the_lock_when_it_is_released() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let held = lock(open(&path), Hold::Exclusive, Duration::ZERO).unwrap().unwrap();
        let waiter = {
            let file = open(&path);
            std::thread::spawn(move || lock(file, Hold::Exclusive, Duration::from_secs(60)).unwrap())
        };
        drop(held);
        assert!(waiter.join().unwrap().is_some());
    }

    #[test]
    fn a_deadline_that_passes_leaves_no_lock() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let held = lock(open(&path), Hold::Shared, Duration::ZERO).unwrap().unwrap();
        assert!(try_lock(&open(&path), Hold::Shared).unwrap());
        assert!(lock(open(&path), Hold::Exclusive, Duration::from_millis(20)).unwrap().is_none());
        drop(held);
        // The thread left behind may hold the lock for a moment; it gives it up by itself.
        assert!(lock(open(&path), Hold::Exclusive, Duration::from_secs(60)).unwrap().is_some());
    }
}
