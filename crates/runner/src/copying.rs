//! A disk that is being copied beside the event loop, which a slow disk must not stop.
//!
//! A copy that is not wanted any more is told so and waited for: only then is what it left all that it will leave.

use crate::boot::chain;
use outlast_machine::disk::{self, Copied, DiskError};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::{JoinError, JoinHandle};

/// A copy on its way. Dropped, it is given up, a moment later.
#[derive(Debug)]
pub(crate) struct Copying {
    give_up: Arc<AtomicBool>,
    work: JoinHandle<Result<Copied, DiskError>>,
}

impl Copying {
    /// Begins to copy; with `sync`, the copy is done when it is on the disk.
    pub(crate) fn begin(from: PathBuf, to: PathBuf, sync: bool) -> Self {
        let give_up = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&give_up);
        let work = tokio::task::spawn_blocking(move || {
            let copied = disk::copy(&from, &to, &asked)?;
            if sync {
                disk::sync(&to)?;
            }
            Ok(copied)
        });
        Self { give_up, work }
    }

    /// Waits until it is done. Cancelling that changes nothing about the copy; when it has ended it is not asked again.
    pub(crate) async fn done(&mut self) -> Result<Copied, String> {
        told((&mut self.work).await)
    }

    /// Gives it up and waits until nothing of it goes on.
    pub(crate) async fn abandon(mut self) {
        self.give_up.store(true, Ordering::Relaxed);
        if !self.work.is_finished() {
            let _ = (&mut self.work).await;
        }
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        self.give_up.store(true, Ordering::Relaxed);
    }
}

fn told(ended: Result<Result<Copied, DiskError>, JoinError>) -> Result<Copied, String> {
    match ended {
        Ok(copied) => copied.map_err(|error| chain(&error)),
        Err(_) => Err("the thread that copied the disk panicked".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_copy_is_done_or_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        std::fs::write(at("from"), vec![7; 9 << 20]).unwrap();
        let mut copying = Copying::begin(at("from"), at("to"), true);
        assert_eq!(copying.done().await.unwrap().bytes, 9 << 20);
        // What is done stays, whoever gives it up.
        copying.abandon().await;
        assert!(at("to").exists());
        let told = Copying::begin(at("nothing"), at("other"), false).done().await.unwrap_err();
        assert!(told.ends_with("is not there") && !at("other").exists(), "{told}");
        let copying = Copying::begin(at("from"), at("given-up"), false);
        copying.abandon().await;
        // Either it was quicker, or nothing is left; in neither case does it go on.
        let length = std::fs::metadata(at("given-up")).map(|found| found.len());
        assert!(!length.is_ok_and(|length| length != 9 << 20));
    }
}
