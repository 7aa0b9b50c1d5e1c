//! The guest link, host side: frames over a byte stream to an agent that may be hostile.
//!
//! Reading and writing happen in one place, [`Link::next`], so that neither side can block the other: while
//! the host has something to say it keeps listening. What the guest sends is bounded by the frame limit and
//! consumed at once; what the host queues is bounded by its callers, who look at [`Link::backlog`]. A guest that
//! never stops talking takes no more than its turn: after `SPELL` steps the other tasks of the runner, and its
//! clock, have theirs.

use crate::probe::{Probes, Waiting};
use outlast_model::timeout;
use outlast_wire::guest::{
    self, FrameDecoder, FrameError, GuestFrame, GuestMessage, Hello, HelloAck, HostFrame, HostMessage,
    MAX_CHUNK, PROTOCOL, Ping, Refused, guest_words,
};
use rustix::rand::{GetRandomFlags, getrandom};
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use thiserror::Error;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::Instant;

/// Callers queue more data only while less than this is waiting to be written, in bytes.
pub(crate) const BACKLOG: usize = 4 * MAX_CHUNK;

/// So many reads and frames are dealt with in one go. Reading what is there already never waits, so without an end
/// to it a guest that writes faster than the host reads would stop the heart, every deadline and every kill.
const SPELL: u32 = 64;

