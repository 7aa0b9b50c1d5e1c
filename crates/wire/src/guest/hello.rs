//! Finding a host's hello, and the answer to it, behind the ruins of an earlier connection.
//!
//! A host that dies within a frame, with another connecting at once, leaves no mark in the stream: the hang-up
//! and the new connection reach the guest together, and the agent sees only that more bytes came. The hello
//! then lies where the rest of the old frame should be. What can be known is that a host says hello and waits
//! for the answer, so its hello is the last thing that arrived.
//!
//! Contents of files may look like a hello, too: when one that was found is believed is the agent's decision.
//!
//! A guest that is restored was saved while it spoke to its former host, within a frame as likely as not. What is left
//! of that comes first, from wherever it was; the answer to the new host's hello is known by its nonce, which nobody
//! could have said before.

use super::{GuestFrame, GuestMessage, HelloAck, HostFrame, HostMessage, decode};

/// The nonce of every hello has this many bytes.
const NONCE: usize = 16;

/// Longest frame of a hello, in bytes: length, two tags with lengths, stream, nonce and protocol at their longest.
pub const LONGEST_HELLO: usize = 64;

/// Longest frame that answers a hello, in bytes: a version, a boot id and a kernel's release are short.
const LONGEST_ANSWER: usize = 4096;
/// So many bytes at most stand in such a frame before the nonce: length, stream, two tags with lengths.
const BEFORE_NONCE: usize = 24;

/// What is known of an answer to a hello among bytes that may begin anywhere.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// It is there, and ends where the rest begins.
    Found(Box<HelloAck>, usize),
    /// It is not there, or not whole. What stands before this place is no part of it.
    NotYet(usize),
}

/// Looks for the answer that repeats `nonce`. Whoever drops what it is told to drop never keeps more than what arrived
/// last and some thousand bytes.
pub fn answer_within(bytes: &[u8], nonce: &[u8; NONCE]) -> Answer {
    let mut from = 0;
    // What may still become one: where it may begin.
    let mut kept = bytes.len().saturating_sub(BEFORE_NONCE + NONCE);
    while let Some(at) = position(bytes.get(from..).unwrap_or_default(), nonce).map(|at| from + at) {
        let first = at.saturating_sub(BEFORE_NONCE);
        for start in (first..at).rev() {
            if let Some((ack, length)) = whole_answer(bytes.get(start..).unwrap_or_default(), nonce) {
                return Answer::Found(Box::new(ack), start + length);
            }
        }
        // Otherwise all of it would be there, and is no answer: somebody else repeated the nonce.
        if bytes.len() - first < LONGEST_ANSWER + BEFORE_NONCE {
            kept = kept.min(first);
        }
        from = at + 1;
    }
    Answer::NotYet(kept)
}

fn position(bytes: &[u8], nonce: &[u8; NONCE]) -> Option<usize> {
    bytes.windows(NONCE).position(|window| window == nonce)
}

/// The answer with which `bytes` begin, and its frame's length.
fn whole_answer(bytes: &[u8], nonce: &[u8; NONCE]) -> Option<(HelloAck, usize)> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    let announced = usize::try_from(u32::from_be_bytes(*head)).ok().filter(|long| *long <= LONGEST_ANSWER)?;
    let frame = decode::<GuestFrame>(rest.get(..announced)?).ok()?;
    match frame.message {
        Some(GuestMessage::HelloAck(ack)) if ack.nonce == nonce => Some((ack, announced + head.len())),
        _ => None,
    }
}

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
    use crate::guest::{Hello, PROTOCOL, Pong, encode};
    use proptest::prelude::*;

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

    const ASKED: [u8; NONCE] = [0xab; NONCE];

    fn answer(version: &str) -> (HelloAck, Vec<u8>) {
        let ack = HelloAck {
            nonce: ASKED.to_vec(),
            protocol: PROTOCOL,
            agent_version: version.to_owned(),
            boot_id: "0123".repeat(9),
            kernel: "6.1.0-outlast".to_owned(),
            uptime_ms: 77,
            kept: vec![1, 2],
            last_stream: 3,
            numbers: vec![1, 7],
        };
        let message = Some(GuestMessage::HelloAck(ack.clone()));
        (ack, encode(&GuestFrame { stream: 0, message }).unwrap())
    }

    /// Reads as a host does: so much at a time, dropping what it may.
    fn read(bytes: &[u8], at_once: usize) -> Option<(HelloAck, Vec<u8>)> {
        let mut kept = Vec::new();
        for (number, piece) in bytes.chunks(at_once).enumerate() {
            kept.extend_from_slice(piece);
            match answer_within(&kept, &ASKED) {
                Answer::Found(ack, end) => {
                    let rest = bytes.get((number + 1) * at_once..).unwrap_or_default();
                    return Some((*ack, [kept.get(end..).unwrap(), rest].concat()));
                }
                Answer::NotYet(from) => drop(kept.drain(..from)),
            }
            assert!(kept.len() <= LONGEST_ANSWER + 2 * BEFORE_NONCE + NONCE, "{}", kept.len());
        }
        None
    }

    #[test]
    fn an_answer_is_found_behind_the_rest_of_anything_and_nothing_after_it_is_lost() {
        let pong = encode(&GuestFrame { stream: 3, message: Some(GuestMessage::Pong(Pong {})) }).unwrap();
        for version in ["0.1.0", &"9".repeat(3000)] {
            let (ack, frame) = answer(version);
            for ruins in [&b""[..], b"ame of the former host", &[0; 5000], &[0xff; 6000], &ASKED, &frame[7..]]
            {
                let bytes = [ruins, &frame, &pong].concat();
                for at_once in [1, 64, 1 << 20] {
                    let (found, rest) = read(&bytes, at_once).expect("it is there");
                    assert!(found == ack && rest == pong, "{} bytes of ruins", ruins.len());
                }
            }
        }
    }

    #[test]
    fn what_nobody_answered_is_not_found() {
        let other = HelloAck { nonce: vec![1; NONCE], ..answer("0").0 };
        let other = encode(&GuestFrame { stream: 0, message: Some(GuestMessage::HelloAck(other)) }).unwrap();
        assert_eq!(read(&other, 5), None);
        assert_eq!(read(&ASKED.repeat(500), 16), None);
    }

    proptest! {
        #[test]
        fn ruins_of_any_kind_hide_no_answer(ruins in prop::collection::vec(any::<u8>(), 0..300), at_once in 1usize..90) {
            let (ack, frame) = answer("0.1.0");
            let (found, rest) = read(&[ruins, frame].concat(), at_once).expect("it is there");
            prop_assert!(found == ack && rest.is_empty());
        }
    }
}
