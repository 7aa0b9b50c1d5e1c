//! Follows a workload to its end: its output as it is written, and then how it ended.
//!
//! ```text
//!   output.log ──inotify──┐
//!   lease or pidfd ──EOF──┼──► one loop ──► sink (stdout, stderr)        and at the end: the outcome
//!   signals ──────────────┘
//! ```
//!
//! The log on disk is what is shown, so a slow reader changes nothing and nothing is shown that is not kept.
//! Nothing is believed of an end but what the store says once the runner is proved gone.

mod backlog;
mod tail;

pub use backlog::{pass_on, takes_more};
pub(crate) use tail::Tail;

use crate::error::Error;
use crate::evidence;
use crate::launch::Lease;
use crate::reconcile::{self, Doom, Standing};
use crate::site::Site;
use crate::wait;
use crate::workload::{Known, as_written};
pub(crate) use backlog::Backlog;
use outlast_machine::process::{Process, Sighting};
use outlast_machine::sys::signal::Interrupts;
use outlast_model::{IncarnationId, IncarnationState, Killer, Outcome, WorkloadId, WorkloadState, timeout};
use outlast_wire::output_log::{OutputLogError, Stream};
use rustix::event::PollFlags;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use thiserror::Error;

/// A follower looks at the heartbeat this often when nothing else happens.
const LOOK: Duration = timeout::HEARTBEAT_LOST;

/// Following failed; the workload itself goes on, unless it is leased to this process.
#[derive(Debug, Error)]
pub enum FollowError {
    /// The output log cannot be watched or read.
    #[error("cannot read {}", .path.display())]
    Log {
        /// The log or its directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The output log is damaged.
    #[error("{} is damaged", .path.display())]
    Damaged {
        /// The log.
        path: PathBuf,
        /// Why.
        source: OutputLogError,
    },
    /// Waiting failed.
    #[error("cannot wait for a workload")]
    Wait(#[source] io::Error),
    /// What was to be shown could not be.
    #[error("cannot pass the output on; it is kept: outlast logs {workload}")]
    Sink {
        /// The workload.
        workload: WorkloadId,
        /// Why.
        source: io::Error,
    },
    /// What a VM or a program in it wrote could not be shown.
    #[error("cannot pass on what is in {}", .path.display())]
    Show {
        /// Where it is kept.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A second signal, or one while only output was left to pass on: nobody waits any more.
    #[error("interrupted; what became of the workload: outlast show {workload}")]
    Interrupted {
        /// The workload.
        workload: WorkloadId,
    },
    /// The workload is over for its runner, and the store does not say how.
    #[error("workload {workload} has ended and the store does not say how")]
    NoOutcome {
        /// The workload.
        workload: WorkloadId,
    },
}

/// Where output goes. An error of the kind `BrokenPipe` means that nobody reads any more.
pub trait Sink {
    /// Passes bytes on, at once.
    ///
    /// # Errors
    /// They could not be passed on.
    fn write(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()>;

    /// What has to be waited for before a write, where a reader can keep it waiting; `None` where none can.
    fn descriptor(&self, _stream: Stream) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// How a workload that was followed ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The workload.
    pub workload: WorkloadId,
    /// Its outcome.
    pub outcome: Outcome,
    /// Bytes beyond its limit of output.
    pub truncated_bytes: u64,
    /// Whether its output was pruned since: an earlier request was this one, and its run was over long ago.
    pub output_pruned: bool,
    /// Why a template was not used although one was wanted.
    pub fell_back: Option<String>,
}

/// How the runner's end is seen.
#[derive(Debug)]
pub(crate) enum End {
    /// Our own run: its end of the lease closes.
    Lease(Lease),
    /// Somebody else's: its pidfd becomes readable, once it is known who it is.
    Runner(Option<Process>),
}

impl End {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Lease(lease) => Some(lease.as_fd()),
            Self::Runner(process) => process.as_ref().map(Process::as_fd),
        }
    }
}

/// What ended a wait.
#[derive(Clone, Copy)]
enum Wake {
    Output,
    Log,
    Gone,
    Signal,
    Nothing,
}

/// Follows a workload to its end. `interrupts` are the signals that end a leased run: the first one gives the
/// lease up, and the outcome is waited for; the second one ends the wait.
///
/// # Errors
/// [`FollowError`], and those of finding out how it ended.
pub(crate) fn follow(
    site: &Site,
    workload: WorkloadId,
    end: End,
    sink: &mut dyn Sink,
    interrupts: Option<&Interrupts>,
) -> Result<Finished, Error> {
    let Known { workload: row, incarnation } = as_written(site, workload)?;
    let evidence = site.places().evidence(row.incarnation);
    if let (WorkloadState::Over(outcome), true) = (&row.state, evidence::is_pruned(&evidence, &incarnation)) {
        // Its output is gone; how it ended is not.
        return Ok(Finished {
            workload,
            outcome: outcome.clone(),
            truncated_bytes: incarnation.truncated_bytes,
            output_pruned: true,
            fell_back: incarnation.fell_back,
        });
    }
    let tail = Tail::of(&evidence)?;
    Follower::new(site, (workload, row.incarnation), end, tail, interrupts).follow(sink)
}

/// Follows somebody else's workload, by its output or its console, to its end.
///
/// # Errors
/// As [`follow`].
pub(crate) fn attend(site: &Site, known: &Known, tail: Tail, sink: &mut dyn Sink) -> Result<Finished, Error> {
    let ids = (known.workload.id, known.incarnation.id);
    Follower::new(site, ids, End::Runner(None), tail, None).follow(sink)
}

struct Follower<'a> {
    site: &'a Site,
    workload: WorkloadId,
    incarnation: IncarnationId,
    end: End,
    tail: Tail,
    backlog: Backlog,
    interrupts: Option<&'a Interrupts>,
    /// When the lease was given up.
    given_up: Option<Instant>,
    /// The runner is gone; what is left to do is to pass on the rest.
    gone: bool,
    /// Nobody reads what we pass on.
    unread: bool,
}

impl<'a> Follower<'a> {
    fn new(
        site: &'a Site,
        (workload, incarnation): (WorkloadId, IncarnationId),
        end: End,
        tail: Tail,
        interrupts: Option<&'a Interrupts>,
    ) -> Self {
        let backlog = Backlog::default();
        let (given_up, gone, unread) = (None, false, false);
        Self { site, workload, incarnation, end, tail, backlog, interrupts, given_up, gone, unread }
    }

