//! Why a copy failed. What is not whole is nowhere then.

use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The kinds of failure that callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// What was to be copied, or where to, is not there.
    Missing,
    /// What is at the destination does not go with what was to be copied there.
    Conflict,
    /// The stream is not what it should be.
    BadStream,
    /// Everything else: permissions, space, disks.
    Failed,
}

/// A copy failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CopyError {
    /// There is nothing to copy.
    #[error("there is no {}", shown(.path))]
    NoSource {
        /// What was to be copied.
        path: PathBuf,
    },
    /// The source is neither a file nor a directory.
    #[error("{} is neither a file nor a directory", shown(.path))]
    NotCopied {
        /// The source.
        path: PathBuf,
    },
    /// The source cannot be read.
    #[error("cannot {operation} {}", shown(.path))]
    Source {
        /// What was being done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file became shorter while it was read.
    #[error("{} changed while it was read", shown(.path))]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Directories within each other beyond all reason.
    #[error("{} is too deep", shown(.path))]
    TooDeep {
        /// Where.
        path: PathBuf,
    },
    /// The stream takes no more.
    #[error("cannot send the copy")]
    Send(#[source] io::Error),
    /// The stream gives no more, or is no tar.
    #[error("cannot read the stream")]
    Receive(#[source] io::Error),
    /// The stream ended before its end.
    #[error("the stream ends too early")]
    CutOff,
    /// The stream contradicts itself, or leads out of the destination.
    #[error("entry '{name}' of the stream is refused: {reason}")]
    Entry {
        /// The entry.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// Whoever wanted it wants it no more.
    #[error("the copy was stopped")]
    Stopped,
    /// More than anybody copies.
    #[error("the stream has more than {0} entries")]
    TooMany(u64),
    /// Directories and links have to be remembered until the end of a stream.
    #[error("the stream has more directories and links than {} MiB hold", .0 >> 20)]
    TooMuch(usize),
    /// The directory to copy into is not there.
    #[error("there is no directory {}", shown(.path))]
    NoDestination {
        /// The directory.
        path: PathBuf,
    },
    /// The destination is a file and should be a directory.
    #[error("{} is not a directory", shown(.path))]
    NotADirectory {
        /// The destination.
        path: PathBuf,
    },
    /// What comes would take the last of a disk.
    #[error("less than {} MiB of space is left on the disk of {}", .least >> 20, shown(.path))]
    NoRoom {
        /// The destination.
        path: PathBuf,
        /// What is to be left, in bytes.
        least: u64,
    },
    /// What is there and what came cannot be one.
    #[error("{} is in the way: it is {found}, and what comes is {came}", shown(.path))]
    InTheWay {
        /// What is there.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// What came.
        came: &'static str,
    },
    /// The destination cannot be written.
    #[error("cannot {operation} {}", shown(.path))]
    Destination {
        /// What was being done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl CopyError {
    /// Its kind.
    pub fn kind(&self) -> FaultKind {
        match self {
            Self::NoSource { .. } | Self::NoDestination { .. } => FaultKind::Missing,
            Self::NotADirectory { .. } | Self::InTheWay { .. } | Self::NotCopied { .. } => {
                FaultKind::Conflict
            }
            Self::CutOff | Self::Entry { .. } | Self::TooMany(_) | Self::TooMuch(_) => FaultKind::BadStream,
            Self::Source { .. }
            | Self::Changed { .. }
            | Self::TooDeep { .. }
            | Self::Send(_)
            | Self::Stopped
            | Self::NoRoom { .. }
            | Self::Receive(_)
            | Self::Destination { .. } => FaultKind::Failed,
        }
    }

    /// Whether nobody takes what is sent: the other side has gone, and knows why.
    pub fn is_hang_up(&self) -> bool {
        matches!(self, Self::Send(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// Says what failed at the source.
pub(crate) fn at_source<E: Into<io::Error>>(
    operation: &'static str,
    path: &Path,
) -> impl FnOnce(E) -> CopyError + use<E> {
    let path = path.to_owned();
    move |source| CopyError::Source { operation, path, source: source.into() }
}

/// Says what failed at the destination.
pub(crate) fn at_destination<E: Into<io::Error>>(
    operation: &'static str,
    path: &Path,
) -> impl FnOnce(E) -> CopyError + use<E> {
    let path = path.to_owned();
    move |source| CopyError::Destination { operation, path, source: source.into() }
}

/// A path that somebody else chose, fit to be shown: on one line, and not endless.
pub(crate) fn shown(path: &Path) -> String {
    path.to_string_lossy().chars().take(200).flat_map(escaped).collect()
}

fn escaped(c: char) -> impl Iterator<Item = char> {
    let (control, plain) = if c.is_control() { (Some(c.escape_debug()), None) } else { (None, Some(c)) };
    control.into_iter().flatten().chain(plain)
}
