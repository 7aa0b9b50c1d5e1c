//! Copies between the host and a VM that runs: the agent's own program is run in the guest, with a tar on its standard
//! output or input, and a thread of ours packs or unpacks at this end.
//!
//! ```text
//!   out:  agent packs ──► exec-N.log ──► sink ──► pipe ──► receive (hostile) ──► its end is known ──► publish
//!         agent waits ◄──────────────── a word for every step that the sink took
//!   in:   pack ──► pipe ──► input of a program ──► agent receives, publishes ──► its end is known
//! ```
//!
//! What came out of a guest gets its name only once the guest's program has ended well and everything was taken in. What
//! a guest says of itself is a claim: it makes a copy fail, and never succeed that is not whole.

mod attentive;
mod inward;
mod outward;
mod window;
mod words;

pub use inward::copy_in;
pub use outward::copy_out;

use super::exec::{Ended, Program, exec};
use crate::error::Error;
use crate::site::Site;
use outlast_copy::Tally;
use outlast_machine::sys::signal::Interrupts;
use outlast_wire::control::ExecRequest;
use outlast_wire::guest::copy::PROGRAM;
use std::path::Path;
use std::time::Duration;

/// The host's side of a copy.
#[derive(Debug, Clone, Copy)]
pub enum Here<'a, S> {
    /// A file or a directory.
    Path(&'a Path),
    /// A tar on a stream.
    Stream(S),
}

/// What is there beside a copy.
pub struct Beside<'a> {
    /// SIGINT, SIGTERM and their like: each ends the copy.
    pub signals: Option<&'a Interrupts>,
    /// Told how many bytes have gone by, from whichever thread.
    pub progress: &'a (dyn Fn(u64) + Sync),
}

/// What was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copied {
    /// Files and bytes; unknown of a stream, which is somebody else's to make or to take apart.
    pub counted: Option<(u64, u64)>,
    /// What is no part of the copy and why, each a line.
    pub left_out: Vec<String>,
}

/// What both sides left out.
fn copied(here: Option<&Tally>, there: Vec<String>) -> Copied {
    let mut left_out = there;
    if let Some(tally) = here {
        left_out.extend(tally.left_out.iter().cloned());
        let more = tally.left_out_count.saturating_sub(tally.left_out.len() as u64);
        if more > 0 {
            left_out.push(format!("{more} more"));
        }
    }
    Copied { counted: here.map(|tally| (tally.files, tally.bytes)), left_out }
}

/// Runs the agent's own program in the guest.
fn begin<'s>(site: &'s Site, name: &str, arguments: &[&str], stdin: bool) -> Result<Program<'s>, Error> {
    let mut request = own_program(arguments, None);
    request.stdin = stdin;
    // A copy may be of any size: what was taken out of the log takes no space, and what was not is bounded.
    request.output_limit = Some(u64::MAX);
    exec(site, name, request)
}

/// A request for the agent's own program.
pub(super) fn own_program(arguments: &[&str], within: Option<Duration>) -> ExecRequest {
    ExecRequest {
        argv: std::iter::once(PROGRAM).chain(arguments.iter().copied()).map(str::to_owned).collect(),
        env: Vec::new(),
        cwd: Some("/".to_owned()),
        user: None,
        stdin: false,
        pty: false,
        rows: 0,
        columns: 0,
        timeout_ms: within.map(|within| u64::try_from(within.as_millis()).unwrap_or(u64::MAX)),
        detach: false,
        output_limit: None,
    }
}

/// What the program's end means, which is all there is to know of the guest's side.
fn judge(vm: &str, ended: &Ended, words: &words::Words) -> Result<(), Error> {
    words.judge(vm, ended).map_err(Error::from)
}
