//! The end of a log that grows: what is new in it, and a descriptor that tells when there is more.
//!
//! The log may not be there yet: until it is, its directory is watched.

use super::FollowError;
use crate::wait::Changes;
use outlast_wire::output_log::{OutputLogReader, Record, Stream};
use outlast_wire::paths::Evidence;
use rustix::fs::inotify::WatchFlags;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

/// Read at once.
const CHUNK: usize = 64 * 1024;

/// A log being read.
#[derive(Debug)]
pub(crate) struct Tail {
    path: PathBuf,
    changes: Changes,
    log: Option<File>,
    format: Format,
    chunk: Vec<u8>,
}

/// What a log is made of.
#[derive(Debug)]
enum Format {
    /// Records of two streams: what a program wrote.
    Records(OutputLogReader),
    /// Plain bytes, shown as standard output: what a console said.
    Plain,
}

impl Tail {
    /// Watches the output log in an evidence directory, from its beginning.
    pub(crate) fn of(evidence: &Evidence) -> Result<Self, FollowError> {
        Self::open(evidence, evidence.output_log(), Format::Records(OutputLogReader::new()))
    }

    /// Watches the guest's console, from its beginning.
    pub(crate) fn of_console(evidence: &Evidence) -> Result<Self, FollowError> {
        Self::open(evidence, evidence.console_log(), Format::Plain)
    }

    /// Watches what a program wrote that was run in a VM, from its beginning.
    pub(crate) fn of_program(evidence: &Evidence, number: u32) -> Result<Self, FollowError> {
        Self::open(evidence, evidence.exec_log(number), Format::Records(OutputLogReader::new()))
    }

    /// Watches the runner's journal, from its beginning, as bytes.
    pub(crate) fn of_journal(evidence: &Evidence) -> Result<Self, FollowError> {
        Self::open(evidence, evidence.journal(), Format::Plain)
    }

    fn open(evidence: &Evidence, path: PathBuf, format: Format) -> Result<Self, FollowError> {
        let failed = |source| FollowError::Log { path: evidence.path().to_owned(), source };
        // Order matters: watch first, look then, or what happens in between is missed.
        let changes =
            Changes::of(evidence.path(), WatchFlags::CREATE | WatchFlags::MOVED_TO).map_err(failed)?;
        let mut tail = Self { path, changes, log: None, format, chunk: vec![0; CHUNK] };
        tail.look()?;
        Ok(tail)
    }

    /// Opens the log if it is there by now.
    fn look(&mut self) -> Result<(), FollowError> {
        if self.log.is_some() {
            return Ok(());
        }
        match File::open(&self.path) {
            Ok(file) => {
                let watched = self.changes.and_of(&self.path, WatchFlags::MODIFY);
                watched.map_err(|error| self.failed(error))?;
                self.log = Some(file);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn failed(&self, source: io::Error) -> FollowError {
        FollowError::Log { path: self.path.clone(), source }
    }

    /// Gives everything that is new to `show`, in order.
    pub(crate) fn drain(&mut self, show: &mut dyn FnMut(Stream, &[u8])) -> Result<(), FollowError> {
        while self.read_chunk(show)? {}
        Ok(())
    }

    /// Gives what the next chunk of the log completes to `show`; `false` when there is no more yet.
    pub(crate) fn read_chunk(&mut self, show: &mut dyn FnMut(Stream, &[u8])) -> Result<bool, FollowError> {
        self.look()?;
        let Some(log) = &mut self.log else { return Ok(false) };
        let length = match retry_interrupted(|| log.read(&mut self.chunk)) {
            Ok(0) => return Ok(false),
            Ok(length) => length,
            Err(error) => return Err(self.failed(error)),
        };
        let new = &self.chunk[..length];
        let Format::Records(reader) = &mut self.format else {
            show(Stream::Stdout, new);
            return Ok(true);
        };
        reader.push(new);
        let damaged = |source| FollowError::Damaged { path: self.path.clone(), source };
        while let Some(record) = reader.next_record().map_err(damaged)? {
            // How much was not kept, the store tells.
            if let Record::Data { stream, bytes, .. } = record {
                show(stream, &bytes);
            }
        }
        Ok(true)
    }

    /// Takes note of what the descriptor told; what it means is seen by [`Tail::drain`].
    pub(crate) fn acknowledge(&self) -> Result<(), FollowError> {
        self.changes.acknowledge().map_err(|error| self.failed(error))
    }
}

fn retry_interrupted(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

impl AsFd for Tail {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.changes.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait;
    use outlast_wire::output_log::MAGIC;
    use std::io::Write;
    use std::time::Duration;

    fn record(stream: Stream, bytes: &[u8]) -> Vec<u8> {
        Record::Data { stream, unix_ns: 0, offset: 0, bytes: bytes.to_vec() }.encode()
    }

    fn drained(tail: &mut Tail) -> String {
        let mut seen = String::new();
        tail.drain(&mut |stream, bytes| {
            seen.push(if stream == Stream::Stdout { 'o' } else { 'e' });
            seen.push_str(std::str::from_utf8(bytes).unwrap());
        })
        .unwrap();
        seen
    }

    #[test]
    fn a_log_that_comes_later_and_grows_in_pieces_is_seen_whole_and_in_order() {
        let top = tempfile::tempdir().unwrap();
        let evidence = Evidence::at(top.path().to_owned());
        let mut tail = Tail::of(&evidence).unwrap();
        let more = |tail: &Tail| wait::readable(&[tail.as_fd()], Duration::from_secs(20)).unwrap().is_some();
        assert_eq!(drained(&mut tail), "");
        let mut log = File::create(evidence.output_log()).unwrap();
        log.write_all(MAGIC).unwrap();
        assert!(more(&tail));
        tail.acknowledge().unwrap();
        assert_eq!(drained(&mut tail), "");
        let first = record(Stream::Stdout, b"one");
        log.write_all(&first[..5]).unwrap();
        assert!(more(&tail), "growth of the log itself is told");
        tail.acknowledge().unwrap();
        assert_eq!(drained(&mut tail), "");
        log.write_all(&first[5..]).unwrap();
        log.write_all(&record(Stream::Stderr, b"two")).unwrap();
        log.write_all(&Record::Truncated { unix_ns: 0, dropped: 9 }.encode()).unwrap();
        assert_eq!(drained(&mut tail), "ooneetwo");
    }

    #[test]
    fn a_damaged_log_is_named() {
        let top = tempfile::tempdir().unwrap();
        let evidence = Evidence::at(top.path().to_owned());
        std::fs::write(evidence.output_log(), b"this is no log at all").unwrap();
        let error = Tail::of(&evidence).unwrap().drain(&mut |_, _| {}).unwrap_err();
        assert!(matches!(error, FollowError::Damaged { .. }));
    }
}
