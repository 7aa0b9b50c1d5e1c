//! How the hostile agent speaks: honest frames, and bytes that are none.

use outlast_wire::guest::{FrameDecoder, GuestFrame, GuestMessage, HostFrame, encode};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::time::Duration;

/// The port, with what has arrived.
pub(super) struct Speech {
    port: File,
    decoder: FrameDecoder,
    buffer: Vec<u8>,
}

impl Speech {
    /// Nothing has been said.
    pub(super) fn new(port: File) -> Self {
        Self { port, decoder: FrameDecoder::new(), buffer: vec![0; 32 * 1024] }
    }

    /// The host's next frame.
    pub(super) fn hear(&mut self) -> HostFrame {
        loop {
            match self.decoder.next_message() {
                Ok(Some(frame)) => return frame,
                Ok(None) => {}
                Err(_) => self.decoder = FrameDecoder::new(),
            }
            match self.port.read(&mut self.buffer) {
                // No host is there, and nothing tells a program that reads in this way when one comes.
                Ok(0) | Err(_) => std::thread::sleep(Duration::from_millis(2)),
                Ok(length) => self.decoder.push(&self.buffer[..length]),
            }
        }
    }

    /// Says it in a frame.
    pub(super) fn say(&mut self, stream: u32, message: GuestMessage) {
        self.raw(&frame(stream, message));
    }

    /// Writes bytes as they are.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        // Who does not take them has hung up, and the guest's end is near.
        let _ = self.port.write_all(bytes);
    }
}

/// A message as a frame.
pub(super) fn frame(stream: u32, message: GuestMessage) -> Vec<u8> {
    encode(&GuestFrame { stream, message: Some(message) }).unwrap_or_default()
}

/// Bytes without a meaning, the same every time.
pub(super) fn rubbish(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}
