//! What is said on one connection: frames in, services called, frames out. One future, one loop.
//!
//! ```text
//!                 Hello                          Quiesce
//!   Listening ───────────► Talking ◄─┐ Hello ──────────────► Quieting ── all ended: Quiesced ──► Listening
//!       ▲  all else dropped    │     │ (programs killed,         │
//!       └──────────────────────┴─────┘  everything dropped)      │
//!   Talking ── PowerOff: programs end or are killed ──► (the machine is off)
//!   any state ── bytes that are no frames ──► Deaf ── hang-up ──► (the next connection: Listening)
//! ```
//!
//! A conversation is what happens between one Hello and the next, or the hang-up. Its end, however it comes,
//! kills its programs, drops what it had to say, and forgets its streams. Nothing of it can reach the next. But one whose
//! programs stand still (Freeze) when a Hello comes is that of a snapshot: the programs that were to be kept are handed
//! over to the new host, and nothing else.
//!
//! What the services do is not known here, nor what carries the bytes.

mod conversation;
mod outbox;

#[cfg(test)]
pub(crate) use outbox::collect_for_tests;
pub(crate) use outbox::{Gone, Outlet};

use crate::console;
use crate::link::ByteStream;
use crate::program::Site;
use crate::refusal::chain;
use crate::service::{Facts, Generator, Home, Nameplate};
use conversation::{Conversation, Turn};
use outbox::Outbox;
use outlast_wire::guest::{
    FrameDecoder, GuestMessage, Hello, HelloAck, HostFrame, HostMessage, LONGEST_HELLO, PROTOCOL, Quiesced,
    Refused, hello_at_end,
};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// Answers that may wait before no more requests are read.
const MAX_ANSWERS: usize = 64;

/// Bytes read at once. The port gives one buffer of the VMM at a time, which is smaller.
const READ_SIZE: usize = 32 * 1024;

/// Longest nonce that is repeated, in bytes.
const MAX_NONCE: usize = 256;

/// How long the last words before a power-off may take to leave.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);

/// How long programs may take to be gone once they are killed, before the machine is powered off without waiting for
/// them.
const KILL_LIMIT: Duration = Duration::from_secs(1);

/// How long nothing must have followed a hello that was found within a frame. Whoever wrote the data that a
/// living host sends may have put hellos into it, so this must be longer than any pause of a living host, and
/// much shorter than the host's patience with an agent (30 s).
const SILENCE: Duration = Duration::from_secs(5);

/// Why a session is over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The host is gone; another may come.
    HangUp,
    /// The host asked for the machine to be powered off: that was accepted, and no program runs any more.
    PowerOff,
}

/// What is needed to serve, the same for every connection.
pub(crate) struct Services {
    /// How programs are started.
    pub(crate) site: Site,
    /// What does not change while the guest runs.
    pub(crate) facts: Facts,
    /// The guest's random generator.
    pub(crate) generator: Generator,
    /// Where the guest's identity stands.
    pub(crate) nameplate: RefCell<Nameplate>,
    /// Where the guest's root is.
    pub(crate) home: RefCell<Home>,
    /// Whether a shell is offered on the console.
    pub(crate) seated: Cell<bool>,
}

enum State {
    /// No hello yet, or not since the last conversation ended.
    Listening,
    /// A conversation.
    Talking(Conversation),
    /// A conversation that ends on request; its programs are dying. The stream to answer on.
    Quieting(Conversation, u32),
    /// The bytes are no frames. Only a new host, or a hello that can be told from them, changes that.
    Deaf,
}

/// Serves one connection until it ends.
///
/// # Errors
/// Only what makes the byte stream itself unusable for ever.
pub(crate) async fn serve(stream: &impl ByteStream, services: &Rc<Services>) -> io::Result<Ended> {
    let mut session = Session {
        state: State::Listening,
        outbox: Outbox::new(),
        decoder: FrameDecoder::new(),
        tail: Vec::with_capacity(LONGEST_HELLO),
        suspicion: None,
        services: Rc::clone(services),
    };
    let ended = session.run(stream).await;
    session.end_conversation();
    ended
}

struct Session {
    state: State,
    outbox: Outbox,
    decoder: FrameDecoder,
    /// The last bytes that arrived, as many as a hello can have.
    tail: Vec<u8>,
    /// Set while a frame is incomplete and ends in what could be a new host's hello: when that is believed.
    suspicion: Option<Instant>,
    services: Rc<Services>,
}

