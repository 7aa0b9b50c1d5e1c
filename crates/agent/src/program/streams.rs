//! The three streams of a program: pipes, what is pumped out of them, what is fed into them.
//! Back-pressure is the channel's: a chunk is read only when there is a place to put it.

use crate::session::{Gone, Outlet};
use outlast_wire::guest::{Credit, GuestMessage, MAX_CHUNK, Output, StdinData};
use rustix::fd::OwnedFd;
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, pipe_with};
use std::cell::Cell;
use std::rc::Rc;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::mpsc;

/// The agent's ends of a program's streams.
pub(super) struct Pipes {
    /// Standard input, when it is fed.
    pub(super) stdin: Option<Sender>,
    /// Standard output.
    pub(super) stdout: Pump,
    /// Standard error.
    pub(super) stderr: Pump,
}

impl Pipes {
    /// Makes them, and the three ends for the program. Without `stdin` the program reads `null`.
    pub(super) fn new(stdin: bool, null: &OwnedFd) -> Result<(Self, [OwnedFd; 3]), Errno> {
        let (stdout, out) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, err) = pipe_with(PipeFlags::CLOEXEC)?;
        let (input, feed) = if stdin {
            let (input, feed) = pipe_with(PipeFlags::CLOEXEC)?;
            (input, Some(Sender::from_owned_fd(feed).map_err(|error| errno(&error))?))
        } else {
            (fcntl_dupfd_cloexec(null, 0)?, None)
        };
        let pipes = Self { stdin: feed, stdout: Pump::new(1, stdout)?, stderr: Pump::new(2, stderr)? };
        Ok((pipes, [input, out, err]))
    }
}

/// Carries what a program writes to one descriptor.
pub(super) struct Pump {
    descriptor: u32,
    pipe: Receiver,
    open: bool,
    buffer: Vec<u8>,
}

impl Pump {
    fn new(descriptor: u32, pipe: OwnedFd) -> Result<Self, Errno> {
        let pipe = Receiver::from_owned_fd(pipe).map_err(|error| errno(&error))?;
        Ok(Self { descriptor, pipe, open: true, buffer: Vec::new() })
    }

    /// Whether more may come.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Waits for a chunk and for a place for it, then carries it. Nothing is lost when this is cancelled.
    pub(super) async fn carry(&mut self, out: &Outlet) -> Result<(), Gone> {
        if self.pipe.readable().await.is_err() {
            self.open = false;
            return Ok(());
        }
        let place = out.place().await?;
        self.buffer.resize(MAX_CHUNK, 0);
        match self.pipe.try_read(&mut self.buffer) {
            Ok(0) => self.open = false,
            Ok(length) => place.put(&self.message(length)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => self.open = false,
        }
        Ok(())
    }

    /// Carries what the pipe holds now, for the time after the last process that belongs here has ended.
    /// At most one pipe's worth: a stranger who was handed the other end could go on writing for ever.
    pub(super) async fn drain(&mut self, out: &Outlet) -> Result<(), Gone> {
        let mut left = fcntl_getpipe_size(&self.pipe).unwrap_or(MAX_CHUNK);
        while self.open && left > 0 {
            let place = out.place().await?;
            self.buffer.resize(MAX_CHUNK, 0);
            // Read directly: tokio would answer from readiness it has seen, and the last bytes may be newer.
            match rustix::io::read(&self.pipe, &mut self.buffer) {
                Ok(length) if length > 0 => {
                    place.put(&self.message(length));
                    left = left.saturating_sub(length);
                }
                Err(Errno::INTR) => {}
                Ok(_) | Err(_) => self.open = false,
            }
        }
        Ok(())
    }

    fn message(&self, length: usize) -> GuestMessage {
        let data = self.buffer.get(..length).unwrap_or_default().to_vec();
        GuestMessage::Output(Output { descriptor: self.descriptor, data })
    }
}

/// Feeds a program's standard input from what the host sends, and gives credit as it is taken.
pub(super) struct Intake {
    pipe: Option<Sender>,
    arriving: mpsc::UnboundedReceiver<StdinData>,
    current: Option<(StdinData, usize)>,
    /// What the host may still send, shared with the session, which subtracts.
    left: Rc<Cell<u64>>,
    wanted: bool,
}

impl Intake {
    /// Without a pipe there is nothing to feed and nothing arrives.
    pub(super) fn new(
        pipe: Option<Sender>,
        arriving: mpsc::UnboundedReceiver<StdinData>,
        left: Rc<Cell<u64>>,
    ) -> Self {
        let wanted = pipe.is_some();
        Self { pipe, arriving, current: None, left, wanted }
    }

    /// Whether the host was told that it may send.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// Waits for bytes and writes them; returns the credit for a whole piece once it is used up. After the
    /// last piece, and when the session has gone, this waits for ever. Nothing is lost when it is cancelled.
    pub(super) async fn feed(&mut self) -> Credit {
        loop {
            let Some((piece, done)) = &mut self.current else {
                self.next().await;
                continue;
            };
            let rest = piece.data.get(*done..).unwrap_or_default();
            let Some(pipe) = self.pipe.as_ref().filter(|_| !rest.is_empty()) else {
                // Either it is all written, or nobody reads any more and the bytes are dropped.
                match self.give_back() {
                    Some(credit) => return credit,
                    None => continue,
                }
            };
            match write(pipe, rest).await {
                Ok(length) => *done += length,
                // EPIPE: the program closed its standard input. What else comes is taken and dropped.
                Err(_) => self.pipe = None,
            }
        }
    }

    async fn next(&mut self) {
        match self.arriving.recv().await {
            Some(piece) => self.current = Some((piece, 0)),
            None => std::future::pending().await,
        }
    }

    /// The credit for the piece that is done; none after the last.
    fn give_back(&mut self) -> Option<Credit> {
        let (piece, _) = self.current.take()?;
        if piece.last {
            self.pipe = None;
            return None;
        }
        let bytes = u32::try_from(piece.data.len()).unwrap_or(u32::MAX);
        self.left.set(self.left.get().saturating_add(u64::from(bytes)));
        (bytes > 0).then_some(Credit { bytes })
    }
}

async fn write(pipe: &Sender, bytes: &[u8]) -> std::io::Result<usize> {
    loop {
        pipe.writable().await?;
        match pipe.try_write(bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
