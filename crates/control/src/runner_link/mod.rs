//! Talks to a runner over its control socket, every step under a deadline.
//!
//! Who answers is checked first: the kernel names the process that listens, and that must be the runner whose
//! identity the store has. A socket that somebody else has put in its place is not spoken to, and never removed.
//!
//! ```text
//!   Link::open ── connect, who is it?, greetings ──► ask (one answer a request)
//!                                                └─► attend (a program's connection: send and receive as it comes)
//! ```

mod frame;

use crate::site::Site;
use crate::wait;
use frame::{Incoming, frame};
use outlast_model::timeout;
use outlast_store::IncarnationRow;
use outlast_wire::control::{Answer, GENERATION, Greeting, Request};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use thiserror::Error;

/// A runner did not do what it was asked.
#[derive(Debug, Error)]
pub enum LinkError {
    /// Nothing answers at its socket.
    #[error("cannot connect to {}", .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else answers.
    #[error("another process (pid {pid}, uid {uid}) listens at {}", .path.display())]
    Stranger {
        /// The socket.
        path: PathBuf,
        /// Its pid.
        pid: i32,
        /// Its user.
        uid: u32,
    },
    /// It said nothing, or took nothing, for too long.
    #[error("the runner did not answer within {} s", .within.as_secs())]
    Silent {
        /// How long it was waited for.
        within: Duration,
    },
    /// It hung up.
    #[error("the runner hung up")]
    HungUp,
    /// The connection broke.
    #[error("cannot talk to the runner")]
    Io(#[from] io::Error),
    /// It said something that is not the protocol.
    #[error("the runner's answer is not one")]
    Malformed(#[from] serde_json::Error),
    /// A frame over the limit.
    #[error("a frame of {0} bytes, which is more than a runner may say")]
    TooLong(usize),
    /// It does not do that.
    #[error("the runner refused: {cause}")]
    Refused {
        /// Why.
        cause: String,
    },
    /// It answered another question.
    #[error("the runner answered another question")]
    Unexpected,
    /// It is older than what is asked of it.
    #[error(
        "the runner speaks generation {generation} of its protocol, which does not know this; it is of an older version"
    )]
    TooOld {
        /// What it speaks.
        generation: u32,
    },
}

impl LinkError {
    /// Whether the runner is without its senses. A socket that is missing or somebody else's says nothing of the
    /// runner, and silence nothing that its heart does not tell better.
    pub(crate) fn is_the_runners(&self) -> bool {
        match self {
            Self::Malformed(_) | Self::TooLong(_) | Self::Unexpected => true,
            Self::Silent { .. }
            | Self::Connect { .. }
            | Self::Stranger { .. }
            | Self::HungUp
            | Self::Io(_)
            | Self::Refused { .. }
            | Self::TooOld { .. } => false,
        }
    }
}

/// A connection to a runner that is who it should be, after both have said which generation they speak.
#[derive(Debug)]
pub(crate) struct Link {
    stream: UnixStream,
    incoming: Incoming,
    generation: u32,
}

/// Asks a runner to kill its workload. `Ok` means that it will; its end is seen elsewhere.
pub(crate) fn ask_to_kill(site: &Site, row: &IncarnationRow) -> Result<(), LinkError> {
    match Link::open(site, row)?.ask(&Request::Kill, timeout::CONTROL)? {
        Answer::Accepted => Ok(()),
        _ => Err(LinkError::Unexpected),
    }
}

impl Link {
    /// Connects to the runner of this incarnation.
    ///
    /// # Errors
    /// Nobody, or somebody else, or nothing that makes sense answers.
    pub(crate) fn open(site: &Site, row: &IncarnationRow) -> Result<Self, LinkError> {
        let path = site.places().run_directory(row.id).control_socket();
        let stream = connect_to(&path)?;
        check_peer(&stream, row, &path)?;
        let mut link = Self { stream, incoming: Incoming::default(), generation: GENERATION };
        let deadline = Deadline::after(timeout::CONTROL);
        link.say(
            &Greeting { generation: GENERATION, version: env!("CARGO_PKG_VERSION").to_owned() },
            deadline,
        )?;
        let theirs: Greeting = link.hear(deadline)?;
        link.generation = theirs.generation;
        Ok(link)
    }

    /// Refuses a runner that does not know what comes.
    ///
    /// # Errors
    /// [`LinkError::TooOld`].
    pub(crate) fn of_generation(self, least: u32) -> Result<Self, LinkError> {
        if self.generation < least {
            return Err(LinkError::TooOld { generation: self.generation });
        }
        Ok(self)
    }

