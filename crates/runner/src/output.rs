//! Keeps what a program writes, on the host's disk, before anybody sees it.
//!
//! The log is appended as data arrives and synced once, before the outcome is written. Output beyond the
//! limit is counted and dropped, and the log says so from the moment of the cut on: a runner that is killed later
//! leaves a log that does not look whole. The program is never stopped for it.

use crate::clock;
use outlast_model::{Memory, limit};
use outlast_wire::output_log::{HEADER, MAGIC, Record, Stream};
use rustix::fs::FallocateFlags;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// An output log being written.
#[derive(Debug)]
pub(crate) struct OutputLog {
    file: File,
    length: u64,
    /// The log itself may be so long, without the mark.
    longest: u64,
    room: u64,
    stdout: u64,
    stderr: u64,
    dropped: u64,
    mark: Option<Mark>,
    unchecked: u64,
    /// Whether its reader takes out what it has read, and so bounds what is kept.
    taken_out: bool,
}

/// The record that says that something was dropped: the last of the log, and it stays in its place.
#[derive(Debug, Clone, Copy)]
struct Mark {
    /// Where it begins in the file.
    at: u64,
    /// How many dropped bytes it speaks of.
    dropped: u64,
}

/// After so many more dropped bytes the mark is brought up to date.
const MARK_EVERY: u64 = 1024 * 1024;

/// A log may be longer than its limit by half of it and by this, in bytes: what comes in small pieces has more of
/// headers than of output.
const HEADERS: u64 = 4096;

/// After this much more output the free space of the disk is looked at again, in bytes.
const LOOK_EVERY: u64 = 1024 * 1024;

/// What stat(2) counts in, in bytes.
const BLOCK: u64 = 512;

/// Whether the space of what was read can be given back on this file system at all.
fn has_holes(file: &File) -> bool {
    rustix::fs::fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 4096, 4096).is_ok()
}

