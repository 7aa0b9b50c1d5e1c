//! The output log, as followers read it while it grows: pieces make no difference, what was read is exactly what
//! stands in the file, and a slow reader is given all of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outlast_control::{Sink, pass_on};
use outlast_fuzz::pieces;
use outlast_wire::output_log::{MAGIC, MAX_PAYLOAD, OutputLogError, OutputLogReader, Record, Stream};

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // Most inputs do not begin like a log; all of them can be one.
    check(&[MAGIC.as_slice(), bytes].concat());
});

#[derive(Debug, PartialEq)]
struct Read {
    records: Vec<Record>,
    error: Option<OutputLogError>,
    consumed: u64,
    is_whole: bool,
}

fn check(bytes: &[u8]) {
    let whole = read(std::iter::once(bytes));
    assert_eq!(whole, read(pieces(bytes)), "pieces change what is read");
    let consumed = usize::try_from(whole.consumed).expect("no more than there is");
    assert_eq!(whole.is_whole, consumed == bytes.len());
    if consumed > 0 {
        let mut again = MAGIC.to_vec();
        again.extend(whole.records.iter().flat_map(Record::encode));
        assert_eq!(again, bytes[..consumed], "a record was read that is not there");
    }
    let mut screen = Screen::default();
    let mut written = [Vec::new(), Vec::new()];
    for record in &whole.records {
        if let Record::Data { stream, bytes, .. } = record {
            assert!(bytes.len() <= MAX_PAYLOAD);
            written[usize::from(*stream == Stream::Stderr)].extend_from_slice(bytes);
            pass_on(&mut screen, *stream, bytes, None).expect("a screen takes everything");
        }
    }
    assert_eq!(screen.0, written);
}

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Read {
    let mut reader = OutputLogReader::new();
    let (mut records, mut error) = (Vec::new(), None);
    for piece in pieces {
        reader.push(piece);
        loop {
            match reader.next_record() {
                Ok(Some(record)) => records.push(record),
                Ok(None) => break,
                Err(found) => {
                    assert_eq!(reader.next_record(), Err(found.clone()), "what is no log stays none");
                    error = error.or(Some(found));
                    break;
                }
            }
        }
    }
    Read { records, error, consumed: reader.consumed(), is_whole: reader.is_whole() }
}

#[derive(Default)]
struct Screen([Vec<u8>; 2]);

impl Sink for Screen {
    fn write(&mut self, stream: Stream, bytes: &[u8]) -> std::io::Result<()> {
        self.0[usize::from(stream == Stream::Stderr)].extend_from_slice(bytes);
        Ok(())
    }
}
