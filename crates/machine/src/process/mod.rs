//! Who a process is, whether it lives, and signals that reach it and nobody else.
//!
//! A pid is a number that the kernel gives away again. A process is told from a later one with the same
//! number by its start time, the boot it belongs to and the PID namespace it lives in; once opened, it is
//! held by a pidfd, which means that one process for ever.
//!
//! ```text
//!   open(identity) ──► Alive(Process)    held; may be signalled
//!                 ├──► Dead(why)         proven: nothing that may be signalled is left of it
//!                 └──► Undecided(why)    /proc cannot be read, another namespace, no pidfd: refuse, say so
//! ```
//!
//! Only a readable pidfd, or state `Z` or `X` with no thread left, proves death. Not responsible for what is
//! done about it: verdicts are the reconciler's.

mod attempt;
mod procfs;
mod stat;

pub use attempt::{Ended, attempt};
pub use procfs::Procfs;
pub use stat::{Stat, StatError};

use outlast_wire::identity::ProcessIdentity;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use thiserror::Error;

/// Something about a process could not be found out or done.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// There is no such process, or there is no longer.
    #[error("process {pid} does not exist")]
    Gone {
        /// Its pid.
        pid: u32,
    },
    /// A file of /proc could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of /proc holds what it cannot hold.
    #[error("{path} makes no sense: {detail}")]
    Nonsense {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The number cannot be a pid.
    #[error("{pid} cannot be a process id")]
    BadPid {
        /// The number.
        pid: u32,
    },
    /// No pidfd.
    #[error("cannot open a pidfd of process {pid}")]
    Open {
        /// Its pid.
        pid: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The signal was not delivered.
    #[error("cannot signal process {pid}")]
    Signal {
        /// Its pid.
        pid: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Waiting failed.
    #[error("cannot wait for process {pid}")]
    Wait {
        /// Its pid.
        pid: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What was found when a process was looked for.
#[derive(Debug)]
pub enum Sighting {
    /// It lives, and is held.
    Alive(Process),
    /// It is proven dead.
    Dead(DeathProof),
    /// It cannot be told. Nothing may be done to it, and nothing may take its place.
    Undecided(Doubt),
}

/// Why a process is known to be dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeathProof {
    /// The host was booted again since.
    Rebooted,
    /// Nobody has that pid.
    NoSuchProcess,
    /// Another process has that pid now: it started at another time, or lives in another PID namespace.
    PidReused,
    /// It has exited; its parent has not looked yet.
    Exited,
}

impl fmt::Display for DeathProof {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Rebooted => "the host was booted again since",
            Self::NoSuchProcess => "no process has its pid",
            Self::PidReused => "its pid belongs to another process now",
            Self::Exited => "it has exited",
        })
    }
}

/// Why it cannot be told whether a process lives.
#[derive(Debug, Error)]
pub enum Doubt {
    /// The pid was written down in another PID namespace than the one looked from.
    #[error("its pid was recorded in PID namespace {recorded}, and this is {here}")]
    OtherNamespace {
        /// Where the pid means the process.
        recorded: u64,
        /// Where we are.
        here: u64,
    },
    /// The facts could not be read.
    #[error(transparent)]
    Unreadable(#[from] ProcessError),
}

/// The boot id of the host.
pub fn boot_id() -> Result<String, ProcessError> {
    Procfs::system().boot_id()
}

/// The identity of the process that has `pid` now, as seen from this process's PID namespace.
///
/// All facts are read through one descriptor of its /proc directory, so they are all of one process.
///
/// # Errors
/// [`ProcessError::Gone`] when there is none, others when /proc cannot be read.
pub fn identity_of(pid: u32) -> Result<ProcessIdentity, ProcessError> {
    Procfs::system().identity_of(pid)
}

/// A process that is held: the pidfd means it and nobody else, whatever becomes of its pid.
#[derive(Debug)]
pub struct Process {
    pidfd: OwnedFd,
    identity: ProcessIdentity,
    procfs: Procfs,
}

impl Process {
    /// Looks for the process that `identity` describes.
    pub fn open(identity: &ProcessIdentity) -> Sighting {
        Self::open_in(&Procfs::system(), identity)
    }

    /// As [`Self::open`], with another /proc.
    pub fn open_in(procfs: &Procfs, identity: &ProcessIdentity) -> Sighting {
        match Self::look(procfs, identity) {
            Ok(sighting) => sighting,
            Err(doubt) => Sighting::Undecided(doubt),
        }
    }

    /// Holds the process that has `pid` now: for a child of ours that was not waited for, whose pid cannot
    /// have been given away.
    pub fn of_child(pid: u32) -> Result<Self, ProcessError> {
        let procfs = Procfs::system();
        let pidfd = open_pidfd(pid)?.ok_or(ProcessError::Gone { pid })?;
        let identity = procfs.identity_of(pid)?;
        Ok(Self { pidfd, identity, procfs })
    }