    fn follow(mut self, sink: &mut dyn Sink) -> Result<Finished, Error> {
        self.run(sink)?;
        self.finish(sink)
    }

    /// Until the runner is gone, or the store says that the incarnation is over.
    fn run(&mut self, sink: &mut dyn Sink) -> Result<(), Error> {
        loop {
            if self.backlog.is_empty() {
                if self.find_runner()? {
                    return Ok(());
                }
                self.refill()?;
            }
            match self.wake(sink)? {
                Wake::Output => self.pass_on(sink)?,
                Wake::Log => self.tail.acknowledge()?,
                Wake::Gone => return Ok(()),
                Wake::Signal => self.interrupted()?,
                Wake::Nothing if self.is_over()? => return Ok(()),
                Wake::Nothing => {}
            }
        }
    }

    /// Of somebody else's run it is not known at first who its runner is: nobody may have claimed it yet. Tells
    /// whether it is over.
    fn find_runner(&mut self) -> Result<bool, Error> {
        if !matches!(self.end, End::Runner(None)) {
            return Ok(false);
        }
        let Some(row) = self.site.store()?.incarnation(self.incarnation)? else { return Ok(true) };
        if row.state == IncarnationState::Ended {
            return Ok(true);
        }
        match row.runner.as_ref().map(Process::open) {
            Some(Sighting::Alive(process)) => self.end = End::Runner(Some(process)),
            Some(Sighting::Dead(_)) => return Ok(true),
            Some(Sighting::Undecided(_)) | None => {}
        }
        Ok(false)
    }

    /// What was written until the runner's end and was not passed on yet. A reader that does not read is waited
    /// for as long as nobody has asked for the end; who has is not kept waiting for the rest of the output.
    fn pass_on_rest(&mut self, sink: &mut dyn Sink) -> Result<(), Error> {
        loop {
            self.refill()?;
            if self.backlog.is_empty() {
                return Ok(());
            }
            match self.wake(sink)? {
                Wake::Output => self.pass_on(sink)?,
                Wake::Signal => self.interrupted()?,
                Wake::Nothing if self.given_up.is_some() => return Ok(()),
                Wake::Nothing | Wake::Log | Wake::Gone => {}
            }
        }
    }

    /// Reads on once everything was passed on.
    fn refill(&mut self) -> Result<(), FollowError> {
        if self.unread { Ok(()) } else { self.backlog.refill(&mut self.tail) }
    }

