//! Locks on files, with a deadline. Held as open files: they end with their holder, however that dies.

use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, retry_on_intr};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

/// A lock that nobody else holds. Given up when dropped; its file stays, so that two processes never hold
/// locks on two files of one name.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock if that needs no waiting; `None` when somebody else holds it.
    pub(crate) fn try_take(path: &Path) -> io::Result<Option<Self>> {
        let file = open(path)?;
        match retry_on_intr(|| flock(&file, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits for the lock; `None` when `within` passes first.
    ///
    /// flock(2) knows no time limit, so a thread blocks in it. After the deadline it stays behind; should it
    /// get the lock after all, it drops it at once.
    pub(crate) fn take(path: &Path, within: Duration) -> io::Result<Option<Self>> {
        if let Some(lock) = Self::try_take(path)? {
            return Ok(Some(lock));
        }
        let file = open(path)?;
        let (sender, receiver) = mpsc::sync_channel(1);
        std::thread::Builder::new().name("lock".to_owned()).spawn(move || {
            let taken = retry_on_intr(|| flock(&file, FlockOperation::LockExclusive));
            // Nobody listens after the deadline: the file, and the lock with it, is dropped here.
            let _ = sender.send(taken.map(|()| Self { _file: file }));
        })?;
        match receiver.recv_timeout(within) {
            Ok(taken) => Ok(Some(taken?)),
            Err(_) => Ok(None),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_and_others_wait_or_give_up() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("lock");
        let held = Lock::try_take(&path).unwrap().unwrap();
        assert!(Lock::try_take(&path).unwrap().is_none());
        assert!(Lock::take(&path, Duration::from_millis(5)).unwrap().is_none());
        let waiter = {
            let path = path.clone();
            std::thread::spawn(move || Lock::take(&path, Duration::from_secs(60)).unwrap().is_some())
        };
        drop(held);
        assert!(waiter.join().unwrap());
    }
}
