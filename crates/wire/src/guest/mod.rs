//! The guest link: what host and agent say to each other over a byte stream
//! (a virtio-serial port under QEMU, a vsock connection elsewhere).
//!
//! Every message travels in a frame of its own:
//!
//! ```text
//!   +----------------+---------------------------+
//!   | length, u32 BE | protobuf message          |   length ≤ MAX_FRAME
//!   +----------------+---------------------------+
//! ```
//!
//! The host opens a *stream* by sending a request with a stream id it has not used on this connection;
//! every answer to that request carries the same id. A connection begins with [`Hello`] and its nonce, and
//! whatever arrives before the matching [`HelloAck`] is a leftover of an earlier connection and is dropped.
//!
//! Flow control: data towards the guest (stdin, files) is sent only against [`Credit`] the guest has given, in
//! frames of its own: [`INITIAL_CREDIT`] when it accepts a stream that takes data, then as much as it has used
//! up. Nothing is implied; data without credit ends the conversation. Data from the guest is always drained by
//! the host and needs no credit.
//!
//! This module knows neither files nor sockets; the services behind the messages live in `runner` and `agent`.
//! Everything decoded here may come from a hostile guest: lengths are checked before memory is taken.

mod codec;
pub mod copy;
#[cfg(test)]
mod frozen;
mod hello;
mod message;
pub mod usage;
mod words;

pub use codec::{FrameDecoder, FrameError, decode, encode};
pub use hello::{Answer, LONGEST_HELLO, answer_within, hello_at_end};
pub use message::*;
pub use words::{guest_path, guest_words};

/// Longest protobuf message in a frame, in bytes. A longer announced length ends the connection.
pub const MAX_FRAME: usize = 1024 * 1024;

/// Longest protobuf message in a frame of the guest, in bytes: a piece of data and what is around it. It is much
/// shorter than [`MAX_FRAME`], because a message can take many times its length in memory once it is decoded, and
/// it is the host that decodes it.
pub const MAX_GUEST_FRAME: usize = MAX_CHUNK + 8 * 1024;

/// Largest piece of data in one [`Output`], [`FileData`] or [`StdinData`] message, in bytes.
pub const MAX_CHUNK: usize = 64 * 1024;

/// Credit the guest gives for a stream when it accepts it, in bytes.
pub const INITIAL_CREDIT: u32 = 256 * 1024;

/// The protocol generation spoken by this build; an agent of another generation is refused at hello.
pub const PROTOCOL: u32 = 1;

/// The machine's own disk, as the guest sees it: the second virtio disk, behind the image's.
pub const SCRATCH_DEVICE: &str = "/dev/vdb";

/// The name of the virtio-serial port the link runs over, as QEMU and the guest see it.
pub const PORT_NAME: &str = "outlast.agent";
