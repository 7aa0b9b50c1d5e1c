//! What was read of a log and has not been passed on yet: in order, and never more at once than a reader that is
//! slow can take without making us wait.

use super::{FollowError, Sink, Tail};
use crate::wait;
use outlast_machine::sys::signal::Interrupts;
use outlast_wire::output_log::Stream;
use rustix::event::PollFlags;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// A pipe that says it takes more takes at least so much without waiting (pipe(7): PIPE_BUF).
const PORTION: usize = 4096;

/// Records in order; the first may have been passed on in part.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    records: VecDeque<(Stream, Vec<u8>)>,
    passed: usize,
}

impl Backlog {
    /// The stream whose turn it is; `None` when everything was passed on.
    pub(crate) fn stream(&self) -> Option<Stream> {
        self.records.front().map(|(stream, _)| *stream)
    }

    /// Whether everything was passed on.
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Adds a record.
    pub(crate) fn push(&mut self, stream: Stream, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.records.push_back((stream, bytes.to_vec()));
        }
    }

    /// Forgets what was not passed on.
    pub(crate) fn clear(&mut self) {
        self.records.clear();
        self.passed = 0;
    }

    /// Reads on in a log, a chunk at a time, until there is something to pass on or nothing more to read.
    pub(crate) fn refill(&mut self, tail: &mut Tail) -> Result<(), FollowError> {
        while self.is_empty() && tail.read_chunk(&mut |stream, bytes| self.push(stream, bytes))? {}
        Ok(())
    }

    /// Passes on as much as a sink that takes more takes for certain.
    pub(crate) fn pass_on(&mut self, sink: &mut dyn Sink) -> io::Result<()> {
        let Some((stream, bytes)) = self.records.front() else { return Ok(()) };
        let rest = &bytes[self.passed..];
        let portion = if sink.descriptor(*stream).is_some() { rest.len().min(PORTION) } else { rest.len() };
        sink.write(*stream, &rest[..portion])?;
        self.passed += portion;
        if self.passed == bytes.len() {
            self.records.pop_front();
            self.passed = 0;
        }
        Ok(())
    }
}

/// Passes bytes on to a sink, however slow it is, unless one of `interrupts` comes.
///
/// # Errors
/// Those of the sink; [`io::ErrorKind::Interrupted`] when a signal came first: then a part of it was passed on.
pub fn pass_on(
    sink: &mut dyn Sink,
    stream: Stream,
    bytes: &[u8],
    interrupts: Option<&Interrupts>,
) -> io::Result<()> {
    let mut backlog = Backlog::default();
    backlog.push(stream, bytes);
    while !backlog.is_empty() {
        if is_stuck(sink, stream, interrupts)? {
            if interrupts.map_or(Ok(0), Interrupts::take)? > 0 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            continue;
        }
        backlog.pass_on(sink)?;
    }
    Ok(())
}

/// Waits until a sink takes more: `false`. A signal ends the wait only while it does not: `true`.
fn is_stuck(sink: &dyn Sink, stream: Stream, interrupts: Option<&Interrupts>) -> io::Result<bool> {
    let Some(output) = sink.descriptor(stream) else { return Ok(false) };
    let signals = interrupts.map(|interrupts| (interrupts.as_fd(), PollFlags::IN));
    let watched: Vec<_> = [(output, PollFlags::OUT)].into_iter().chain(signals).collect();
    Ok(wait::ready(&watched, Duration::MAX)? != Some(0))
}

/// Whether a descriptor can be written to within this time without waiting: for words that may be lost.
pub fn takes_more(output: &impl AsFd, within: Duration) -> bool {
    matches!(wait::ready(&[(output.as_fd(), PollFlags::OUT)], within), Ok(Some(_)))
}