impl Session {
    async fn run(&mut self, stream: &impl ByteStream) -> io::Result<Ended> {
        let mut buffer = vec![0; READ_SIZE];
        loop {
            let listening = self.outbox.answers() < MAX_ANSWERS;
            tokio::select! {
                biased;
                read = stream.read(&mut buffer), if listening => match read? {
                    0 => return Ok(Ended::HangUp),
                    length => {
                        let turn = self.take(buffer.get(..length).unwrap_or_default());
                        if let Turn::PowerOff(grace) = turn {
                            return self.farewell(stream, grace).await;
                        }
                    }
                },
                wrote = self.outbox.write_one(stream) => match wrote {
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Ended::HangUp),
                    result => result?,
                },
                () = self.state.one_ended() => {}
                () = at(self.suspicion), if self.suspicion.is_some() => self.salvage(),
            }
            self.finish_quieting();
        }
    }

    /// Takes bytes in, and acts on every frame that is complete.
    fn take(&mut self, bytes: &[u8]) -> Turn {
        self.remember(bytes);
        if matches!(self.state, State::Deaf) {
            self.salvage();
            return Turn::Continue;
        }
        self.decoder.push(bytes);
        loop {
            match self.decoder.next_message::<HostFrame>() {
                Ok(Some(frame)) => {
                    if let turn @ Turn::PowerOff(_) = self.act(frame) {
                        return turn;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    self.end_conversation();
                    self.complain(chain(&error));
                    self.state = State::Deaf;
                    self.salvage();
                    return Turn::Continue;
                }
            }
        }
        if !self.decoder.pending().is_empty() {
            self.suspect();
        }
        Turn::Continue
    }

    fn remember(&mut self, bytes: &[u8]) {
        self.suspicion = None;
        let last = bytes.get(bytes.len().saturating_sub(LONGEST_HELLO)..).unwrap_or_default();
        let excess = (self.tail.len() + last.len()).saturating_sub(LONGEST_HELLO);
        self.tail.drain(..excess.min(self.tail.len()));
        self.tail.extend_from_slice(last);
    }

    /// Considers whether the frame that is incomplete will ever be completed.
    fn suspect(&mut self) {
        match self.state {
            // Nothing but a hello is expected, so there is nothing to lose.
            State::Listening | State::Deaf => self.salvage(),
            State::Talking(_) | State::Quieting(..) => {
                self.suspicion = hello_at_end(&self.tail).map(|_| Instant::now() + SILENCE);
            }
        }
    }

    /// Answers the hello with which the bytes end, if they do, in the place of whatever went on.
    fn salvage(&mut self) {
        self.suspicion = None;
        let Some(hello) = hello_at_end(&self.tail).map(<[u8]>::to_vec) else { return };
        // Whatever conversation there is ends by the hello, or is handed over by it.
        self.decoder = FrameDecoder::new();
        self.decoder.push(&hello);
        if let Ok(Some(frame)) = self.decoder.next_message::<HostFrame>() {
            self.act(frame);
        }
    }

    fn act(&mut self, frame: HostFrame) -> Turn {
        match (frame.message, &mut self.state) {
            (Some(HostMessage::Hello(hello)), _) => self.greet(frame.stream, &hello),
            (Some(HostMessage::Quiesce(_)), State::Talking(_)) => self.quiet(frame.stream),
            (message, State::Talking(conversation)) => {
                match conversation.act(frame.stream, message, &mut self.outbox) {
                    Ok(turn) => return turn,
                    Err(violation) => {
                        self.end_conversation();
                        self.complain(chain(&violation));
                    }
                }
            }
            // Leftovers of an earlier connection, or of a conversation that is over.
            (_, State::Listening | State::Quieting(..) | State::Deaf) => {}
        }
        Turn::Continue
    }

    fn greet(&mut self, stream: u32, hello: &Hello) {
        if hello.nonce.len() > MAX_NONCE {
            self.end_conversation();
            return self.complain(format!("nonce of {} bytes", hello.nonce.len()));
        }
        let mut answer = self.introduction(hello);
        match &mut self.state {
            // A snapshot that goes on, with another host.
            State::Talking(conversation) if conversation.is_frozen() => {
                (answer.kept, answer.numbers) = conversation.hand_over();
                answer.last_stream = conversation.last_stream();
                self.outbox.hand_over(stream, GuestMessage::HelloAck(answer));
            }
            State::Listening | State::Talking(_) | State::Quieting(..) | State::Deaf => {
                self.end_conversation();
                self.state = State::Talking(Conversation::new(Rc::clone(&self.services)));
                self.outbox.answer(stream, GuestMessage::HelloAck(answer));
            }
        }
    }

    fn introduction(&self, hello: &Hello) -> HelloAck {
        let facts = &self.services.facts;
        HelloAck {
            nonce: hello.nonce.clone(),
            protocol: PROTOCOL,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: facts.boot_id.clone(),
            kernel: facts.kernel.clone(),
            uptime_ms: crate::service::uptime_ms(),
            kept: Vec::new(),
            last_stream: 0,
            numbers: Vec::new(),
        }
    }

    fn quiet(&mut self, stream: u32) {
        if let State::Talking(conversation) = std::mem::replace(&mut self.state, State::Listening) {
            conversation.stop();
            self.outbox.cut_off();
            self.state = State::Quieting(conversation, stream);
        }
    }

    /// Answers a Quiesce when the last program is gone.
    fn finish_quieting(&mut self) {
        if let State::Quieting(conversation, stream) = &self.state {
            if conversation.is_still() {
                // What is made now is there in every clone.
                self.services.site.prepare();
                self.outbox.answer(*stream, GuestMessage::Quiesced(Quiesced {}));
                self.state = State::Listening;
            }
        }
    }

    /// Ends whatever conversation there is. Its programs are dead when this returns; their remains are
    /// cleared away by futures of their own.
    fn end_conversation(&mut self) {
        match std::mem::replace(&mut self.state, State::Listening) {
            State::Talking(conversation) | State::Quieting(conversation, _) => {
                conversation.stop();
                conversation.detach();
                self.outbox.reset();
            }
            State::Listening | State::Deaf => {}
        }
    }

    /// Tells the host, on the connection's own stream, that it broke the protocol.
    fn complain(&mut self, cause: String) {
        console::say(&format!("the host broke the protocol: {cause}"));
        let refusal = Refused { operation: "understand the host".to_owned(), errno: 0, cause };
        self.outbox.answer(0, GuestMessage::Refused(refusal));
    }

    /// Lets the programs end by themselves for as long as `grace`, then kills them. What they say and how they end goes
    /// on being sent, with the acceptance of the power-off before it.
    async fn farewell(&mut self, stream: &impl ByteStream, grace: Duration) -> io::Result<Ended> {
        if grace > Duration::ZERO && self.conversation().is_some_and(|talk| !talk.is_still()) {
            if let Some(conversation) = self.conversation() {
                conversation.ask_to_end();
            }
            let _ = tokio::time::timeout(grace, self.until_still(stream)).await;
        }
        if let Some(conversation) = self.conversation() {
            conversation.stop();
        }
        let _ = tokio::time::timeout(KILL_LIMIT, self.until_still(stream)).await;
        let all = async { while !self.outbox.is_empty() && self.outbox.write_one(stream).await.is_ok() {} };
        if tokio::time::timeout(FAREWELL_LIMIT, all).await.is_err() {
            console::say("powering off although the host does not read");
        }
        Ok(Ended::PowerOff)
    }

    fn conversation(&self) -> Option<&Conversation> {
        match &self.state {
            State::Talking(conversation) | State::Quieting(conversation, _) => Some(conversation),
            State::Listening | State::Deaf => None,
        }
    }

    /// Goes on sending until no program runs any more. A host that has gone is no reason to wait.
    async fn until_still(&mut self, stream: &impl ByteStream) {
        while self.conversation().is_some_and(|conversation| !conversation.is_still()) {
            tokio::select! {
                biased;
                () = self.state.one_ended() => {}
                wrote = self.outbox.write_one(stream) => if wrote.is_err() { return },
            }
        }
    }
}

/// Waits until then; for ever without a time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

impl State {
    /// Waits until something that runs in the conversation has ended; for ever when nothing does.
    async fn one_ended(&mut self) {
        match self {
            Self::Talking(conversation) | Self::Quieting(conversation, _) => conversation.one_ended().await,
            Self::Listening | Self::Deaf => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod handover_tests;
#[cfg(test)]
mod terminal_tests;
#[cfg(test)]
mod tests;
