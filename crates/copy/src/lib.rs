//! Files and directories as a stream (a tar), and back: the same code on both sides of a copy between the host and a
//! guest. What comes in is hostile, and is there whole or not at all.
//!
//! ```text
//!   pack:     source ──► members ──► tar ──► a stream
//!   receive:  a stream ──► members (checked) ──► a directory of its own beside the destination ──► Arrival
//!   publish:  Arrival ──► renamed to its name, or moved into the directory that is there
//! ```
//!
//! Not known here: what carries the stream, and who is asked to be at its other end.

mod arrival;
mod dress;
mod error;
mod member;
mod merge;
mod name;
mod pack;
mod partial;
mod place;
mod stop;
mod trail;
mod tree;

pub use arrival::{Arrival, Expected, receive};
pub use error::{CopyError, FaultKind};
pub use name::{is_contents, name_of};
pub use pack::{Owners, Packed, pack};
pub use stop::Stop;
pub use tree::Rules;

/// What was left out of a copy is named up to so many times.
pub const NAMED_AT_MOST: usize = 20;

/// What was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What was left out and why, at most [`NAMED_AT_MOST`] of them.
    pub left_out: Vec<String>,
    /// How much was left out.
    pub left_out_count: u64,
}

impl Tally {
    /// Something is no part of the copy.
    pub(crate) fn leave_out(&mut self, what: impl FnOnce() -> String) {
        self.left_out_count += 1;
        if self.left_out.len() < NAMED_AT_MOST {
            self.left_out.push(what());
        }
    }
}