    /// Asks, and waits for the answer. A refusal is an error.
    ///
    /// # Errors
    /// [`LinkError`].
    pub(crate) fn ask(&mut self, request: &Request, within: Duration) -> Result<Answer, LinkError> {
        let deadline = Deadline::after(within);
        self.say(request, deadline)?;
        match self.hear(deadline)? {
            Answer::Refused { cause } => Err(LinkError::Refused { cause }),
            answer => Ok(answer),
        }
    }

    /// What came, if something came: reads once, without waiting.
    ///
    /// # Errors
    /// [`LinkError::HungUp`] when nothing more will come; others when what came makes no sense.
    pub(crate) fn heard(&mut self) -> Result<Vec<Answer>, LinkError> {
        self.incoming.take_in(&mut self.stream)?;
        let answers = self.heard_before()?;
        if answers.is_empty() && self.incoming.is_over() {
            return Err(LinkError::HungUp);
        }
        Ok(answers)
    }

    /// What came together with the last answer: no descriptor tells of it any more.
    ///
    /// # Errors
    /// What came makes no sense.
    pub(crate) fn heard_before(&mut self) -> Result<Vec<Answer>, LinkError> {
        let mut answers = Vec::new();
        while let Some(answer) = self.incoming.next()? {
            answers.push(answer);
        }
        Ok(answers)
    }

    /// Writes as much of the beginning of `bytes` as is taken without waiting.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.stream.write(bytes) {
            Err(error) if is_passing(&error) => Ok(0),
            written => written,
        }
    }

    fn say(&mut self, message: &impl Serialize, deadline: Deadline) -> Result<(), LinkError> {
        let frame = frame(message)?;
        let mut rest = frame.as_slice();
        while !rest.is_empty() {
            let written = self.write_some(rest)?;
            rest = &rest[written..];
            if written == 0 {
                deadline.wait_for(self.stream.as_fd(), PollFlags::OUT)?;
            }
        }
        Ok(())
    }

    fn hear<T: DeserializeOwned>(&mut self, deadline: Deadline) -> Result<T, LinkError> {
        loop {
            if let Some(message) = self.incoming.next()? {
                return Ok(message);
            }
            if self.incoming.is_over() {
                return Err(LinkError::HungUp);
            }
            deadline.wait_for(self.stream.as_fd(), PollFlags::IN)?;
            self.incoming.take_in(&mut self.stream)?;
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// A request as it travels, to be written as there is room.
///
/// # Errors
/// [`LinkError::TooLong`].
pub(crate) fn framed(request: &Request) -> Result<Vec<u8>, LinkError> {
    frame(request)
}

/// When an exchange must be over.
#[derive(Debug, Clone, Copy)]
struct Deadline {
    within: Duration,
    end: Instant,
}

impl Deadline {
    fn after(within: Duration) -> Self {
        Self { within, end: Instant::now() + within }
    }

    fn wait_for(self, descriptor: BorrowedFd<'_>, flags: PollFlags) -> Result<(), LinkError> {
        let left = self.end.saturating_duration_since(Instant::now());
        match wait::ready(&[(descriptor, flags)], left)? {
            Some(_) => Ok(()),
            None => Err(LinkError::Silent { within: self.within }),
        }
    }
}

/// Whether the same call may go better later.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Connects without ever waiting: a stopped runner with a full queue would keep us for good.
fn connect_to(path: &Path) -> Result<UnixStream, LinkError> {
    let failed = |errno: Errno| LinkError::Connect { path: path.to_owned(), source: errno.into() };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failed)?;
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    connect(&socket, &address).map_err(failed)?;
    Ok(UnixStream::from(socket))
}

fn check_peer(stream: &UnixStream, row: &IncarnationRow, path: &Path) -> Result<(), LinkError> {
    let peer = socket_peercred(stream).map_err(io::Error::from)?;
    let (pid, uid) = (peer.pid.as_raw_pid(), peer.uid.as_raw());
    let ours = uid == rustix::process::geteuid().as_raw();
    let expected = row.runner.as_ref().and_then(|runner| i32::try_from(runner.pid).ok());
    if ours && expected == Some(pid) {
        return Ok(());
    }
    Err(LinkError::Stranger { path: path.to_owned(), pid, uid })
}

#[cfg(test)]
mod tests;
