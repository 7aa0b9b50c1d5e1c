//! The streams of a program: three pipes or one terminal, what is pumped out of them, what is fed into them.
//! Back-pressure is the channel's: a chunk is read only when there is a place to put it.

use super::terminal::{END_OF_FILE, Terminal, WindowSize};
use crate::session::{Gone, Outlet};
use outlast_wire::guest::{Credit, GuestMessage, MAX_CHUNK, Output, StdinData};
use rustix::fd::OwnedFd;
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, pipe_with};
use rustix::process::Uid;
use std::cell::Cell;
use std::rc::Rc;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::mpsc;

/// The agent's ends of a program's streams.
pub(super) struct Streams {
    /// Standard input, when it is fed.
    pub(super) stdin: Option<Sink>,
    /// Standard output.
    pub(super) stdout: Pump,
    /// Standard error, unless it goes where standard output goes.
    pub(super) stderr: Option<Pump>,
    /// The terminal that all of them are.
    pub(super) terminal: Option<Rc<Terminal>>,
}

impl Streams {
    /// Pipes, and the three ends for the program. Without `stdin` the program reads `null`.
    pub(super) fn pipes(stdin: bool, null: &OwnedFd) -> Result<(Self, [OwnedFd; 3]), Errno> {
        let (stdout, out) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, err) = pipe_with(PipeFlags::CLOEXEC)?;
        let (input, feed) = if stdin {
            let (input, feed) = pipe_with(PipeFlags::CLOEXEC)?;
            (input, Some(Sink::Pipe(Sender::from_owned_fd(feed).map_err(|error| errno(&error))?)))
        } else {
            (fcntl_dupfd_cloexec(null, 0)?, None)
        };
        let stderr = Some(Pump::new(2, Source::pipe(stderr)?));
        let streams =
            Self { stdin: feed, stdout: Pump::new(1, Source::pipe(stdout)?), stderr, terminal: None };
        Ok((streams, [input, out, err]))
    }

    /// One terminal of this size, three times over for the program. Without `stdin` nobody types.
    pub(super) fn terminal(
        stdin: bool,
        size: WindowSize,
        user: Option<Uid>,
    ) -> Result<(Self, [OwnedFd; 3]), Errno> {
        let (ours, theirs) = Terminal::open(size, user)?;
        let (out, err) = (fcntl_dupfd_cloexec(&theirs, 0)?, fcntl_dupfd_cloexec(&theirs, 0)?);
        let stdin = stdin.then(|| Sink::Terminal(Rc::clone(&ours)));
        let stdout = Pump::new(1, Source::Terminal(Rc::clone(&ours)));
        Ok((Self { stdin, stdout, stderr: None, terminal: Some(ours) }, [theirs, out, err]))
    }
}

/// Where a program's output comes out.
enum Source {
    Pipe(Receiver),
    Terminal(Rc<Terminal>),
}

impl Source {
    fn pipe(pipe: OwnedFd) -> Result<Self, Errno> {
        Receiver::from_owned_fd(pipe).map(Self::Pipe).map_err(|error| errno(&error))
    }

    async fn readable(&self) -> std::io::Result<()> {
        match self {
            Self::Pipe(pipe) => pipe.readable().await,
            Self::Terminal(terminal) => terminal.readable().await,
        }
    }

    fn try_read(&self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Pipe(pipe) => pipe.try_read(buffer),
            Self::Terminal(terminal) => terminal.try_read(buffer),
        }
    }

    /// Read directly: tokio would answer from readiness it has seen, and the last bytes may be newer.
    fn read_now(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Pipe(pipe) => rustix::io::read(pipe, buffer),
            Self::Terminal(terminal) => terminal.read_now(buffer),
        }
    }

    /// The most it can hold, in bytes.
    fn capacity(&self) -> usize {
        match self {
            Self::Pipe(pipe) => fcntl_getpipe_size(pipe).unwrap_or(MAX_CHUNK),
            // The kernel's buffers of a terminal are limited to this (TTYB_DEFAULT_MEM_LIMIT).
            Self::Terminal(_) => MAX_CHUNK,
        }
    }
}