    fn look(procfs: &Procfs, identity: &ProcessIdentity) -> Result<Sighting, Doubt> {
        if procfs.boot_id()? != identity.boot_id {
            return Ok(Sighting::Dead(DeathProof::Rebooted));
        }
        let here = procfs.own_namespace()?;
        if here != identity.observer_namespace {
            return Err(Doubt::OtherNamespace { recorded: identity.observer_namespace, here });
        }
        let Some(pidfd) = open_pidfd(identity.pid)? else {
            return Ok(Sighting::Dead(DeathProof::NoSuchProcess));
        };
        // Order matters: the pidfd first, then the facts. If it still lives after they were read, its pid
        // was its own all the while, and the facts are its facts.
        let found = procfs.facts_of(identity.pid);
        let process = Self { pidfd, identity: identity.clone(), procfs: procfs.clone() };
        if process.has_exited()? {
            return Ok(Sighting::Dead(DeathProof::Exited));
        }
        let (stat, pid_namespace) = found?;
        if stat.start_time != identity.start_time
            || pid_namespace.is_some_and(|n| n != identity.pid_namespace)
        {
            return Ok(Sighting::Dead(DeathProof::PidReused));
        }
        if stat.proves_death() {
            return Ok(Sighting::Dead(DeathProof::Exited));
        }
        Ok(Sighting::Alive(process))
    }

    /// Who it is.
    pub fn identity(&self) -> &ProcessIdentity {
        &self.identity
    }

    /// The pidfd, to be waited on: readable means dead.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Sends it a signal. A process that is dead already is no error: the signal's purpose is fulfilled or
    /// void, and [`Self::is_dead`] tells.
    pub fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(ProcessError::Signal { pid: self.identity.pid, source: errno.into() }),
        }
    }

    /// Whether it is proven dead now. `false` is not a proof of life for longer than this call.
    pub fn is_dead(&self) -> Result<bool, ProcessError> {
        if self.has_exited()? {
            return Ok(true);
        }
        match self.procfs.facts_of(self.identity.pid) {
            Ok((stat, _)) => Ok(stat.start_time == self.identity.start_time && stat.proves_death()),
            // Gone between the two looks: only the pidfd may say so.
            Err(ProcessError::Gone { .. }) => self.has_exited(),
            Err(error) => Err(error),
        }
    }

    /// Waits until it is dead, for at most `deadline`; tells whether it is. Blocks the thread.
    pub fn wait_dead(&self, deadline: Duration) -> Result<bool, ProcessError> {
        let end = Instant::now() + deadline;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if self.poll_exit(left)? {
                return Ok(true);
            }
            if left.is_zero() {
                // A last look at its state: a pidfd is late when another thread of it hangs in the kernel.
                return self.is_dead();
            }
        }
    }

    /// What can be seen of a process that does not die: its state, what it waits for and where in the kernel.
    /// A sentence each; what cannot be read is said to be so.
    pub fn stack_evidence(&self) -> Vec<String> {
        self.procfs.stack_evidence(self.identity.pid)
    }

    fn has_exited(&self) -> Result<bool, ProcessError> {
        self.poll_exit(Duration::ZERO)
    }

    fn poll_exit(&self, within: Duration) -> Result<bool, ProcessError> {
        poll_exit(self.identity.pid, &self.pidfd, within)
    }
}

/// Waits until a pidfd says that its process is dead, for at most so long; tells whether it is.
fn poll_exit(pid: u32, pidfd: &OwnedFd, within: Duration) -> Result<bool, ProcessError> {
    let end = Instant::now() + within;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = rustix::event::Timespec::try_from(left)
            .unwrap_or(rustix::event::Timespec { tv_sec: i64::from(u32::MAX), tv_nsec: 0 });
        let mut polled = [PollFd::new(pidfd, PollFlags::IN)];
        match poll(&mut polled, Some(&timeout)) {
            Ok(0) => return Ok(false),
            // A reaped process also hangs up; either bit is the kernel's word that it is dead.
            Ok(_) => return Ok(polled[0].revents().intersects(PollFlags::IN | PollFlags::HUP)),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(ProcessError::Wait { pid, source: errno.into() }),
        }
    }
}

/// `None` when nobody has that pid.
fn open_pidfd(pid: u32) -> Result<Option<OwnedFd>, ProcessError> {
    match pidfd_open(checked(pid)?, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(Some(pidfd)),
        Err(Errno::SRCH) => Ok(None),
        Err(errno) => Err(ProcessError::Open { pid, source: errno.into() }),
    }
}

fn checked(pid: u32) -> Result<Pid, ProcessError> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    raw.ok_or(ProcessError::BadPid { pid })
}

/// Reaps dead children that somebody else left to us, as PID 1 of a namespace must, and tells how many.
///
/// `spared` are children of our own that another part of this process waits for. They are found by looking
/// through /proc, which within a PID namespace of its own is short: waitid(2) on any child would show a dead
/// spared one again and again, and hide the others behind it.
pub fn reap_orphans(spared: &[u32]) -> Result<usize, ProcessError> {
    let procfs = Procfs::system();
    let us = std::process::id();
    let mut reaped = 0;
    for pid in procfs.pids()? {
        // A process that is gone meanwhile was not ours: ours stay until they are reaped.
        let Ok((stat, _)) = procfs.facts_of(pid) else { continue };
        if stat.parent != us || !stat.proves_death() || spared.contains(&pid) {
            continue;
        }
        match waitpid(Some(checked(pid)?), WaitOptions::NOHANG) {
            Ok(Some(_)) => reaped += 1,
            Ok(None) | Err(Errno::CHILD) => {}
            Err(errno) => return Err(ProcessError::Wait { pid, source: errno.into() }),
        }
    }
    Ok(reaped)
}

#[cfg(test)]
mod tests;
