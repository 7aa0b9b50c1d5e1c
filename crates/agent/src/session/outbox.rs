//! What waits to be sent: answers of the session itself, and whatever programs and trees produce.
//!
//! ```text
//!   answers (few, limited by the session)  ──► first ──┐
//!   produce (channel of CHANNEL frames)    ──► then  ──┴─► one frame at a time ──► byte stream
//! ```
//!
//! Answers overtake output, so a ping is answered promptly while a program floods. Back-pressure is the
//! channel's bound: whoever produces waits for a place before it reads anything.

use crate::link::ByteStream;
use outlast_wire::guest::{GuestFrame, GuestMessage, Refused, encode};
use std::collections::VecDeque;
use tokio::sync::mpsc;

/// Frames of produce that may wait; with chunks of 64 KiB this is what a flood costs in memory.
const CHANNEL: usize = 4;

/// The connection that would have taken a message is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

/// One stream's way out, for what is not an immediate answer.
#[derive(Clone)]
pub(crate) struct Outlet {
    stream: u32,
    frames: mpsc::Sender<Vec<u8>>,
}

impl Outlet {
    /// Waits for a place and sends. Cancelled, it has sent nothing.
    pub(crate) async fn send(&self, message: &GuestMessage) -> Result<(), Gone> {
        self.place().await?.put(message);
        Ok(())
    }

    /// Waits until nobody will take anything any more.
    pub(crate) async fn gone(&self) {
        self.frames.closed().await;
    }

    /// Waits for a place for one message.
    pub(crate) async fn place(&self) -> Result<Place<'_>, Gone> {
        let permit = self.frames.reserve().await.map_err(|_| Gone)?;
        Ok(Place { stream: self.stream, permit })
    }
}

/// Room for one message; dropping it gives the room back.
pub(crate) struct Place<'a> {
    stream: u32,
    permit: mpsc::Permit<'a, Vec<u8>>,
}

impl Place<'_> {
    /// Sends without waiting.
    pub(crate) fn put(self, message: &GuestMessage) {
        self.permit.send(frame(self.stream, message.clone()));
    }
}

/// The waiting frames of one conversation and the one being written.
pub(super) struct Outbox {
    answers: VecDeque<Vec<u8>>,
    produce: mpsc::Receiver<Vec<u8>>,
    entrance: mpsc::Sender<Vec<u8>>,
    current: Vec<u8>,
    written: usize,
}

impl Outbox {
    /// An empty one.
    pub(super) fn new() -> Self {
        let (entrance, produce) = mpsc::channel(CHANNEL);
        Self { answers: VecDeque::new(), produce, entrance, current: Vec::new(), written: 0 }
    }

    /// Drops everything that waits and cuts off everyone who holds an outlet. A frame of which some bytes
    /// have been written is completed, because the peer may have read them.
    pub(super) fn reset(&mut self) {
        let begun = std::mem::take(&mut self.current);
        let written = std::mem::take(&mut self.written);
        *self = Self::new();
        if written > 0 {
            self.current = begun;
            self.written = written;
        }
    }

    /// Drops the answers that wait: who asked is gone. What was produced stays, and follows the next answer; a frame of
    /// which some bytes have been written is completed before it.
    pub(super) fn hand_over(&mut self, stream: u32, first: GuestMessage) {
        let whole = (self.written == 0).then(|| std::mem::take(&mut self.current));
        self.answers.clear();
        self.answer(stream, first);
        self.answers.extend(whole.filter(|frame| !frame.is_empty()));
    }

    /// Drops all waiting produce and cuts off everyone who holds an outlet; answers still go out.
    pub(super) fn cut_off(&mut self) {
        (self.entrance, self.produce) = mpsc::channel(CHANNEL);
    }

    /// The way out for one stream of this conversation.
    pub(super) fn outlet(&self, stream: u32) -> Outlet {
        Outlet { stream, frames: self.entrance.clone() }
    }

    /// Answers at once, ahead of produce.
    pub(super) fn answer(&mut self, stream: u32, message: GuestMessage) {
        self.answers.push_back(frame(stream, message));
    }

    /// How many answers wait.
    pub(super) fn answers(&self) -> usize {
        self.answers.len()
    }

    /// Whether nothing waits and nothing is half written.
    pub(super) fn is_empty(&self) -> bool {
        self.current.is_empty() && self.answers.is_empty() && self.produce.is_empty()
    }

    /// Waits for a frame and writes it. Cancelled, it continues where it stopped when it is called again.
    pub(super) async fn write_one(&mut self, stream: &impl ByteStream) -> std::io::Result<()> {
        if self.current.is_empty() {
            self.current = self.next().await;
        }
        while let Some(rest) = self.current.get(self.written..).filter(|rest| !rest.is_empty()) {
            self.written += stream.write(rest).await?;
        }
        self.current.clear();
        self.written = 0;
        Ok(())
    }

    async fn next(&mut self) -> Vec<u8> {
        if let Some(answer) = self.answers.pop_front() {
            return answer;
        }
        match self.produce.recv().await {
            Some(frame) => frame,
            // Cannot happen while `entrance` lives, and it lives as long as we do.
            None => std::future::pending().await,
        }
    }
}

/// A message as a frame. What is too long for one (nothing the agent says should be) becomes a refusal.
fn frame(stream: u32, message: GuestMessage) -> Vec<u8> {
    encode(&GuestFrame { stream, message: Some(message) }).unwrap_or_else(|error| {
        let refusal = Refused { operation: "answer".to_owned(), errno: 0, cause: error.to_string() };
        let message = Some(GuestMessage::Refused(refusal));
        encode(&GuestFrame { stream, message }).unwrap_or_default()
    })
}

/// Runs a producer alone and returns everything it said.
#[cfg(test)]
pub(crate) fn collect_for_tests<F>(produce: impl FnOnce(Outlet) -> F) -> Vec<GuestMessage>
where
    F: std::future::Future<Output = ()>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (frames, mut arriving) = mpsc::channel::<Vec<u8>>(CHANNEL);
        let listen = async {
            let mut decoder = outlast_wire::guest::FrameDecoder::new();
            let mut messages = Vec::new();
            while let Some(frame) = arriving.recv().await {
                decoder.push(&frame);
                let frame: GuestFrame = decoder.next_message().unwrap().unwrap();
                messages.extend(frame.message);
            }
            messages
        };
        tokio::join!(produce(Outlet { stream: 1, frames }), listen).1
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlast_wire::guest::Pong;

    #[tokio::test(flavor = "current_thread")]
    async fn after_a_cut_outlets_are_dead_and_answers_still_go_out() {
        let mut outbox = Outbox::new();
        let outlet = outbox.outlet(1);
        outlet.send(&GuestMessage::Pong(Pong {})).await.unwrap();
        outbox.answer(2, GuestMessage::Pong(Pong {}));
        outbox.cut_off();
        assert_eq!(outlet.send(&GuestMessage::Pong(Pong {})).await, Err(Gone));
        assert_eq!((outbox.answers(), outbox.is_empty()), (1, false));
        assert_eq!(outbox.next().await, frame(2, GuestMessage::Pong(Pong {})));
        assert!(outbox.is_empty());
    }
}