/// The link is of no further use.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The other side hung up.
    #[error("the guest link was closed")]
    Closed,
    /// The stream failed.
    #[error("the guest link failed")]
    Io(#[source] io::Error),
    /// What the host was to say does not fit into a frame. It was not sent.
    #[error("the request does not fit into a frame")]
    Unsendable(#[source] FrameError),
    /// What came is not the protocol.
    #[error("the guest link carries something that is not the protocol")]
    Frame(#[from] FrameError),
    /// A frame without a message this build knows.
    #[error("the guest sent a message of an unknown kind")]
    UnknownMessage,
    /// An answer to what nobody has asked yet.
    #[error("the guest spoke on stream {0}, which nobody has opened")]
    Unopened(u32),
    /// The agent has given this conversation up.
    #[error("the agent gave the conversation up: {0}")]
    GivenUp(String),
    /// The answer does not fit the request.
    #[error("the agent answered {request} with something else")]
    Unexpected {
        /// What was asked.
        request: &'static str,
    },
    /// The agent said no.
    #[error("the agent could not {}: {}{}", .0.operation, .0.cause, errno_text(.0.errno))]
    Refused(Refused),
    /// No answer in time.
    #[error("the agent did not answer {request} within {} s", .limit.as_secs())]
    TimedOut {
        /// What was asked.
        request: &'static str,
        /// The deadline.
        limit: Duration,
    },
    /// The agent is of another generation.
    #[error("the agent speaks protocol {theirs}, this runner {PROTOCOL}; build the image again")]
    Generation {
        /// What it speaks.
        theirs: u32,
    },
    /// The host's random generator failed.
    #[error("cannot draw random bytes")]
    Random(#[source] rustix::io::Errno),
}

/// What kind of end a link has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection itself broke, which usually has a reason that the VMM can name.
    Broken,
    /// The agent did not answer in time.
    Silent,
    /// The agent broke the protocol, or is of another one.
    Protocol,
    /// The agent itself said no: then what was asked did not happen.
    Refusal,
    /// It is ours, and what was asked was not sent.
    Ours,
}

impl LinkError {
    /// Its kind.
    pub(crate) const fn fault(&self) -> Fault {
        match self {
            Self::Closed | Self::Io(_) => Fault::Broken,
            Self::TimedOut { .. } => Fault::Silent,
            Self::Frame(_)
            | Self::UnknownMessage
            | Self::Unopened(_)
            | Self::GivenUp(_)
            | Self::Unexpected { .. }
            | Self::Generation { .. } => Fault::Protocol,
            Self::Refused(_) => Fault::Refusal,
            Self::Unsendable(_) | Self::Random(_) => Fault::Ours,
        }
    }
}

/// An answer that is not a refusal.
fn accepted(answer: GuestMessage) -> Result<GuestMessage, LinkError> {
    match answer {
        GuestMessage::Refused(Refused { operation, errno, cause }) => {
            let (operation, cause) = (guest_words(&operation), guest_words(&cause));
            Err(LinkError::Refused(Refused { operation, errno, cause }))
        }
        message => Ok(message),
    }
}

fn errno_text(errno: i32) -> String {
    if errno == 0 { String::new() } else { format!(" ({})", io::Error::from_raw_os_error(errno)) }
}

/// Takes the messages of its own streams, whoever awaits the link for whatever else.
pub(crate) trait Listener: fmt::Debug {
    /// Takes a message; gives it back when it is not for this listener.
    fn hear(&self, stream: u32, message: GuestMessage) -> Option<GuestMessage>;

    /// So many bytes wait to be written now, after some have left.
    fn drained(&self, backlog: usize);
}

/// A connection to the agent.
#[derive(Debug)]
pub struct Link {
    stream: UnixStream,
    decoder: FrameDecoder,
    outbound: Vec<u8>,
    written: usize,
    last_stream: u32,
    buffer: Vec<u8>,
    /// Whether the agent has answered the hello of this connection. What comes before is an earlier one's.
    greeted: bool,
    /// Steps since others had their turn.
    steps: u32,
    probes: Rc<Probes>,
    probing: Option<Probing>,
    listener: Option<Rc<dyn Listener>>,
}

/// A ping on its way.
#[derive(Debug)]
struct Probing {
    stream: u32,
    sent: Instant,
    waiting: Waiting,
}

impl Link {
    /// A connection nobody has said hello on.
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            decoder: FrameDecoder::of_guest(),
            outbound: Vec::new(),
            written: 0,
            last_stream: 0,
            buffer: vec![0; MAX_CHUNK],
            greeted: false,
            steps: 0,
            probes: Rc::default(),
            probing: None,
            listener: None,
        }
    }

    /// The same, carrying out these probes while it is awaited.
    pub(crate) fn probed(self, probes: Rc<Probes>) -> Self {
        Self { probes, ..self }
    }

    /// From now on messages are offered to `listener` first.
    pub(crate) fn listen(&mut self, listener: Rc<dyn Listener>) {
        self.listener = Some(listener);
    }

    /// A stream id not used on this connection.
    pub fn open_stream(&mut self) -> u32 {
        // After four thousand million requests they begin anew, and an early answer is not noticed any more.
        self.last_stream = self.last_stream.checked_add(1).unwrap_or(1);
        self.last_stream
    }

    /// Puts a message into the queue; it leaves while [`Link::next`] is awaited.
    pub fn queue(&mut self, stream: u32, message: HostMessage) -> Result<(), LinkError> {
        let frame = guest::encode(&HostFrame { stream, message: Some(message) });
        let frame = frame.map_err(LinkError::Unsendable)?;
        // What has left gives its room back, also while a guest takes everything but the last byte for ever.
        if self.written >= MAX_CHUNK || self.written == self.outbound.len() {
            self.outbound.drain(..self.written);
            self.written = 0;
        }
        self.outbound.extend_from_slice(&frame);
        Ok(())
    }

    /// How many bytes wait to be written.
    pub fn backlog(&self) -> usize {
        self.outbound.len() - self.written
    }

    /// The next message of the guest; writes what is queued meanwhile. Cancelling it loses nothing.
    pub async fn next(&mut self) -> Result<(u32, GuestMessage), LinkError> {
        loop {
            if let Some(heard) = self.turn().await? {
                return Ok(heard);
            }
        }
    }

    /// As [`Self::next`], and `None` as soon as there is room for more in the queue: for whoever has more to send, and
    /// must not depend on a guest that has nothing more to say. Cancelling it loses nothing.
    pub async fn next_or_room(&mut self) -> Result<Option<(u32, GuestMessage)>, LinkError> {
        loop {
            if let Some(heard) = self.turn().await? {
                return Ok(Some(heard));
            }
            if self.backlog() < BACKLOG {
                return Ok(None);
            }
        }
    }

    /// A message that is there already, or, after some bytes have moved, none.
    async fn turn(&mut self) -> Result<Option<(u32, GuestMessage)>, LinkError> {
        self.give_others_their_turn().await;
        if let Some(frame) = self.decoder.next_message::<GuestFrame>()? {
            return self.hear(frame);
        }
        let count = self.exchange().await?;
        self.decoder.push(&self.buffer[..count]);
        Ok(None)
    }

    async fn give_others_their_turn(&mut self) {
        self.steps += 1;
        if self.steps >= SPELL {
            self.steps = 0;
            tokio::task::yield_now().await;
        }
    }

    /// A frame as a message for whoever asked; `None` when it was for the link itself.
    fn hear(&mut self, frame: GuestFrame) -> Result<Option<(u32, GuestMessage)>, LinkError> {
        let message = frame.message.ok_or(LinkError::UnknownMessage)?;
        if !self.greeted {
            return Ok(Some((frame.stream, message)));
        }
        if frame.stream > self.last_stream {
            return Err(LinkError::Unopened(frame.stream));
        }
        match (frame.stream, message) {
            (0, GuestMessage::Refused(refused)) => Err(LinkError::GivenUp(guest_words(&refused.cause))),
            (stream, message) if self.probing.as_ref().is_some_and(|probing| probing.stream == stream) => {
                self.end_probe(&message).map(|()| None)
            }
            (stream, message) => Ok(match &self.listener {
                Some(listener) => listener.hear(stream, message).map(|message| (stream, message)),
                None => Some((stream, message)),
            }),
        }
    }

    fn begin_probe(&mut self) -> Result<(), LinkError> {
        let waiting = self.probes.take();
        let stream = self.open_stream();
        self.probing = Some(Probing { stream, sent: Instant::now(), waiting });
        self.queue(stream, HostMessage::Ping(Ping {}))
    }

    fn end_probe(&mut self, answer: &GuestMessage) -> Result<(), LinkError> {
        let GuestMessage::Pong(_) = answer else { return Err(LinkError::Unexpected { request: "ping" }) };
        if let Some(Probing { sent, waiting, .. }) = self.probing.take() {
            let took = sent.elapsed();
            for waiting in waiting {
                // Who has given up meanwhile needs no answer.
                let _ = waiting.send(took);
            }
        }
        Ok(())
    }

    /// Waits until bytes can move in a wanted direction, and moves them; so many are in the buffer then, and are lost if
    /// the caller does not take them. Cancelling it loses nothing: bytes move only in the synchronous calls after the
    /// wait.
    async fn exchange(&mut self) -> Result<usize, LinkError> {
        let wanted =
            if self.backlog() > 0 { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let may_probe = self.greeted && self.probing.is_none();
        let ready = tokio::select! {
            ready = self.stream.ready(wanted) => ready.map_err(LinkError::Io)?,
            () = self.probes.asked(), if may_probe => return self.begin_probe().map(|()| 0),
        };
        if ready.is_writable() && self.backlog() > 0 {
            match self.stream.try_write(&self.outbound[self.written..]) {
                Ok(count) => {
                    self.written += count;
                    if let Some(listener) = &self.listener {
                        listener.drained(self.backlog());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(LinkError::Io(error)),
            }
        }
        if ready.is_readable() {
            match self.stream.try_read(&mut self.buffer) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(LinkError::Io(error)),
            }
        }
        Ok(0)
    }

    /// Asks and waits for the first answer on the same stream. Answers to other streams are leftovers of
    /// requests that were given up, and are dropped.
    pub async fn request(
        &mut self,
        name: &'static str,
        message: HostMessage,
    ) -> Result<GuestMessage, LinkError> {
        let stream = self.open_stream();
        self.queue(stream, message)?;
        self.answer(name, stream).await
    }

    /// Waits for the next message on `stream`.
    pub async fn answer(&mut self, name: &'static str, stream: u32) -> Result<GuestMessage, LinkError> {
        let limit = timeout::AGENT_REQUEST;
        let answered = tokio::time::timeout(limit, self.next_on(stream)).await;
        accepted(answered.map_err(|_| LinkError::TimedOut { request: name, limit })??)
    }

    /// As [`Self::answer`], and `None` as soon as there is room for more in the queue.
    pub async fn answer_or_room(
        &mut self,
        name: &'static str,
        stream: u32,
    ) -> Result<Option<GuestMessage>, LinkError> {
        let limit = timeout::AGENT_REQUEST;
        let waited = async {
            loop {
                match self.next_or_room().await? {
                    Some((from, message)) if from == stream => return Ok(Some(message)),
                    Some(_) => {}
                    None => return Ok::<_, LinkError>(None),
                }
            }
        };
        let answered = tokio::time::timeout(limit, waited).await;
        answered.map_err(|_| LinkError::TimedOut { request: name, limit })??.map(accepted).transpose()
    }

    async fn next_on(&mut self, stream: u32) -> Result<GuestMessage, LinkError> {
        loop {
            let (from, message) = self.next().await?;
            if from == stream {
                return Ok(message);
            }
        }
    }

    /// Says hello with a fresh nonce and waits for the answer that repeats it, however long the boot takes:
    /// the caller holds the deadline.
    pub async fn hello(&mut self) -> Result<HelloAck, LinkError> {
        let nonce = self.say_hello()?;
        loop {
            let (_, message) = self.next().await?;
            match message {
                GuestMessage::HelloAck(ack) if ack.nonce == nonce => return self.greet(ack),
                // Whatever comes before the answer is left over from an earlier connection.
                _ => {}
            }
        }
    }

    /// As [`Self::hello`], to a guest that was saved while it spoke to another host: what it still has to say to that one
    /// begins anywhere in a frame, and is passed over.
    pub async fn hello_amid_ruins(&mut self) -> Result<HelloAck, LinkError> {
        let nonce = self.say_hello()?;
        let mut ruins = Vec::new();
        loop {
            self.give_others_their_turn().await;
            let count = self.exchange().await?;
            ruins.extend_from_slice(&self.buffer[..count]);
            match guest::answer_within(&ruins, &nonce) {
                guest::Answer::Found(ack, end) => {
                    self.decoder.push(&ruins[end..]);
                    return self.greet(*ack);
                }
                guest::Answer::NotYet(from) => drop(ruins.drain(..from)),
            }
        }
    }

    fn say_hello(&mut self) -> Result<[u8; 16], LinkError> {
        let mut nonce = [0; 16];
        getrandom(&mut nonce, GetRandomFlags::empty()).map_err(LinkError::Random)?;
        self.queue(0, HostMessage::Hello(Hello { nonce: nonce.to_vec(), protocol: PROTOCOL }))?;
        Ok(nonce)
    }

    fn greet(&mut self, ack: HelloAck) -> Result<HelloAck, LinkError> {
        if ack.protocol != PROTOCOL {
            return Err(LinkError::Generation { theirs: ack.protocol });
        }
        // Streams of an earlier host's conversation with this guest are not opened again.
        self.last_stream = self.last_stream.max(ack.last_stream);
        self.greeted = true;
        Ok(ack)
    }
}

#[cfg(test)]
mod tests;
