//! The heartbeat: the host's monotonic clock, written to a file once a second.
//!
//! It holds CLOCK_BOOTTIME in nanoseconds as decimal text rather than relying on the file's time stamp:
//! a stepped wall clock must not make a healthy runner look wedged, nor a wedged one healthy.

use crate::clock;
use outlast_model::timeout;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// A heart that beats as long as the runner's event loop turns. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    beating: tokio::task::JoinHandle<()>,
}

impl Heartbeat {
    /// Writes the first beat and goes on once a second.
    pub(crate) fn start(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        beat(&file)?;
        let beating = tokio::task::spawn_local(async move {
            let mut tick = tokio::time::interval(timeout::HEARTBEAT);
            loop {
                tick.tick().await;
                if let Err(error) = beat(&file) {
                    tracing::warn!(%error, "cannot write the heartbeat");
                }
            }
        });
        Ok(Self { beating })
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.beating.abort();
    }
}

/// Twenty digits, so that a later beat covers an earlier one whole.
fn beat(file: &File) -> io::Result<()> {
    file.write_all_at(format!("{:020}\n", clock::monotonic_ns()).as_bytes(), 0)
}
