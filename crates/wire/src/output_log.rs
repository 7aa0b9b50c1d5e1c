//! The output log: what a program wrote, as the host kept it before anybody saw it.
//!
//! ```text
//!   file   = "OUTLAST1" record*
//!   record = kind u8 · unix_ns u64 · offset u64 · length u32 · payload[length]      (integers little-endian)
//! ```
//!
//! `kind` 1 is standard output, 2 standard error: `offset` is that stream's byte offset. 3 marks
//! truncation: `offset` is the number of bytes that were not kept so far; it is written at the cut, is the last
//! record, and is rewritten in its place as that number grows. When the log was finished it is exact; of a log that
//! nobody finished it tells the least.
//! A partial record at the end is one being written, or torn by a crash; the reader waits or stops there.

use thiserror::Error;

/// The first bytes of the file.
pub const MAGIC: &[u8; 8] = b"OUTLAST1";
/// Bytes of a record before its payload.
pub const HEADER: usize = 21;
/// Longest payload of one record, in bytes.
pub const MAX_PAYLOAD: usize = 1024 * 1024;

/// Which stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Bytes the program wrote.
    Data {
        /// To which stream.
        stream: Stream,
        /// When the runner had them, in nanoseconds since the Unix epoch.
        unix_ns: u64,
        /// Where they begin in that stream.
        offset: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// From here on nothing was kept.
    Truncated {
        /// When it was written, in nanoseconds since the Unix epoch.
        unix_ns: u64,
        /// How many bytes were not kept; at least as many, when the log was not finished.
        dropped: u64,
    },
}

/// A file is not an output log, from this offset on.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OutputLogError {
    /// The first bytes are not [`MAGIC`].
    #[error("not an output log")]
    NotALog,
    /// A record's kind is unknown.
    #[error("unknown record kind {kind} at byte {at}")]
    UnknownKind {
        /// The kind.
        kind: u8,
        /// Where.
        at: u64,
    },
    /// A record's length is over [`MAX_PAYLOAD`], or that of a mark of truncation, which has no payload, is not zero.
    #[error("record of {length} bytes at byte {at}")]
    TooLong {
        /// The length.
        length: u32,
        /// Where.
        at: u64,
    },
}

impl Record {
    /// The record's bytes.
    ///
    /// Payloads longer than [`MAX_PAYLOAD`] are the caller's to split; here they are cut.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, unix_ns, offset, bytes): (u8, u64, u64, &[u8]) = match self {
            Self::Data { stream: Stream::Stdout, unix_ns, offset, bytes } => (1, *unix_ns, *offset, bytes),
            Self::Data { stream: Stream::Stderr, unix_ns, offset, bytes } => (2, *unix_ns, *offset, bytes),
            Self::Truncated { unix_ns, dropped } => (3, *unix_ns, *dropped, &[]),
        };
        let bytes = &bytes[..bytes.len().min(MAX_PAYLOAD)];
        let length = u32::try_from(bytes.len()).unwrap_or(0);
        let mut out = Vec::with_capacity(HEADER + bytes.len());
        out.push(kind);
        out.extend_from_slice(&unix_ns.to_le_bytes());
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(bytes);
        out
    }
}

/// Reads an output log in pieces, as it grows.
#[derive(Debug, Default)]
pub struct OutputLogReader {
    buffer: Vec<u8>,
    start: usize,
    consumed: u64,
    magic_seen: bool,
}

impl OutputLogReader {
    /// A reader at the beginning of a file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes read from the file.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// How many bytes of what was pushed are the magic and whole records.
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Whether everything pushed so far was whole records.
    pub fn is_whole(&self) -> bool {
        self.start == self.buffer.len()
    }

