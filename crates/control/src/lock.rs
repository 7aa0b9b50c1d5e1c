//! Locks on files, with a deadline. Held as open files: they end with their holder, however that dies.

use outlast_machine::lock::{self, Hold};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// A lock that nobody else holds. Given up when dropped; its file stays, unless what it guards is gone for good
/// ([`Lock::retire`]). Whoever gets a lock makes sure that its file still has its name, and asks again if not: so
/// two processes never hold locks on two files of one name.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

/// A lock file is retired under somebody who asks for it this often at most.
const ATTEMPTS: usize = 1024;

impl Lock {
    /// Takes the lock if that needs no waiting; `None` when somebody else holds it.
    pub(crate) fn try_take(path: &Path) -> io::Result<Option<Self>> {
        for _ in 0..ATTEMPTS {
            let file = open(path)?;
            if !lock::try_lock(&file, Hold::Exclusive)? {
                return Ok(None);
            }
            if is_at(&file, path) {
                return Ok(Some(Self { file }));
            }
        }
        Err(io::Error::from(io::ErrorKind::ResourceBusy))
    }

    /// Whether somebody holds the lock, without making its file.
    pub(crate) fn is_held(path: &Path) -> bool {
        let Ok(file) = File::open(path) else { return false };
        !matches!(lock::try_lock(&file, Hold::Exclusive), Ok(true))
    }

    /// Gives the lock up and removes its file: what it guards is gone.
    pub(crate) fn retire(self, path: &Path) {
        // Order matters: removed while it is held, so that nobody is robbed of it.
        if is_at(&self.file, path) {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Waits for the lock; `None` when `within` passes first.
    pub(crate) fn take(path: &Path, within: Duration) -> io::Result<Option<Self>> {
        let deadline = Instant::now() + within;
        for _ in 0..ATTEMPTS {
            let remaining = deadline.saturating_duration_since(Instant::now());
            let Some(file) = lock::lock(open(path)?, Hold::Exclusive, remaining)? else { return Ok(None) };
            if is_at(&file, path) {
                return Ok(Some(Self { file }));
            }
        }
        Err(io::Error::from(io::ErrorKind::ResourceBusy))
    }
}

/// Whether the open file is the one that has this name now.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(there)) = (file.metadata(), std::fs::symlink_metadata(path)) else { return false };
    (open.dev(), open.ino()) == (there.dev(), there.ino())
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_retired_is_never_held_twice() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("lock");
        let held = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for turn in 0..100 {
                        let lock = Lock::take(&path, Duration::from_secs(60)).unwrap().unwrap();
                        assert_eq!(held.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        held.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        if turn % 2 == 0 {
                            lock.retire(&path);
                        }
                    }
                });
            }
        });
        assert!(!Lock::is_held(&path));
    }

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
