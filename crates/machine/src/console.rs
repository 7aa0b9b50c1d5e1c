//! Keeping what a guest's console or a VMM's standard error says: always drained, never more than its cap; and typing on
//! a console.
//!
//! Whoever writes there may be hostile and must neither block nor fill a disk, so this reads for as long as
//! there is a writer and throws away what is over the cap, with one line that says so, but for the last words:
//! those of a kernel that panics say why. What the bytes mean is not known here.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::Mutex;

/// How much is read at once, in bytes. Larger than a pipe's atomic write; a console is slow.
const CHUNK: usize = 8 * 1024;

/// A log could not be opened or registered.
#[derive(Debug, Error)]
#[error("cannot keep a log at {path}")]
pub struct RecorderError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// What is kept of the end of what is over the cap, in bytes.
const LAST: usize = 4 * 1024;

/// A log with a cap.
#[derive(Debug)]
struct CappedLog {
    file: File,
    left: u64,
    note: &'static str,
    truncated: bool,
    /// The end of what was over the cap, at most twice [`LAST`] long.
    last: Vec<u8>,
}

impl CappedLog {
    fn open(path: &Path, cap: u64, note: &'static str) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        // What an earlier attempt of this incarnation wrote counts.
        let left = cap.saturating_sub(file.metadata()?.len());
        Ok(Self { file, left, note, truncated: false, last: Vec::new() })
    }

    /// Keeps what fits. A disk that is full costs the log, not the guest: the rest is dropped.
    fn append(&mut self, bytes: &[u8]) {
        let fits = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        if fits > 0 && self.file.write_all(&bytes[..fits]).is_err() {
            self.left = 0;
            return;
        }
        self.left = self.left.saturating_sub(u64::try_from(fits).unwrap_or(u64::MAX));
        if fits < bytes.len() && !self.truncated {
            self.truncated = true;
            // The note itself may go over the cap, once. Nobody can be told if it cannot be written.
            let _ = writeln!(self.file, "\n[outlast: {}; the rest was dropped]", self.note);
        }
        self.last.extend_from_slice(bytes.get(fits..).unwrap_or_default());
        if self.last.len() > 2 * LAST {
            self.last.drain(..self.last.len() - LAST);
        }
    }

    /// Adds the last words of what was over the cap, once. Nobody can be told if they cannot be written.
    fn finish(mut self) {
        if !self.last.is_empty() {
            let from = self.last.len().saturating_sub(LAST);
            let _ = writeln!(self.file, "[outlast: what came last:]");
            let _ = self.file.write_all(self.last.get(from..).unwrap_or_default());
        }
    }
}

/// Reads `source` until every writer is gone and appends up to `cap` bytes to the log at `path` (0600, made
/// if it is not there). Returns when the stream ends; dropping the future closes the source, at which a VMM's
/// writes fail.
pub async fn record(
    mut source: impl AsyncRead + Unpin,
    path: &Path,
    cap: u64,
    note: &'static str,
) -> Result<(), RecorderError> {
    let failed = |source| RecorderError { path: path.to_owned(), source };
    let mut log = CappedLog::open(path, cap, note).map_err(failed)?;
    let mut buffer = vec![0; CHUNK];
    let end = loop {
        match source.read(&mut buffer).await {
            Ok(0) => break Ok(()),
            Ok(n) => {
                log.append(&buffer[..n]);
                // Whoever writes without end must not keep everything else from its turn.
                tokio::task::yield_now().await;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A socket whose peer died with data unread says ECONNRESET: an end like any other.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break Ok(()),
            Err(error) => break Err(failed(error)),
        }
    };
    log.finish();
    end
}

/// Our end of a guest's console in the other direction. All of it shares one: the connection is whole as long as one of
/// them is held, and while it is not, nothing of the guest's words can be kept either.
#[derive(Debug, Clone)]
pub struct ConsoleKeys {
    line: Arc<Mutex<OwnedWriteHalf>>,
}

impl ConsoleKeys {
    /// Of this connection.
    pub(crate) fn new(line: OwnedWriteHalf) -> Self {
        Self { line: Arc::new(Mutex::new(line)) }
    }

    /// Types. Waits while the guest takes nothing and what lies between is full; cancelled, a part may have been typed.
    ///
    /// # Errors
    /// The VMM is gone.
    pub async fn type_in(&self, keys: &[u8]) -> io::Result<()> {
        self.line.lock().await.write_all(keys).await
    }
}

/// The last line of a log that is not empty, without control characters and of at most 300 characters: for the
/// message of an error. `None` when there is none.
pub fn last_words(path: &Path) -> Option<String> {
    let text = std::fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    let line: String = line.chars().filter(|c| !c.is_control()).take(300).collect();
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixStream;

    async fn recorded(written: Vec<Vec<u8>>, cap: u64) -> (Vec<u8>, PathBuf, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let (reader, mut writer) = std::os::unix::net::UnixStream::pair().unwrap();
        reader.set_nonblocking(true).unwrap();
        let feeder = std::thread::spawn(move || {
            for bytes in written {
                writer.write_all(&bytes).unwrap();
            }
        });
        record(UnixStream::from_std(reader).unwrap(), &path, cap, "cap reached").await.unwrap();
        feeder.join().unwrap();
        (std::fs::read(&path).unwrap(), path, directory)
    }

    #[tokio::test]
    async fn everything_is_kept_below_the_cap() {
        let (text, path, _directory) = recorded(vec![b"one\n".to_vec(), b"two\n\n".to_vec()], 100).await;
        assert_eq!(text, b"one\ntwo\n\n");
        assert_eq!(last_words(&path).as_deref(), Some("two"));
    }

    #[tokio::test]
    async fn a_flood_is_drained_and_cut_with_one_note() {
        let (text, ..) = recorded(vec![vec![b'x'; 1 << 20]; 4], 1000).await;
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with(&"x".repeat(1000)));
        assert_eq!(text.matches("cap reached").count(), 1);
        assert!(text.len() < 1100 + 2 * LAST);
    }

    #[tokio::test]
    async fn the_last_words_after_a_flood_are_kept() {
        let flood = vec![vec![b'x'; 1 << 20], b"\nKernel panic - not syncing: why\n".to_vec()];
        let (text, path, _directory) = recorded(flood, 1000).await;
        assert!(text.ends_with(b"\nKernel panic - not syncing: why\n"));
        assert!(text.len() < 1200 + LAST, "{}", text.len());
        assert_eq!(last_words(&path).as_deref(), Some("Kernel panic - not syncing: why"));
    }

    #[test]
    fn last_words_of_nothing_are_none() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(last_words(&directory.path().join("absent")), None);
    }
}
