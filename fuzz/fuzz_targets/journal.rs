//! The journal of a runner that may have died in the middle of a line, and that may have been written by anyone who
//! could write the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outlast_wire::journal::Journal;

fuzz_target!(|bytes: &[u8]| {
    let journal = Journal::parse(bytes);
    let lines = bytes.split(|byte| *byte == b'\n').count();
    assert!(journal.lines.len() <= lines && journal.torn_at.is_none_or(|at| 1 <= at && at <= lines));
    // Written and read again it is the same.
    let mut again = Vec::new();
    for line in &journal.lines {
        again.extend(serde_json::to_vec(line).expect("a line can be written"));
        again.push(b'\n');
    }
    let repeated = Journal::parse(&again);
    assert_eq!((&repeated.lines, repeated.torn_at), (&journal.lines, None));
    // A journal that was cut anywhere says nothing that the whole one does not. Only its last line may be missing its
    // end, and be one all the same: then nothing but the line break is missing.
    for cut in [bytes.len() / 3, bytes.len() / 2, bytes.len().saturating_sub(1)] {
        let cut = &bytes[..cut];
        let ended = cut.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let (earlier, ended) = (Journal::parse(cut), Journal::parse(&cut[..ended]));
        assert!(journal.lines.starts_with(&ended.lines), "cut it says something else");
        assert!(earlier.lines.starts_with(&ended.lines) && earlier.lines.len() <= ended.lines.len() + 1);
    }
    // What is appended behind a torn line is never read.
    if journal.torn_at.is_some() {
        let longer = Journal::parse(&[bytes, b"\n", &again].concat());
        assert_eq!(longer.lines, journal.lines);
    }
});
