//! Asks an agent whether it is there, and makes one ready to be saved.

use anyhow::{Context as _, bail};
use outlast_wire::guest::{
    FrameDecoder, GuestFrame, GuestMessage, Hello, HostFrame, HostMessage, PROTOCOL, Quiesce, encode,
};
use rustix::rand::{GetRandomFlags, getrandom};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

/// Says hello and waits for the answer to this very hello.
pub(crate) fn hello(mut port: &UnixStream) -> anyhow::Result<()> {
    let mut nonce = [0; 16];
    getrandom(&mut nonce, GetRandomFlags::empty())?;
    let hello = Hello { nonce: nonce.to_vec(), protocol: PROTOCOL };
    port.write_all(&frame(1, HostMessage::Hello(hello))?)?;
    wait_for(port, |message| matches!(message, GuestMessage::HelloAck(ack) if ack.nonce == nonce))
}

/// Asks the agent to be still, after a hello on the same connection.
pub(crate) fn quiesce(mut port: &UnixStream) -> anyhow::Result<()> {
    port.write_all(&frame(2, HostMessage::Quiesce(Quiesce {}))?)?;
    wait_for(port, |message| matches!(message, GuestMessage::Quiesced(_)))
}

fn frame(stream: u32, message: HostMessage) -> anyhow::Result<Vec<u8>> {
    Ok(encode(&HostFrame { stream, message: Some(message) })?)
}

fn wait_for(mut port: &UnixStream, is_it: impl Fn(&GuestMessage) -> bool) -> anyhow::Result<()> {
    let mut decoder = FrameDecoder::new();
    let mut buffer = [0; 4096];
    loop {
        let count = port.read(&mut buffer).context("hear the agent")?;
        if count == 0 {
            bail!("the agent's port was closed");
        }
        decoder.push(&buffer[..count]);
        while let Some(frame) = decoder.next_message::<GuestFrame>()? {
            if frame.message.as_ref().is_some_and(&is_it) {
                return Ok(());
            }
        }
    }
}
