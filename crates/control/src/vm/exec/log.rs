//! What a program in a VM has written: read as far as there is more. That there is more is told by its runner.

use crate::follow::{Backlog, FollowError};
use outlast_wire::output_log::{OutputLogReader, Record};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Read at once.
const CHUNK: usize = 64 * 1024;

/// A program's output log, being read. It was opened at the beginning: its name may go while it is read.
#[derive(Debug)]
pub(super) struct ProgramLog {
    path: PathBuf,
    file: File,
    reader: OutputLogReader,
    chunk: Vec<u8>,
    dropped: u64,
}

impl ProgramLog {
    /// Opens it.
    pub(super) fn open(path: &Path) -> Result<Self, FollowError> {
        let file = File::open(path).map_err(|source| FollowError::Log { path: path.to_owned(), source })?;
        let (reader, chunk) = (OutputLogReader::new(), vec![0; CHUNK]);
        Ok(Self { path: path.to_owned(), file, reader, chunk, dropped: 0 })
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
        let damaged = |source| FollowError::Damaged { path: self.path.clone(), source };
        while let Some(record) = self.reader.next_record().map_err(damaged)? {
            match record {
                Record::Data { stream, bytes, .. } => backlog.push(stream, &bytes),
                Record::Truncated { dropped, .. } => self.dropped = dropped,
            }
        }
        Ok(length > 0)
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
        let mut log = ProgramLog::open(&path).unwrap();
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
}
