//! Keeps what a program writes, on the host's disk, before anybody sees it.
//!
//! The log is appended as data arrives and synced once, before the outcome is written. Output beyond the
//! limit is counted and dropped, and the log says so; the program is never stopped for it.

use crate::clock;
use outlast_model::{Memory, limit};
use outlast_wire::output_log::{HEADER, MAGIC, Record, Stream};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// An output log being written.
#[derive(Debug)]
pub(crate) struct OutputLog {
    file: File,
    length: u64,
    room: u64,
    stdout: u64,
    stderr: u64,
    dropped: u64,
    unchecked: u64,
}

/// Records shorter than this are charged with their header, in bytes. The agent sends what it reads from a
/// pipe, so an ordinary program has few of them.
const SMALL: usize = 16;

/// After this much more output the free space of the disk is looked at again, in bytes.
const LOOK_EVERY: u64 = 1024 * 1024;

impl OutputLog {
    /// Makes the log; `limit` is how many bytes of output are kept, both streams together.
    pub(crate) fn create(path: &Path, limit: u64) -> io::Result<Self> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(MAGIC)?;
        Ok(Self {
            file,
            length: MAGIC.len() as u64,
            room: limit,
            stdout: 0,
            stderr: 0,
            dropped: 0,
            unchecked: LOOK_EVERY,
        })
    }

    /// Keeps bytes the program wrote, as far as there is room.
    pub(crate) fn append(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let room = usize::try_from(self.room).unwrap_or(usize::MAX);
        // Once something was dropped nothing later is kept: a gap in the middle would be a lie.
        let kept = if self.dropped > 0 { 0 } else { bytes.len().min(room) };
        self.dropped += (bytes.len() - kept) as u64;
        if kept == 0 {
            return Ok(());
        }
        let offset = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let record = Record::Data {
            stream,
            unix_ns: clock::unix_ns(),
            offset: *offset,
            bytes: bytes[..kept].to_vec(),
        };
        *offset += kept as u64;
        // A guest that writes byte by byte must not make the log many times larger than its limit.
        let charged = if kept < SMALL { (kept + HEADER) as u64 } else { kept as u64 };
        self.room = self.room.saturating_sub(charged);
        self.write(&record)
    }

    /// Marks what was dropped and syncs. Returns the log's length and how many bytes were dropped.
    pub(crate) fn finish(mut self) -> io::Result<(u64, u64)> {
        if self.dropped > 0 {
            self.write(&Record::Truncated { unix_ns: clock::unix_ns(), dropped: self.dropped })?;
        }
        if self.length > MAGIC.len() as u64 {
            self.file.sync_data()?;
        }
        Ok((self.length, self.dropped))
    }

    /// Output must not take the last space of a disk: the outcome is still to be written there.
    fn leave_room(&mut self, more: u64) -> io::Result<()> {
        self.unchecked += more;
        if self.unchecked < LOOK_EVERY {
            return Ok(());
        }
        self.unchecked = 0;
        leave_room(&self.file)
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        let bytes = record.encode();
        self.leave_room(bytes.len() as u64)?;
        self.file.write_all(&bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }
}

/// Refuses to go on when a file's disk has no space left but what the outcome needs.
pub(crate) fn leave_room(file: &File) -> io::Result<()> {
    let disk = rustix::fs::fstatvfs(file)?;
    if disk.f_bavail.saturating_mul(disk.f_frsize) < limit::OUTPUT_RESERVE {
        let least = limit::OUTPUT_RESERVE / Memory::MIB;
        let full = format!("less than {least} MiB of space is left on its disk");
        return Err(io::Error::new(io::ErrorKind::StorageFull, full));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlast_wire::output_log::OutputLogReader;

    fn records(path: &Path) -> Vec<Record> {
        let mut reader = OutputLogReader::new();
        reader.push(&std::fs::read(path).unwrap());
        std::iter::from_fn(|| reader.next_record().unwrap()).collect()
    }

    #[test]
    fn output_over_the_limit_is_counted_and_marked_once_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("output.log");
        let mut log = OutputLog::create(&path, 50).unwrap();
        log.append(Stream::Stdout, &[b'a'; 30]).unwrap();
        log.append(Stream::Stderr, &[b'b'; 40]).unwrap();
        log.append(Stream::Stdout, b"h").unwrap();
        let (length, dropped) = log.finish().unwrap();
        assert_eq!(dropped, 21);
        assert_eq!(length, std::fs::metadata(&path).unwrap().len());
        let kept: Vec<_> = records(&path)
            .into_iter()
            .map(|record| match record {
                Record::Data { stream, offset, bytes, .. } => (Some(stream), offset, bytes),
                Record::Truncated { dropped, .. } => (None, dropped, Vec::new()),
            })
            .collect();
        let expected = vec![
            (Some(Stream::Stdout), 0, vec![b'a'; 30]),
            (Some(Stream::Stderr), 0, vec![b'b'; 20]),
            (None, 21, Vec::new()),
        ];
        assert_eq!(kept, expected);
    }

    #[test]
    fn output_byte_by_byte_cannot_make_the_log_much_larger_than_its_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("output.log");
        let mut log = OutputLog::create(&path, 1000).unwrap();
        for _ in 0..2000 {
            log.append(Stream::Stdout, b"x").unwrap();
        }
        let (length, dropped) = log.finish().unwrap();
        assert!(length < 1200, "{length}");
        assert!(dropped > 1900, "{dropped}");
    }

    #[test]
    fn a_log_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("output.log");
        OutputLog::create(&path, 5).unwrap();
        assert!(OutputLog::create(&path, 5).is_err());
    }
}
