//! The byte stream to the host, whatever carries it: today a virtio-serial port ([`port`]); a vsock listener
//! would stand beside it behind the same trait. Frames and their meaning are not known here.

mod port;
mod uevent;

pub(crate) use port::Port;
pub(crate) use uevent::{Uevents, WaitError};

use std::io;

/// A stream of bytes to whoever is at the other end now, and after a hang-up to whoever comes next.
pub(crate) trait ByteStream {
    /// Waits for bytes. `Ok(0)` means that the host hung up; reading again waits for the next one.
    /// Cancelled, it has read nothing.
    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Waits until some of `bytes` could be written, and returns how many. Waits for ever while no host is
    /// there: it is the reader that learns of a hang-up. Cancelled, it has written nothing.
    async fn write(&self, bytes: &[u8]) -> io::Result<usize>;
}