    /// The next whole record, or `None` until more bytes arrive.
    ///
    /// # Errors
    /// [`OutputLogError`] when the bytes are not an output log; nothing behind them can be read.
    pub fn next_record(&mut self) -> Result<Option<Record>, OutputLogError> {
        if !self.magic_seen {
            let Some(magic) = self.buffer[self.start..].first_chunk::<{ MAGIC.len() }>() else {
                return Ok(None);
            };
            // Looked at, not taken: what is no log now will be none when asked again.
            if magic != MAGIC {
                return Err(OutputLogError::NotALog);
            }
            self.consume(MAGIC.len());
            self.magic_seen = true;
        }
        let Some(header) = self.buffer[self.start..].first_chunk::<HEADER>().copied() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([header[17], header[18], header[19], header[20]]);
        let longest = match header[0] {
            1 | 2 => MAX_PAYLOAD,
            3 => 0,
            kind => return Err(OutputLogError::UnknownKind { kind, at: self.consumed }),
        };
        let payload = usize::try_from(length).unwrap_or(usize::MAX);
        if payload > longest {
            return Err(OutputLogError::TooLong { length, at: self.consumed });
        }
        let bytes = self.buffer[self.start..].get(HEADER..HEADER + payload);
        let Some(record) = bytes.map(|bytes| record_of(&header, bytes)) else { return Ok(None) };
        self.consume(HEADER + payload);
        Ok(Some(record))
    }

    fn consume(&mut self, length: usize) {
        self.start += length;
        self.consumed += length as u64;
    }
}

fn record_of(header: &[u8; HEADER], payload: &[u8]) -> Record {
    let word = |at: usize| {
        let bytes: [u8; 8] = header[at..at + 8].try_into().expect("eight bytes of the header");
        u64::from_le_bytes(bytes)
    };
    let (unix_ns, offset) = (word(1), word(9));
    match header[0] {
        1 => Record::Data { stream: Stream::Stdout, unix_ns, offset, bytes: payload.to_vec() },
        2 => Record::Data { stream: Stream::Stderr, unix_ns, offset, bytes: payload.to_vec() },
        _ => Record::Truncated { unix_ns, dropped: offset },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record() -> impl Strategy<Value = Record> {
        let stream = prop::sample::select(&[Stream::Stdout, Stream::Stderr][..]);
        prop_oneof![
            (stream, any::<u64>(), any::<u64>(), prop::collection::vec(any::<u8>(), 0..100))
                .prop_map(|(stream, unix_ns, offset, bytes)| Record::Data { stream, unix_ns, offset, bytes }),
            (any::<u64>(), any::<u64>())
                .prop_map(|(unix_ns, dropped)| Record::Truncated { unix_ns, dropped }),
        ]
    }

    #[test]
    fn a_mark_of_truncation_with_a_payload_is_no_record() {
        let mut bytes = [MAGIC.as_slice(), &Record::Truncated { unix_ns: 0, dropped: 1 }.encode()].concat();
        bytes[MAGIC.len() + HEADER - 4] = 1;
        bytes.push(b'x');
        let mut reader = OutputLogReader::new();
        reader.push(&bytes);
        let error = OutputLogError::TooLong { length: 1, at: MAGIC.len() as u64 };
        assert_eq!(reader.next_record(), Err(error));
    }

    #[test]
    fn what_is_no_log_stays_none() {
        let mut reader = OutputLogReader::new();
        reader.push(&[b"no magic", MAGIC.as_slice()].concat());
        for _ in 0..2 {
            assert_eq!(reader.next_record(), Err(OutputLogError::NotALog));
        }
        assert_eq!(reader.consumed(), 0);
    }

    proptest! {
        #[test]
        fn records_survive_any_fragmentation(records in prop::collection::vec(record(), 0..20), piece in 1usize..50) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend(records.iter().flat_map(Record::encode));
            let (mut reader, mut seen) = (OutputLogReader::new(), Vec::new());
            for chunk in bytes.chunks(piece) {
                reader.push(chunk);
                while let Some(record) = reader.next_record().unwrap() {
                    seen.push(record);
                }
            }
            prop_assert_eq!(seen, records);
            prop_assert!(reader.is_whole());
        }

        #[test]
        fn rubbish_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..2048), real_magic: bool) {
            let mut reader = OutputLogReader::new();
            if real_magic { reader.push(MAGIC); }
            reader.push(&bytes);
            while let Ok(Some(_)) = reader.next_record() {}
        }
    }
}
