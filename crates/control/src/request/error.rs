//! Why a request is refused.

use outlast_model::Memory;
use outlast_model::limit::{
    ARGUMENT_BYTES, IDEMPOTENCY_KEY_BYTES, OUTPUT_BYTES_MAX, SOURCE_BYTES, STDIN_BYTES,
};
use outlast_wire::exit_code::FailureKind;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why a request is refused. Nothing was made.
#[derive(Debug, Error)]
pub enum RequestError {
    /// No runtime of this name.
    #[error("there is no runtime '{name}' (runtimes: {})", .known.join(", "))]
    UnknownRuntime {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// No image of this name, and none that could be built.
    #[error("there is no image '{name}' (built: {}; can be built: {})", list(.built), .known.join(", "))]
    UnknownImage {
        /// What was asked for.
        name: String,
        /// What the library holds.
        built: Vec<String>,
        /// What could be built.
        known: Vec<&'static str>,
    },
    /// The VMM is not there.
    #[error("QEMU (package qemu-system-x86) is not in the library")]
    NoQemu,
    /// A name does not tell the runtime.
    #[error("cannot tell the runtime of '{name}' by its name (known: {})", .known.join(", "))]
    NoRuntimeFor {
        /// The file.
        name: String,
        /// Endings and their runtimes.
        known: Vec<String>,
    },
    /// An image is there, but runs no source code.
    #[error("image '{image}' has no runtime for source code, it only runs commands")]
    NoRuntimeIn {
        /// The image.
        image: String,
    },
    /// A file cannot be read.
    #[error("cannot read {what} {}", .path.display())]
    Read {
        /// What it is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory where a file should be.
    #[error("{what} {} is not a file", .path.display())]
    NotAFile {
        /// What it is for.
        what: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// Source code without a single character that is not white space.
    #[error("the source {name} is empty")]
    EmptySource {
        /// The file, or words for it.
        name: String,
    },
    /// Too much source code in one file.
    #[error("the source {name} has {size} bytes, at most {SOURCE_BYTES} (10 MiB) are allowed")]
    SourceTooLarge {
        /// The file, or words for it.
        name: String,
        /// Its size, as far as it was read.
        size: u64,
    },
    /// Too much standard input.
    #[error("the standard input has {size} bytes, at most {STDIN_BYTES} (1 GiB) are allowed")]
    StdinTooLarge {
        /// Its size, as far as it was read.
        size: u64,
    },
    /// No command.
    #[error("no command was given for image '{image}'")]
    NoCommand {
        /// The image.
        image: String,
    },
    /// Arguments and environment are too long together.
    #[error("arguments and environment have {size} bytes together, at most {ARGUMENT_BYTES} are allowed")]
    ArgumentsTooLong {
        /// Their size.
        size: usize,
    },
    /// A zero byte, which no argument can carry.
    #[error("argument {number} holds a zero byte")]
    ZeroByte {
        /// Which, from 1.
        number: usize,
    },
    /// Less memory than the image needs.
    #[error("{asked} of memory is less than the minimum of image '{image}', {least}")]
    MemoryTooSmall {
        /// What was asked for.
        asked: Memory,
        /// The least.
        least: Memory,
        /// The image.
        image: String,
    },
    /// More memory than the host has.
    #[error(
        "a machine of {} MiB (a limit of {asked} and what the guest needs itself) does not fit: this host has {} MiB",
        .machine.mib(), .host.mib()
    )]
    MemoryTooLarge {
        /// What was asked for.
        asked: Memory,
        /// The machine's memory.
        machine: Memory,
        /// The host's memory.
        host: Memory,
    },
    /// An output limit out of bounds.
    #[error("an output limit of {asked} bytes is not between 1 and {OUTPUT_BYTES_MAX} (1 GiB)")]
    OutputLimit {
        /// What was asked for.
        asked: u64,
    },
    /// An idempotency key out of bounds.
    #[error("an idempotency key of {length} bytes is not between 1 and {IDEMPOTENCY_KEY_BYTES}")]
    KeyLength {
        /// Its length.
        length: usize,
    },
    /// Too little disk.
    #[error("not enough space: the disk of {} has {} MiB free, {} MiB are needed", .path.display(), .free >> 20, .needed.div_ceil(1 << 20))]
    DiskFull {
        /// The directory.
        path: PathBuf,
        /// Bytes free.
        free: u64,
        /// Bytes needed.
        needed: u64,
    },
}

impl RequestError {
    /// The kind, from which exit codes follow.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::UnknownRuntime { .. } | Self::UnknownImage { .. } => FailureKind::NotFound,
            Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => FailureKind::NotFound,
            Self::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                FailureKind::NotPermitted
            }
            Self::DiskFull { .. } | Self::MemoryTooLarge { .. } | Self::NoQemu => FailureKind::Host,
            _ => FailureKind::BadInput,
        }
    }

    /// The next command to type, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownRuntime { known, .. } => {
                let first = known.first().map_or("python", String::as_str);
                Some(format!("outlast run --runtime {first} …, after outlast image build {first}"))
            }
            Self::UnknownImage { known, .. } => known.first().map(|name| {
                format!("outlast image build {name}, then outlast run --image {name} -- COMMAND")
            }),
            Self::NoQemu => Some("outlast image build vmm".to_owned()),
            Self::NoRuntimeFor { .. } => Some("name it with --runtime".to_owned()),
            Self::NoRuntimeIn { image } | Self::NoCommand { image } => {
                Some(format!("outlast run --image {image} -- COMMAND"))
            }
            Self::MemoryTooSmall { least, .. } => Some(format!("ask for --memory {least} or more")),
            Self::DiskFull { .. } => Some("outlast doctor --fix".to_owned()),
            _ => None,
        }
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
