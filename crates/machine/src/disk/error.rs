//! Why a disk could not be made, found, opened or removed.

use crate::host::HostError;
use outlast_model::DiskFormat;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// A disk is not as it should be.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DiskError {
    /// Something is there already.
    #[error("{path} exists already")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else makes it.
    #[error("{path} is being made by another process")]
    Busy {
        /// The file that becomes it.
        path: PathBuf,
    },
    /// The file system has not room for all of it.
    #[error("a disk of {needed} bytes does not fit: {path} has {free} bytes free")]
    TooLittleSpace {
        /// The directory.
        path: PathBuf,
        /// Bytes free there.
        free: u64,
        /// Bytes of the disk.
        needed: u64,
    },
    /// How much is free cannot be told.
    #[error(transparent)]
    Host(HostError),
    /// The VMM root was built before disks were made with it.
    #[error("the VMM root has no {program}; build it again with: outlast image build vmm")]
    NoTool {
        /// What it lacks.
        program: &'static str,
    },
    /// The tool could not be started or waited for.
    #[error("cannot run {program}")]
    Start {
        /// The tool.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The tool took too long and was killed.
    #[error("{program} did not end within {} s", limit.as_secs())]
    TooSlow {
        /// The tool.
        program: &'static str,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The tool failed.
    #[error("{program} failed ({status}): {said}")]
    Tool {
        /// The tool.
        program: &'static str,
        /// How it ended.
        status: String,
        /// What it said last, shortened.
        said: String,
    },
    /// A file could not be used.
    #[error("cannot {operation} {path}")]
    Io {
        /// What was to be done.
        operation: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not there.
    #[error("the disk {path} is not there")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It is no file.
    #[error("{path} is no regular file")]
    Kind {
        /// What is there.
        path: PathBuf,
    },
    /// The file does not begin as that format does.
    #[error("{path} is no {format} disk")]
    Format {
        /// The file.
        path: PathBuf,
        /// What it should be.
        format: DiskFormat,
    },
    /// The intent names a format that nobody knows.
    #[error("the format of the disk {path} is unknown")]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// Its copy was not wanted any more.
    #[error("the copy {path} was given up")]
    GivenUp {
        /// The file that it would have been.
        path: PathBuf,
    },
    /// It has another size than it was made with.
    #[error("the disk {path} has {found} bytes and should have {expected}")]
    Size {
        /// The file.
        path: PathBuf,
        /// What it has.
        found: u64,
        /// What it should have.
        expected: u64,
    },
}
