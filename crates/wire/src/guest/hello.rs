//! Finding a host's hello behind the ruins of an earlier connection.
//!
//! A host that dies within a frame, with another connecting at once, leaves no mark in the stream: the hang-up
//! and the new connection reach the guest together, and the agent sees only that more bytes came. The hello
//! then lies where the rest of the old frame should be. What can be known is that a host says hello and waits
//! for the answer, so its hello is the last thing that arrived.
//!
//! Contents of files may look like a hello, too: when one that was found is believed is the agent's decision.

use super::{HostFrame, HostMessage, decode};

/// The nonce of every hello has this many bytes.
const NONCE: usize = 16;

/// Longest frame of a hello, in bytes: length, two tags with lengths, stream, nonce and protocol at their longest.
pub const LONGEST_HELLO: usize = 64;

/// The frame with which `bytes` end, if it is a hello: all of it, and nothing after it. Of several, which only bytes
/// that were made for it can be, the shortest: what stands before a hello must not swallow it.
pub fn hello_at_end(bytes: &[u8]) -> Option<&[u8]> {
    let from = bytes.len().saturating_sub(LONGEST_HELLO);
    (from..bytes.len()).rev().filter_map(|start| bytes.get(start..)).find(|frame| is_hello(frame))
}

fn is_hello(frame: &[u8]) -> bool {
    let Some((head, body)) = frame.split_first_chunk::<4>() else { return false };
    let announced = usize::try_from(u32::from_be_bytes(*head)).ok();
    if announced != Some(body.len()) {
        return false;
    }
    let message = decode::<HostFrame>(body).ok().and_then(|frame| frame.message);
    matches!(message, Some(HostMessage::Hello(hello)) if hello.nonce.len() == NONCE && hello.protocol > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::{Hello, encode};

    fn hello(stream: u32, protocol: u32) -> Vec<u8> {
        let hello = Hello { nonce: vec![0xff; NONCE], protocol };
        encode(&HostFrame { stream, message: Some(HostMessage::Hello(hello)) }).unwrap()
    }

    #[test]
    fn a_hello_that_swallows_the_next_one_is_not_the_one() {
        let real = hello(0, 1);
        let mut swallower = hello(0, 1)[4..].to_vec();
        // An unknown field, number 100, of as many bytes as the real hello has.
        swallower.extend([0xa2, 0x06, u8::try_from(real.len()).unwrap()]);
        let length = u32::try_from(swallower.len() + real.len()).unwrap();
        let bytes = [&length.to_be_bytes()[..], &swallower, &real].concat();
        assert!(bytes.len() <= LONGEST_HELLO && is_hello(&bytes));
        assert_eq!(hello_at_end(&bytes), Some(real.as_slice()));
    }

    #[test]
    fn a_hello_is_found_behind_anything_but_not_before_anything() {
        for hello in [hello(0, 1), hello(u32::MAX, u32::MAX)] {
            assert!(hello.len() <= LONGEST_HELLO);
            for ruins in [&b""[..], b"\0\0\x10\0half a fra", &[0; 500], &[0xff; 3]] {
                let mut bytes = ruins.to_vec();
                bytes.extend_from_slice(&hello);
                assert_eq!(hello_at_end(&bytes), Some(hello.as_slice()));
                bytes.push(0);
                assert_eq!(hello_at_end(&bytes), None);
            }
            assert_eq!(hello_at_end(&hello[1..]), None);
            assert_eq!(hello_at_end(&hello[..hello.len() - 1]), None);
        }
    }
}
