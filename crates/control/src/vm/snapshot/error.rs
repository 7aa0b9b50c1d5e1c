//! What can be wrong with a snapshot, or with a wish about one.

use outlast_model::vm_spec::NameError;
use outlast_wire::exit_code::FailureKind;
use outlast_wire::snapshot::SnapshotManifestError;
use std::fmt;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// One of the files that a snapshot consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What it is, and the digests of the others.
    Manifest,
    /// Devices and memory.
    Machine,
    /// The VM's disk.
    Disk,
}

impl Part {
    /// The word for it, and its file's name but for the manifest's.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Machine => "machine",
            Self::Disk => "disk",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

/// What is wrong with a part.
#[derive(Debug, Error)]
pub enum Damage {
    /// It is not there.
    #[error("it is not there")]
    Missing,
    /// It is no file.
    #[error("it is no regular file")]
    Kind,
    /// It cannot be read.
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    /// It has another length.
    #[error("it has {found} bytes and should have {expected}")]
    Length {
        /// What it has.
        found: u64,
        /// What it should have.
        expected: u64,
    },
    /// It has the right length and another content.
    #[error("its bytes have changed")]
    Content,
    /// It is no manifest.
    #[error(transparent)]
    Manifest(#[from] SnapshotManifestError),
    /// It lies where another snapshot's should.
    #[error("it is that of another snapshot, {0}")]
    OfAnother(String),
}

/// A snapshot is not there, not whole, not fit for this, or could not be made.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// That is no name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The name is taken.
    #[error("{vm} has a snapshot '{name}' already")]
    Exists {
        /// The VM.
        vm: String,
        /// The name.
        name: String,
    },
    /// No snapshot has this name.
    #[error("{vm} has no snapshot '{name}'{}", meant(.near))]
    NotFound {
        /// The VM.
        vm: String,
        /// What was given.
        name: String,
        /// Names that may have been meant.
        near: Vec<String>,
    },
    /// There is too little disk.
    #[error("the disk of {} has {} MiB free; {what} may take {} MiB", .path.display(), .free >> 20, .needed.div_ceil(1 << 20))]
    TooLittleSpace {
        /// The directory.
        path: PathBuf,
        /// Bytes free.
        free: u64,
        /// Bytes needed.
        needed: u64,
        /// What of: `memory of 256 MiB and a disk of 40 MiB`.
        what: String,
    },
    /// One of its files, or its directory.
    #[error("cannot {operation} {}", .path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A part of it is not what it was.
    #[error("snapshot '{name}' of {vm} is damaged: its {part}")]
    Damaged {
        /// The VM.
        vm: String,
        /// The snapshot.
        name: String,
        /// The part.
        part: Part,
        /// What is wrong with it.
        source: Damage,
    },
    /// It is another VM's.
    #[error("snapshot '{name}' is not one of {vm}: it was taken of the VM with id {of}")]
    Foreign {
        /// The VM.
        vm: String,
        /// The snapshot.
        name: String,
        /// Whose it is.
        of: String,
    },
    /// The machine that would be started is not the one that was saved.
    #[error("snapshot '{name}' does not fit {vm} any more: {}", .differences.join(", "))]
    Mismatch {
        /// The VM.
        vm: String,
        /// The snapshot.
        name: String,
        /// What differs, a clause each.
        differences: Vec<String>,
    },
    /// It is not written down what the machine was made of.
    #[error("{vm} was started by an older outlast, which did not write down what its machine is made of")]
    Unknown {
        /// The VM.
        vm: String,
    },
    /// A start reads it.
    #[error("{vm} is being restored from snapshot '{name}'")]
    InUse {
        /// The VM.
        vm: String,
        /// The snapshot.
        name: String,
    },
    /// Somebody removed the VM, or what was being made, under our hands.
    #[error("what was made of snapshot '{name}' of {vm} was removed before it was whole")]
    RemovedMeanwhile {
        /// The VM.
        vm: String,
        /// The snapshot.
        name: String,
    },
}

impl SnapshotError {
    /// The kind, from which exit codes follow.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Name(_) => FailureKind::BadInput,
            Self::NotFound { .. } => FailureKind::NotFound,
            Self::TooLittleSpace { .. } => FailureKind::Host,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                FailureKind::NotPermitted
            }
            Self::Io { .. } | Self::Damaged { .. } | Self::RemovedMeanwhile { .. } => FailureKind::Failed,
            Self::Exists { .. }
            | Self::Foreign { .. }
            | Self::Mismatch { .. }
            | Self::Unknown { .. }
            | Self::InUse { .. } => FailureKind::Conflict,
        }
    }

    /// The next command to type, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Exists { vm, .. } | Self::NotFound { vm, .. } => {
                Some(format!("outlast vm snapshots ls {vm}"))
            }
            Self::Damaged { vm, .. } => Some(format!("outlast vm snapshots verify {vm}")),
            Self::Unknown { vm } => Some(format!("outlast vm stop {vm}, and outlast vm start {vm}")),
            Self::Mismatch { vm, .. } => Some(format!("outlast vm start {vm} boots the disk it has")),
            Self::TooLittleSpace { .. } => {
                Some("outlast prune, or outlast vm snapshots rm VM NAME".to_owned())
            }
            Self::Name(_)
            | Self::Io { .. }
            | Self::Foreign { .. }
            | Self::InUse { .. }
            | Self::RemovedMeanwhile { .. } => None,
        }
    }
}

fn meant(near: &[String]) -> String {
    match near {
        [] => String::new(),
        names => format!(" (is {} meant?)", names.join(" or ")),
    }
}
