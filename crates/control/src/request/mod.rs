//! A request to run something: as asked, and as checked. All bad input ends here, before anything is made.
//!
//! ```text
//!   RunRequest ──check──► Checked { image, program, files, spec, machine memory }
//! ```
//!
//! Reading numbers and names out of texts is the command line's business; here they are typed already.
//! Nothing here writes to a disk, and nothing that was checked here is looked up again later.

mod check;
mod error;
mod program;

pub(crate) use check::{Checked, check, check_disk};
pub use error::RequestError;
pub(crate) use program::{Files, environment, image_of_command, wire_program};

use crate::accelerator::AcceleratorChoice;
use outlast_model::spec::EnvVar;
use outlast_model::{Memory, Timeout, VcpuCount};
use std::path::PathBuf;

/// Memory of a program when none is asked for, unless its image needs more.
pub const DEFAULT_MEMORY: Memory = match Memory::from_mib(256) {
    Some(memory) => memory,
    None => panic!("256 is more than zero"),
};

/// How long a program may run when nothing else is asked for.
pub const DEFAULT_TIMEOUT: Timeout = match Timeout::from_millis(30_000) {
    Some(timeout) => timeout,
    None => panic!("thirty seconds are within the limits"),
};

/// What to run, in which machine, with which limits.
#[derive(Debug, Clone)]
pub struct RunRequest {
    /// What to run.
    pub what: What,
    /// Arguments after the program's own.
    pub arguments: Vec<String>,
    /// vCPUs of the machine.
    pub vcpus: VcpuCount,
    /// The program's memory limit; [`DEFAULT_MEMORY`] or the image's least when absent.
    pub memory: Option<Memory>,
    /// How long it may run.
    pub timeout: Timeout,
    /// Environment; a later one of a name wins.
    pub env: Vec<EnvVar>,
    /// Its standard input.
    pub stdin: Stdin,
    /// How much of its output is kept, in bytes.
    pub output_limit: u64,
    /// Whether files it leaves are handed back.
    pub outputs: bool,
    /// The accelerator.
    pub accelerator: AcceleratorChoice,
    /// Whether it boots cold even if there is a template.
    pub cold: bool,
    /// A key under which a repeated request is the same request.
    pub idempotency_key: Option<String>,
    /// Whether its end follows the caller's: a foreground run.
    pub leased: bool,
}

/// What to run.
#[derive(Debug, Clone)]
pub enum What {
    /// A file of source code.
    File {
        /// The file.
        path: PathBuf,
        /// The runtime; told by the file's name when absent.
        runtime: Option<String>,
    },
    /// Source code itself.
    Inline {
        /// The code.
        code: Vec<u8>,
        /// The runtime.
        runtime: String,
    },
    /// A tar.gz of source code.
    Archive {
        /// The archive.
        path: PathBuf,
        /// The file in it to start; the runtime's usual one when absent.
        entry: Option<String>,
        /// The runtime; told by the entry's name when absent.
        runtime: Option<String>,
    },
    /// A command of an image.
    Command {
        /// The image.
        image: String,
        /// Program and arguments.
        argv: Vec<String>,
    },
}

/// Where a program's standard input comes from. It is read to its end before the program is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stdin {
    /// Nothing: /dev/null.
    Nothing,
    /// A file.
    File(PathBuf),
    /// The standard input of this process.
    Own,
}

#[cfg(test)]
mod tests;
