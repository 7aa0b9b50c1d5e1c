//! The lease of a foreground run: one end of a socket pair whose other end the client holds.
//!
//! Nothing is ever said over it. End of file here means that the client is gone; end of file there means
//! that the runner is. It is held for the runner's whole life.

use outlast_machine::sys;
use std::io;
use std::os::fd::RawFd;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

/// The runner's end. Without a lease, [`Lease::lost`] never comes.
#[derive(Debug)]
pub(crate) struct Lease(Option<UnixStream>);

impl Lease {
    /// Takes over the inherited descriptor.
    pub(crate) fn take(descriptor: Option<RawFd>) -> io::Result<Self> {
        let Some(descriptor) = descriptor else { return Ok(Self(None)) };
        let stream = std::os::unix::net::UnixStream::from(sys::take_inherited(descriptor)?);
        stream.set_nonblocking(true)?;
        Ok(Self(Some(UnixStream::from_std(stream)?)))
    }

    /// Comes when the client is gone. Cancelling it loses nothing.
    pub(crate) async fn lost(&mut self) {
        let Some(stream) = &mut self.0 else { return std::future::pending().await };
        let mut ignored = [0; 64];
        // Whatever a client might say is ignored; an error is an end as well.
        while let Ok(1..) = stream.read(&mut ignored).await {}
    }
}
