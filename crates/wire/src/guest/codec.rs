//! Frames to bytes and back, with the length checked before any memory is taken for it.

use super::MAX_FRAME;
use prost::Message;
use thiserror::Error;

/// Why a byte stream is not a sequence of frames. After any of these the connection is of no further use.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The announced length is over what is allowed in this direction.
    #[error("frame of {length} bytes announced, {allowed} allowed")]
    TooLong {
        /// The announced length, in bytes.
        length: usize,
        /// The longest allowed, in bytes.
        allowed: usize,
    },
    /// The bytes are not the expected protobuf message.
    #[error("frame is not a message of this protocol")]
    Malformed(#[source] prost::DecodeError),
}

/// One message as a frame, length first.
///
/// # Errors
/// [`FrameError::TooLong`] when the encoded message is over [`MAX_FRAME`]. (A guest's own frames are shorter by what
/// is in them, see [`super::MAX_GUEST_FRAME`].)
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, FrameError> {
    let length = message.encoded_len();
    let announced = u32::try_from(length).ok().filter(|_| length <= MAX_FRAME);
    let announced = announced.ok_or(FrameError::TooLong { length, allowed: MAX_FRAME })?;
    let mut bytes = Vec::with_capacity(length + 4);
    bytes.extend_from_slice(&announced.to_be_bytes());
    message.encode_raw(&mut bytes);
    Ok(bytes)
}

/// One frame's body as a message.
///
/// # Errors
/// [`FrameError::Malformed`] when the bytes are not that message.
pub fn decode<M: Message + Default>(body: &[u8]) -> Result<M, FrameError> {
    M::decode(body).map_err(FrameError::Malformed)
}

/// Collects bytes as they arrive and gives out whole frame bodies.
///
/// It holds at most one partial frame plus what the caller pushed in one piece, so a peer cannot make it
/// grow without bound: callers take all complete frames out before they push more.
#[derive(Debug)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
    start: usize,
    allowed: usize,
}

impl Default for FrameDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameDecoder {
    /// An empty decoder for frames of at most [`MAX_FRAME`]: those of the host.
    pub fn new() -> Self {
        Self::of_at_most(MAX_FRAME)
    }

    /// An empty decoder for frames of at most [`super::MAX_GUEST_FRAME`]: those of a guest, which is not trusted.
    pub fn of_guest() -> Self {
        Self::of_at_most(super::MAX_GUEST_FRAME)
    }

    fn of_at_most(allowed: usize) -> Self {
        Self { buffer: Vec::new(), start: 0, allowed }
    }

    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The bytes that have arrived of a frame that is not whole yet, its length among them.
    pub fn pending(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    /// The next whole frame body, or `None` until more bytes arrive.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] as soon as a length over the limit is announced, before its bytes arrive.
    pub fn next_body(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        let rest = &self.buffer[self.start..];
        let Some((head, tail)) = rest.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*head)).unwrap_or(usize::MAX);
        if length > self.allowed {
            return Err(FrameError::TooLong { length, allowed: self.allowed });
        }
        let Some(body) = tail.get(..length) else {
            return Ok(None);
        };
        let body = body.to_vec();
        self.start += 4 + length;
        Ok(Some(body))
    }

    /// The next whole message, or `None` until more bytes arrive.
    ///
    /// # Errors
    /// As [`Self::next_body`], and [`FrameError::Malformed`] when the body is not an `M`.
    pub fn next_message<M: Message + Default>(&mut self) -> Result<Option<M>, FrameError> {
        self.next_body()?.map(|body| decode(&body)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        GuestFrame, GuestMessage, HostFrame, HostMessage, MAX_CHUNK, MAX_GUEST_FRAME, Output, Ping,
    };
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_length_over_the_limit_is_refused_before_its_bytes_arrive() {
        let mut decoder = FrameDecoder::new();
        decoder.push(&u32::MAX.to_be_bytes());
        assert!(matches!(decoder.next_body(), Err(FrameError::TooLong { .. })));
        let mut decoder = FrameDecoder::of_guest();
        let length = u32::try_from(MAX_GUEST_FRAME + 1).unwrap();
        decoder.push(&length.to_be_bytes());
        assert!(matches!(decoder.next_body(), Err(FrameError::TooLong { allowed: MAX_GUEST_FRAME, .. })));
    }

    #[test]
    fn the_longest_piece_of_data_fits_into_a_frame_of_the_guest() {
        let data = vec![0xff; MAX_CHUNK];
        let output = GuestMessage::Output(Output { descriptor: u32::MAX, data });
        let frame = encode(&GuestFrame { stream: u32::MAX, message: Some(output.clone()) }).unwrap();
        let mut decoder = FrameDecoder::of_guest();
        decoder.push(&frame);
        let frame: GuestFrame = decoder.next_message().unwrap().unwrap();
        assert_eq!(frame.message, Some(output));
    }

    #[test]
    fn a_message_over_the_limit_is_not_sent() {
        let frame = GuestFrame {
            stream: 1,
            message: Some(GuestMessage::Output(Output { descriptor: 1, data: vec![0; MAX_FRAME] })),
        };
        assert!(matches!(encode(&frame), Err(FrameError::TooLong { .. })));
    }

    proptest! {
        #[test]
        fn frames_survive_any_fragmentation(streams in prop::collection::vec(any::<u32>(), 0..20), piece in 1usize..9) {
            let frames: Vec<HostFrame> = streams
                .iter()
                .map(|&stream| HostFrame { stream, message: Some(HostMessage::Ping(Ping {})) })
                .collect();
            let bytes: Vec<u8> = frames.iter().flat_map(|f| encode(f).unwrap()).collect();
            let mut decoder = FrameDecoder::new();
            let mut seen: Vec<HostFrame> = Vec::new();
            for chunk in bytes.chunks(piece) {
                decoder.push(chunk);
                while let Some(frame) = decoder.next_message().unwrap() {
                    seen.push(frame);
                }
            }
            prop_assert_eq!(seen, frames);
        }

        #[test]
        fn rubbish_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
            let mut decoder = FrameDecoder::new();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_message::<GuestFrame>() {}
        }
    }
}