/// Where a program's input goes in.
pub(super) enum Sink {
    /// A pipe, which ends with its last byte.
    Pipe(Sender),
    /// A terminal, which goes on.
    Terminal(Rc<Terminal>),
}

impl Sink {
    async fn write(&self, bytes: &[u8]) -> std::io::Result<usize> {
        loop {
            let written = match self {
                Self::Pipe(pipe) => {
                    pipe.writable().await?;
                    pipe.try_write(bytes)
                }
                Self::Terminal(terminal) => {
                    terminal.writable().await?;
                    terminal.try_write(bytes)
                }
            };
            match written {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }
}

/// Carries what a program writes to one descriptor.
pub(super) struct Pump {
    descriptor: u32,
    source: Source,
    open: bool,
    buffer: Vec<u8>,
}

impl Pump {
    fn new(descriptor: u32, source: Source) -> Self {
        Self { descriptor, source, open: true, buffer: Vec::new() }
    }

    /// Whether more may come.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Waits for a chunk and for a place for it, then carries it. Nothing is lost when this is cancelled.
    pub(super) async fn carry(&mut self, out: &Outlet) -> Result<(), Gone> {
        if self.source.readable().await.is_err() {
            self.open = false;
            return Ok(());
        }
        let place = out.place().await?;
        self.buffer.resize(MAX_CHUNK, 0);
        match self.source.try_read(&mut self.buffer) {
            Ok(0) => self.open = false,
            Ok(length) => place.put(&self.message(length)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => self.open = false,
        }
        Ok(())
    }

    /// Carries what pipe or terminal hold now, for the time after the last process that belongs here has ended.
    /// At most one pipe's worth: a stranger who was handed the other end could go on writing for ever.
    pub(super) async fn drain(&mut self, out: &Outlet) -> Result<(), Gone> {
        let mut left = self.source.capacity();
        while self.open && left > 0 {
            let place = out.place().await?;
            self.buffer.resize(MAX_CHUNK, 0);
            match self.source.read_now(&mut self.buffer) {
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
    sink: Option<Sink>,
    arriving: mpsc::UnboundedReceiver<StdinData>,
    current: Option<(StdinData, usize)>,
    /// What the host may still send, shared with the session, which subtracts.
    left: Rc<Cell<u64>>,
    wanted: bool,
}

impl Intake {
    /// Without a sink there is nothing to feed and nothing arrives.
    pub(super) fn new(
        sink: Option<Sink>,
        arriving: mpsc::UnboundedReceiver<StdinData>,
        left: Rc<Cell<u64>>,
    ) -> Self {
        let wanted = sink.is_some();
        Self { sink, arriving, current: None, left, wanted }
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
            let Some(sink) = self.sink.as_ref().filter(|_| !rest.is_empty()) else {
                // Either it is all written, or nobody reads any more and the bytes are dropped.
                match self.give_back() {
                    Some(credit) => return credit,
                    None => continue,
                }
            };
            match sink.write(rest).await {
                Ok(length) => *done += length,
                // EPIPE: the program closed its standard input. What else comes is taken and dropped.
                Err(_) => self.sink = None,
            }
        }
    }

    async fn next(&mut self) {
        match self.arriving.recv().await {
            Some(mut piece) => {
                if piece.last && matches!(self.sink, Some(Sink::Terminal(_))) {
                    piece.data.push(END_OF_FILE);
                }
                self.current = Some((piece, 0));
            }
            None => std::future::pending().await,
        }
    }

    /// The credit for the piece that is done; none after the last.
    fn give_back(&mut self) -> Option<Credit> {
        let (piece, _) = self.current.take()?;
        if piece.last {
            self.sink = None;
            return None;
        }
        let bytes = u32::try_from(piece.data.len()).unwrap_or(u32::MAX);
        self.left.set(self.left.get().saturating_add(u64::from(bytes)));
        (bytes > 0).then_some(Credit { bytes })
    }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