    fn pass_on(&mut self, sink: &mut dyn Sink) -> Result<(), Error> {
        match self.backlog.pass_on(sink) {
            Ok(()) => Ok(()),
            // Nobody reads: what a local program would be killed for by SIGPIPE.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe && self.is_leased() => {
                self.unread = true;
                self.backlog.clear();
                self.give_up();
                Ok(())
            }
            Err(source) => Err(FollowError::Sink { workload: self.workload, source }.into()),
        }
    }

    /// Order matters: somebody who wants the end, and the end itself, are seen before the output, which a reader
    /// can keep waiting, and of which there may always be more.
    fn wake(&self, sink: &dyn Sink) -> Result<Wake, FollowError> {
        let mut watched = Vec::with_capacity(3);
        watched.extend(self.interrupts.map(|signals| (signals.as_fd(), PollFlags::IN, Wake::Signal)));
        let end = self.end.descriptor().filter(|_| !self.gone);
        watched.extend(end.map(|end| (end, PollFlags::IN, Wake::Gone)));
        let (mut within, mut otherwise) = (self.patience(), Wake::Nothing);
        match self.backlog.stream().map(|stream| sink.descriptor(stream)) {
            None => watched.push((self.tail.as_fd(), PollFlags::IN, Wake::Log)),
            Some(Some(output)) => watched.push((output, PollFlags::OUT, Wake::Output)),
            // It takes everything at once.
            Some(None) => (within, otherwise) = (Duration::ZERO, Wake::Output),
        }
        let polled: Vec<_> = watched.iter().map(|(descriptor, flags, _)| (*descriptor, *flags)).collect();
        let ready = wait::ready(&polled, within).map_err(FollowError::Wait)?;
        Ok(ready.map_or(otherwise, |index| watched[index].2))
    }

    fn patience(&self) -> Duration {
        match (self.given_up, &self.end) {
            (Some(_), _) if self.gone => timeout::DEATH,
            (Some(since), _) => timeout::LADDER.saturating_sub(since.elapsed()),
            // Nobody to watch yet: its claim changes the directory that is watched, or its deadline passes.
            (None, End::Runner(None)) => timeout::CLAIM,
            (None, End::Runner(Some(_)) | End::Lease(_)) => LOOK,
        }
    }

    fn is_leased(&self) -> bool {
        matches!(self.end, End::Lease(_))
    }

    fn give_up(&mut self) {
        if let (End::Lease(lease), None) = (&self.end, self.given_up) {
            lease.give_up();
            self.given_up = Some(Instant::now());
        }
    }

    fn interrupted(&mut self) -> Result<(), FollowError> {
        let signals = self.interrupts.map_or(Ok(0), Interrupts::take).map_err(FollowError::Wait)?;
        // Signals that are read together are one wish: Ctrl-C, and what a shell or supervisor sends along with it.
        match signals {
            0 => Ok(()),
            _ if self.gone || self.given_up.is_some() || !self.is_leased() => {
                Err(FollowError::Interrupted { workload: self.workload })
            }
            _ => {
                self.give_up();
                Ok(())
            }
        }
    }

    /// Nothing has happened for a while: is there still somebody at work?
    fn is_over(&self) -> Result<bool, Error> {
        let overdue = self.given_up.is_some_and(|since| since.elapsed() >= timeout::LADDER);
        let standing = if overdue {
            let why = "its client is gone, and its runner did not end in time";
            reconcile::put_down(self.site, self.incarnation, Doom { by: Killer::ClientGone, why })?
        } else {
            reconcile::reconcile(self.site, self.incarnation)?
        };
        Ok(matches!(standing, Standing::Over(_)))
    }

    fn finish(mut self, sink: &mut dyn Sink) -> Result<Finished, Error> {
        reconcile::settle(self.site, self.incarnation)?;
        self.gone = true;
        self.pass_on_rest(sink)?;
        let Known { workload, incarnation } = as_written(self.site, self.workload)?;
        let WorkloadState::Over(outcome) = workload.state else {
            return Err(FollowError::NoOutcome { workload: self.workload }.into());
        };
        Ok(Finished {
            workload: self.workload,
            outcome,
            truncated_bytes: incarnation.truncated_bytes,
            output_pruned: false,
            fell_back: incarnation.fell_back,
        })
    }
}

#[cfg(test)]
mod tests;
