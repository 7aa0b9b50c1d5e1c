//! Where a workload's output goes: our own standard output and error, byte for byte, at once; or into memory.

use outlast_control::Sink;
use outlast_wire::output_log::Stream;
use std::io::{self, Stderr, Stdout, Write};
use std::os::fd::{AsFd, BorrowedFd};

/// Our own streams.
#[derive(Debug)]
pub(crate) struct OwnStreams {
    out: Stdout,
    err: Stderr,
}

impl Default for OwnStreams {
    fn default() -> Self {
        Self { out: io::stdout(), err: io::stderr() }
    }
}

impl Sink for OwnStreams {
    fn write(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        match stream {
            Stream::Stdout => {
                let mut out = self.out.lock();
                out.write_all(bytes)?;
                out.flush()
            }
            Stream::Stderr => self.err.lock().write_all(bytes),
        }
    }

    fn descriptor(&self, stream: Stream) -> Option<BorrowedFd<'_>> {
        Some(match stream {
            Stream::Stdout => self.out.as_fd(),
            Stream::Stderr => self.err.as_fd(),
        })
    }
}

/// Nowhere: what was written is read from the log later.
#[derive(Debug)]
pub(crate) struct Nowhere;

impl Sink for Nowhere {
    fn write(&mut self, _stream: Stream, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// Memory; the output limit bounds it.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Sink for Collected {
    fn write(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        match stream {
            Stream::Stdout => self.stdout.extend_from_slice(bytes),
            Stream::Stderr => self.stderr.extend_from_slice(bytes),
        }
        Ok(())
    }
}

impl Collected {
    /// Both streams as text; bytes that are not UTF-8 are replaced.
    pub(crate) fn into_texts(self) -> (String, String) {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (text(self.stdout), text(self.stderr))
    }
}
