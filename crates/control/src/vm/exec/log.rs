//! What a program in a VM has written: read as far as there is more. That there is more is told by its runner.

use crate::follow::{Backlog, FollowError};
use outlast_wire::output_log::{OutputLogReader, Record};
use rustix::fs::FallocateFlags;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Read at once.
const CHUNK: usize = 64 * 1024;
/// The space of a log that is only passed on is given back in pieces of this size.
const PIECE: u64 = 4 << 20;

/// A program's output log, being read. It was opened at the beginning: its name may go while it is read.
#[derive(Debug)]
pub(super) struct ProgramLog {
    path: PathBuf,
    file: File,
    reader: OutputLogReader,
    chunk: Vec<u8>,
    dropped: u64,
    /// How much was read, where that is not kept.
    passing: Option<u64>,
}

impl ProgramLog {
    /// Opens it.
    pub(super) fn open(path: &Path, passing: bool) -> Result<Self, FollowError> {
        let opened = File::options().read(true).write(passing).open(path);
        let file = opened.map_err(|source| FollowError::Log { path: path.to_owned(), source })?;
        let (reader, chunk) = (OutputLogReader::new(), vec![0; CHUNK]);
        Ok(Self { path: path.to_owned(), file, reader, chunk, dropped: 0, passing: passing.then_some(0) })
    }

    /// Reads on, a chunk at a time, until there is something to pass on or nothing more to read.
    pub(super) fn refill(&mut self, backlog: &mut Backlog) -> Result<(), FollowError> {
        while backlog.is_empty() && self.read_chunk(backlog)? {}
        Ok(())
    }

    fn read_chunk(&mut self, backlog: &mut Backlog) -> Result<bool, FollowError> {
        let length = loop {
            match self.file.read(&mut self.chunk) {
                Ok(length) => break length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(FollowError::Log { path: self.path.clone(), source }),
            }
        };
        self.reader.push(&self.chunk[..length]);
        self.give_back(length as u64);
        let damaged = |source| FollowError::Damaged { path: self.path.clone(), source };
        while let Some(record) = self.reader.next_record().map_err(damaged)? {
            match record {
                Record::Data { stream, bytes, .. } => backlog.push(stream, &bytes),
                Record::Truncated { dropped, .. } => self.dropped = dropped,
            }
        }
        Ok(length > 0)
    }

    /// What was read takes no space any more. A file system that cannot do that keeps it until the program is over.
    fn give_back(&mut self, more: u64) {
        let Some(read) = self.passing.as_mut() else { return };
        let before = *read / PIECE;
        *read += more;
        let pieces = *read / PIECE - before;
        if pieces > 0 {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let _ = rustix::fs::fallocate(&self.file, flags, before * PIECE, pieces * PIECE);
        }
    }

    /// Bytes of output that were not kept, as far as was read.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlast_wire::output_log::{MAGIC, Stream};
    use std::io::Write;

    #[test]
    fn a_log_that_grows_and_loses_its_name_is_read_to_its_end() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("exec-1.log");
        let mut written = File::create(&path).unwrap();
        let mut log = ProgramLog::open(&path, false).unwrap();
        let mut backlog = Backlog::default();
        log.refill(&mut backlog).unwrap();
        assert!(backlog.is_empty());
        std::fs::remove_file(&path).unwrap();
        let record =
            |stream, bytes: &[u8]| Record::Data { stream, unix_ns: 0, offset: 0, bytes: bytes.to_vec() };
        let out = record(Stream::Stdout, b"out").encode();
        written.write_all(&[MAGIC.as_slice(), &out[..9]].concat()).unwrap();
        log.refill(&mut backlog).unwrap();
        assert!(backlog.is_empty(), "half a record is none");
        written
            .write_all(&[&out[9..], &Record::Truncated { unix_ns: 0, dropped: 5 }.encode()].concat())
            .unwrap();
        log.refill(&mut backlog).unwrap();
        assert_eq!((backlog.stream(), log.dropped()), (Some(Stream::Stdout), 5));
    }

    #[test]
    fn a_log_that_is_only_passed_on_gives_its_space_back() {
        use std::os::unix::fs::MetadataExt;
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("exec-1.log");
        let mut written = File::create(&path).unwrap();
        written.write_all(MAGIC).unwrap();
        let data = Record::Data { stream: Stream::Stdout, unix_ns: 0, offset: 0, bytes: vec![b'x'; 1 << 20] };
        for _ in 0..20 {
            written.write_all(&data.encode()).unwrap();
        }
        let mut log = ProgramLog::open(&path, true).unwrap();
        let mut read = 0;
        loop {
            let mut backlog = Backlog::default();
            log.refill(&mut backlog).unwrap();
            if backlog.is_empty() {
                break;
            }
            read += 1;
        }
        let status = std::fs::metadata(&path).unwrap();
        assert_eq!((read, status.len()), (20, 8 + 20 * (21 + (1 << 20))));
        assert!(status.blocks() * 512 < 6 << 20, "{} blocks", status.blocks());
    }
}
