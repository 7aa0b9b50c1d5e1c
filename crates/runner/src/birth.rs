//! How the runner learns who it is: one line from the launcher, before anything else.
//!
//! Inside its PID namespace the runner is 1 to itself; only the launcher knows what the host calls it.
//! End of file instead of a line means that the launcher died: the runner leaves, having had no effect.

use outlast_machine::sys;
use outlast_wire::identity::ProcessIdentity;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::RawFd;
use thiserror::Error;

/// An identity line is shorter than this, in bytes.
const MAX_LINE: u64 = 4096;

/// Why the runner does not know who it is.
#[derive(Debug, Error)]
pub(crate) enum BirthError {
    /// No descriptor was named.
    #[error("no --identity-fd was given")]
    NoDescriptor,
    /// The descriptor is not one that can be read.
    #[error("cannot read who this runner is")]
    Read(#[source] io::Error),
    /// The launcher left without a word.
    #[error("the launcher ended before it told this runner who it is")]
    LauncherGone,
    /// The line is not an identity.
    #[error("the launcher's line is not an identity")]
    Malformed(#[source] serde_json::Error),
}

/// Reads the identity; blocks until the launcher wrote it or ended.
pub(crate) fn learn_identity(descriptor: Option<RawFd>) -> Result<ProcessIdentity, BirthError> {
    let descriptor = descriptor.ok_or(BirthError::NoDescriptor)?;
    let pipe = sys::take_inherited(descriptor).map_err(BirthError::Read)?;
    let mut line = Vec::new();
    let mut reader = BufReader::new(File::from(pipe)).take(MAX_LINE);
    reader.read_until(b'\n', &mut line).map_err(BirthError::Read)?;
    if line.last() != Some(&b'\n') {
        return Err(BirthError::LauncherGone);
    }
    serde_json::from_slice(&line).map_err(BirthError::Malformed)
}
