//! Asks an agent whether it is there, and makes one ready to be saved.

use crate::clock;
use anyhow::{Context as _, bail};
use outlast_wire::guest::{
    Clock, FrameDecoder, GuestFrame, GuestMessage, Hello, HostFrame, HostMessage, PROTOCOL, Quiesce, Reseed,
    SetIdentity, encode,
};
use rustix::rand::{GetRandomFlags, getrandom};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

/// A connection to an agent.
pub(crate) struct Port<'a> {
    stream: &'a UnixStream,
    decoder: FrameDecoder,
    last_stream: u32,
}

impl<'a> Port<'a> {
    /// Says hello and waits for the answer to this very hello.
    pub(crate) fn greeted(stream: &'a UnixStream) -> anyhow::Result<Self> {
        let mut port = Self { stream, decoder: FrameDecoder::new(), last_stream: 0 };
        let nonce: [u8; 16] = random()?;
        let hello = Hello { nonce: nonce.to_vec(), protocol: PROTOCOL };
        port.ask(
            HostMessage::Hello(hello),
            |message| matches!(message, GuestMessage::HelloAck(ack) if ack.nonce == nonce),
        )?;
        Ok(port)
    }

    /// Asks the agent to be still; nothing may be asked after it.
    pub(crate) fn quiesce(&mut self) -> anyhow::Result<()> {
        self.ask(HostMessage::Quiesce(Quiesce {}), |message| matches!(message, GuestMessage::Quiesced(_)))
    }

    /// Asks what the product asks of every guest before it calls it certified, one thing at a time, and calls
    /// `done` after each. Nothing is judged.
    pub(crate) fn certify(&mut self, mut done: impl FnMut(&'static str)) -> anyhow::Result<()> {
        let entropy: [u8; 64] = random()?;
        self.ask(HostMessage::Reseed(Reseed { entropy: entropy.to_vec() }), |message| {
            matches!(message, GuestMessage::Reseeded(_))
        })?;
        done("randomness");
        let identity = SetIdentity { host_name: "floor".to_owned(), machine_id: "0f".repeat(16) };
        self.ask(HostMessage::SetIdentity(identity), |message| matches!(message, GuestMessage::Identity(_)))?;
        done("identity");
        for (name, set_unix_ns) in [("clock set", clock::unix_ns()), ("clock read", 0)] {
            self.ask(HostMessage::Clock(Clock { set_unix_ns }), |message| {
                matches!(message, GuestMessage::ClockRead(_))
            })?;
            done(name);
        }
        Ok(())
    }

    /// Sends a request and waits for its answer; leftovers of earlier connections are passed over.
    fn ask(&mut self, request: HostMessage, is_it: impl Fn(&GuestMessage) -> bool) -> anyhow::Result<()> {
        self.last_stream += 1;
        let frame = encode(&HostFrame { stream: self.last_stream, message: Some(request) })?;
        self.stream.write_all(&frame).context("ask the agent")?;
        let mut buffer = [0; 4096];
        loop {
            while let Some(frame) = self.decoder.next_message::<GuestFrame>()? {
                match &frame.message {
                    Some(message) if is_it(message) => return Ok(()),
                    Some(GuestMessage::Refused(refused)) => {
                        bail!("the agent could not {}: {}", refused.operation, refused.cause)
                    }
                    Some(_) | None => {}
                }
            }
            let count = self.stream.read(&mut buffer).context("hear the agent")?;
            if count == 0 {
                bail!("the agent's port was closed");
            }
            self.decoder.push(&buffer[..count]);
        }
    }
}

fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(bytes)
}
