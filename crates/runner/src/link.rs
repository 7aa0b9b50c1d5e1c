//! The guest link, host side: frames over a byte stream to an agent that may be hostile.
//!
//! Reading and writing happen in one place, [`Link::next`], so that neither side can block the other: while
//! the host has something to say it keeps listening. What the guest sends is bounded by the frame limit and
//! consumed at once; what the host queues is bounded by its callers, who look at [`Link::backlog`].

use outlast_model::timeout;
use outlast_wire::guest::{
    self, FrameDecoder, FrameError, GuestFrame, GuestMessage, Hello, HelloAck, HostFrame, HostMessage,
    MAX_CHUNK, PROTOCOL, Refused, guest_words,
};
use rustix::rand::{GetRandomFlags, getrandom};
use std::io;
use std::time::Duration;
use thiserror::Error;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Callers queue more data only while less than this is waiting to be written, in bytes.
pub(crate) const BACKLOG: usize = 4 * MAX_CHUNK;

/// The link is of no further use.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The other side hung up.
    #[error("the guest link was closed")]
    Closed,
    /// The stream failed.
    #[error("the guest link failed")]
    Io(#[source] io::Error),
    /// What came is not the protocol.
    #[error("the guest link carries something that is not the protocol")]
    Frame(#[from] FrameError),
    /// A frame without a message this build knows.
    #[error("the guest sent a message of an unknown kind")]
    UnknownMessage,
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

impl LinkError {
    /// Whether the connection itself broke, which usually has a reason that the VMM can name.
    pub const fn is_broken(&self) -> bool {
        matches!(self, Self::Closed | Self::Io(_))
    }

    /// Whether the agent itself said no: then what was asked did not happen.
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

fn errno_text(errno: i32) -> String {
    if errno == 0 { String::new() } else { format!(" ({})", io::Error::from_raw_os_error(errno)) }
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
}

impl Link {
    /// A connection nobody has said hello on.
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            decoder: FrameDecoder::new(),
            outbound: Vec::new(),
            written: 0,
            last_stream: 0,
            buffer: vec![0; MAX_CHUNK],
        }
    }

    /// A stream id not used on this connection.
    pub fn open_stream(&mut self) -> u32 {
        self.last_stream = self.last_stream.wrapping_add(1).max(1);
        self.last_stream
    }

    /// Puts a message into the queue; it leaves while [`Link::next`] is awaited.
    pub fn queue(&mut self, stream: u32, message: HostMessage) -> Result<(), LinkError> {
        let frame = guest::encode(&HostFrame { stream, message: Some(message) })?;
        if self.written == self.outbound.len() {
            self.outbound.clear();
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
            if let Some(frame) = self.decoder.next_message::<GuestFrame>()? {
                let message = frame.message.ok_or(LinkError::UnknownMessage)?;
                return Ok((frame.stream, message));
            }
            self.exchange().await?;
        }
    }

    /// Waits until bytes can move in a wanted direction, and moves them. Cancelling it loses nothing: bytes
    /// move only in the synchronous calls after the wait.
    async fn exchange(&mut self) -> Result<(), LinkError> {
        let wanted =
            if self.backlog() > 0 { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let ready = self.stream.ready(wanted).await.map_err(LinkError::Io)?;
        if ready.is_writable() && self.backlog() > 0 {
            match self.stream.try_write(&self.outbound[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(LinkError::Io(error)),
            }
        }
        if ready.is_readable() {
            match self.stream.try_read(&mut self.buffer) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(count) => self.decoder.push(&self.buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(LinkError::Io(error)),
            }
        }
        Ok(())
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
        match answered.map_err(|_| LinkError::TimedOut { request: name, limit })?? {
            GuestMessage::Refused(Refused { operation, errno, cause }) => {
                let (operation, cause) = (guest_words(&operation), guest_words(&cause));
                Err(LinkError::Refused(Refused { operation, errno, cause }))
            }
            message => Ok(message),
        }
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
        let mut nonce = [0; 16];
        getrandom(&mut nonce, GetRandomFlags::empty()).map_err(LinkError::Random)?;
        self.queue(0, HostMessage::Hello(Hello { nonce: nonce.to_vec(), protocol: PROTOCOL }))?;
        loop {
            let (_, message) = self.next().await?;
            match message {
                GuestMessage::HelloAck(ack) if ack.nonce == nonce => {
                    return if ack.protocol == PROTOCOL {
                        Ok(ack)
                    } else {
                        Err(LinkError::Generation { theirs: ack.protocol })
                    };
                }
                // Whatever comes before the answer is left over from an earlier connection.
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlast_wire::guest::{Ping, Pong};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn guest_frame(stream: u32, message: GuestMessage) -> Vec<u8> {
        guest::encode(&GuestFrame { stream, message: Some(message) }).unwrap()
    }

    async fn host_frame(stream: &mut UnixStream) -> HostFrame {
        let length = stream.read_u32().await.unwrap();
        let mut body = vec![0; length as usize];
        stream.read_exact(&mut body).await.unwrap();
        guest::decode(&body).unwrap()
    }

    #[tokio::test]
    async fn leftovers_before_the_hello_are_dropped() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut link = Link::new(ours);
        let agent = async {
            let Some(HostMessage::Hello(hello)) = host_frame(&mut theirs).await.message else { panic!() };
            let stale = HelloAck { nonce: vec![0; 16], protocol: PROTOCOL, ..HelloAck::default() };
            theirs.write_all(&guest_frame(9, GuestMessage::Pong(Pong {}))).await.unwrap();
            theirs.write_all(&guest_frame(0, GuestMessage::HelloAck(stale))).await.unwrap();
            let fresh = HelloAck { nonce: hello.nonce, protocol: PROTOCOL, ..HelloAck::default() };
            theirs.write_all(&guest_frame(0, GuestMessage::HelloAck(fresh))).await.unwrap();
        };
        let (ack, ()) = tokio::join!(link.hello(), agent);
        assert_ne!(ack.unwrap().nonce, vec![0; 16]);
    }

    #[tokio::test]
    async fn an_agent_of_another_generation_is_refused() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut link = Link::new(ours);
        let agent = async {
            let Some(HostMessage::Hello(hello)) = host_frame(&mut theirs).await.message else { panic!() };
            let ack = HelloAck { nonce: hello.nonce, protocol: 99, ..HelloAck::default() };
            theirs.write_all(&guest_frame(0, GuestMessage::HelloAck(ack))).await.unwrap();
        };
        let (ack, ()) = tokio::join!(link.hello(), agent);
        assert!(matches!(ack, Err(LinkError::Generation { theirs: 99 })));
    }

    #[tokio::test]
    async fn a_silent_agent_meets_the_deadline() {
        tokio::time::pause();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let answer = Link::new(ours).request("ping", HostMessage::Ping(Ping {})).await;
        assert!(matches!(answer, Err(LinkError::TimedOut { request: "ping", .. })));
    }

    #[tokio::test]
    async fn rubbish_and_a_hang_up_end_the_link() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut link = Link::new(ours);
        theirs.write_all(&[0xff; 64]).await.unwrap();
        assert!(matches!(link.next().await, Err(LinkError::Frame(FrameError::TooLong(_)))));
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(matches!(Link::new(ours).next().await, Err(LinkError::Closed)));
    }
}