impl OutputLog {
    /// Makes the log; `limit` is how many bytes of output are kept, both streams together. Beyond what anybody may ask
    /// to be kept, it is whoever reads it that makes room: what lies unread is at most [`limit::UNREAD_BYTES`], and
    /// what comes then is dropped.
    pub(crate) fn create(path: &Path, limit: u64) -> io::Result<Self> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(MAGIC)?;
        Ok(Self {
            taken_out: limit > limit::OUTPUT_BYTES_MAX && has_holes(&file),
            file,
            length: MAGIC.len() as u64,
            longest: limit.saturating_add(limit / 2).saturating_add(HEADERS),
            room: limit,
            stdout: 0,
            stderr: 0,
            dropped: 0,
            mark: None,
            unchecked: LOOK_EVERY,
        })
    }

    /// Its length so far, in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Keeps bytes the program wrote, as far as there is room.
    pub(crate) fn append(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let header = HEADER as u64;
        let room = self.room.min(self.longest.saturating_sub(self.length + header));
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        // Once something was dropped nothing later is kept: a gap in the middle would be a lie.
        let kept = if self.dropped > 0 { 0 } else { bytes.len().min(room) };
        if kept > 0 {
            self.keep(stream, &bytes[..kept])?;
        }
        self.dropped += (bytes.len() - kept) as u64;
        let due = match self.mark {
            None => self.dropped > 0,
            Some(mark) => self.dropped - mark.dropped >= MARK_EVERY,
        };
        if due { self.mark() } else { Ok(()) }
    }

    fn keep(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let offset = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let record =
            Record::Data { stream, unix_ns: clock::unix_ns(), offset: *offset, bytes: bytes.to_vec() };
        *offset += bytes.len() as u64;
        self.room = self.room.saturating_sub(bytes.len() as u64);
        self.write(&record)
    }

    /// Says in the log how much was dropped so far: in a record of its own, which is rewritten as that grows.
    fn mark(&mut self) -> io::Result<()> {
        let record = Record::Truncated { unix_ns: clock::unix_ns(), dropped: self.dropped };
        let at = if let Some(mark) = self.mark {
            self.file.write_all_at(&record.encode(), mark.at)?;
            mark.at
        } else {
            let at = self.length;
            self.write(&record)?;
            at
        };
        self.mark = Some(Mark { at, dropped: self.dropped });
        Ok(())
    }

    /// Marks what was dropped. Returns the log's length and how many bytes were dropped.
    pub(crate) fn close(mut self) -> io::Result<(u64, u64)> {
        self.mark_all()?;
        Ok((self.length, self.dropped))
    }

    fn mark_all(&mut self) -> io::Result<()> {
        if self.dropped > 0 { self.mark() } else { Ok(()) }
    }

    /// The same, and syncs: for what an outcome speaks of.
    pub(crate) fn finish(mut self) -> io::Result<(u64, u64)> {
        self.mark_all()?;
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
        if self.taken_out && self.file.metadata()?.blocks() * BLOCK > limit::UNREAD_BYTES {
            self.room = 0;
        }
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
    fn a_log_that_nobody_finished_says_that_it_was_cut() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("output.log");
        let mut log = OutputLog::create(&path, 50).unwrap();
        log.append(Stream::Stdout, &[b'a'; 60]).unwrap();
        let marked = |path: &Path| match records(path).pop() {
            Some(Record::Truncated { dropped, .. }) => dropped,
            other => panic!("{other:?}"),
        };
        assert_eq!(marked(&path), 10);
        let length = std::fs::metadata(&path).unwrap().len();
        for _ in 0..20 {
            log.append(Stream::Stderr, &vec![b'b'; 256 * 1024]).unwrap();
        }
        let all = 10 + 20 * 256 * 1024;
        assert!(marked(&path) > all - MARK_EVERY && marked(&path) <= all, "{}", marked(&path));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), length, "it is rewritten in its place");
        // Killed here: nothing more is written.
        std::mem::forget(log);
        assert_eq!(records(&path).len(), 2);
    }

    #[test]
    fn output_byte_by_byte_cannot_make_the_log_much_larger_than_its_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("output.log");
        let mut log = OutputLog::create(&path, 10_000).unwrap();
        for _ in 0..20_000 {
            log.append(Stream::Stdout, b"x").unwrap();
        }
        let (length, dropped) = log.finish().unwrap();
        assert!(length <= 15_000 + HEADERS + HEADER as u64, "{length}");
        assert!(dropped > 19_000, "{dropped}");
        let path = directory.path().join("in-pieces.log");
        let mut log = OutputLog::create(&path, 100_000).unwrap();
        for _ in 0..4000 {
            log.append(Stream::Stdout, &[b'x'; 50]).unwrap();
        }
        let (length, dropped) = log.finish().unwrap();
        assert_eq!(dropped, 100_000, "lines of fifty bytes are kept up to the limit");
        assert!(length < 150_000, "{length}");
    }

    #[test]
    fn what_nobody_takes_out_of_a_log_that_is_only_passed_on_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("exec-1.log");
        let piece = vec![b'x'; 1 << 20];
        let mut log = OutputLog::create(&path, u64::MAX).unwrap();
        let reader = OpenOptions::new().write(true).open(&path).unwrap();
        let take_out = |from: u64, length: u64| {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&reader, flags, from, length).unwrap();
        };
        // Four times as much as may lie there, and somebody reads it.
        for _ in 0..4 * limit::UNREAD_BYTES / (4 << 20) {
            let from = log.length();
            for _ in 0..4 {
                log.append(Stream::Stdout, &piece).unwrap();
            }
            take_out(from.next_multiple_of(4096), 4 << 20);
        }
        assert_eq!(log.dropped, 0);
        // A reader that stands still.
        for _ in 0..2 * limit::UNREAD_BYTES / (1 << 20) {
            log.append(Stream::Stdout, &piece).unwrap();
        }
        let kept = std::fs::metadata(&path).unwrap().blocks() * BLOCK;
        assert!(kept < limit::UNREAD_BYTES + (4 << 20), "{kept}");
        assert!(log.finish().unwrap().1 > 0, "and it says so");
    }

    #[test]
    fn a_log_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("output.log");
        OutputLog::create(&path, 5).unwrap();
        assert!(OutputLog::create(&path, 5).is_err());
    }
}
