//! Frames of the control socket, as bytes come and go: a length, and that much JSON.

use super::{LinkError, is_passing};
use outlast_wire::control::MAX_FRAME;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read};

/// Read at once, in bytes.
const CHUNK: usize = 16 * 1024;
/// Of the length before each message.
const HEADER: usize = 4;

/// A message with its length before it.
pub(super) fn frame(message: &impl Serialize) -> Result<Vec<u8>, LinkError> {
    let body = serde_json::to_vec(message)?;
    if body.len() > MAX_FRAME {
        return Err(LinkError::TooLong(body.len()));
    }
    let length = u32::try_from(body.len()).map_err(|_| LinkError::TooLong(body.len()))?;
    Ok([&length.to_be_bytes(), body.as_slice()].concat())
}

/// What came and was not made sense of yet: never more than one frame and a chunk.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    bytes: Vec<u8>,
    over: bool,
}

impl Incoming {
    /// Reads once.
    pub(super) fn take_in(&mut self, from: &mut impl Read) -> io::Result<()> {
        let mut chunk = [0; CHUNK];
        match from.read(&mut chunk) {
            Ok(0) => self.over = true,
            Ok(length) => self.bytes.extend_from_slice(&chunk[..length]),
            Err(error) if is_passing(&error) => {}
            // How a connection ends whose other end was killed with something unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => self.over = true,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether nothing more comes.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// The next whole message; `None` until more came.
    pub(super) fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, LinkError> {
        let Some(header) = self.bytes.first_chunk::<HEADER>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*header)).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return Err(LinkError::TooLong(length));
        }
        let Some(body) = self.bytes.get(HEADER..HEADER + length) else { return Ok(None) };
        let message = serde_json::from_slice(body)?;
        self.bytes.drain(..HEADER + length);
        Ok(Some(message))
    }
}
