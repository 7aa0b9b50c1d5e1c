//! Trees of files that no program left: what the hostile agent hands back.

use super::speech::{Speech, frame};
use outlast_wire::guest::{FileData, FileHeader, GuestMessage, MAX_CHUNK, TreeDone};

fn header(path: &str) -> GuestMessage {
    GuestMessage::FileHeader(FileHeader { path: path.to_owned(), mode: 0o7777, size: u64::MAX })
}

fn data(data: &[u8], last: bool) -> GuestMessage {
    GuestMessage::FileData(FileData { data: data.to_vec(), last })
}

fn done(files: u32, bytes: u64) -> GuestMessage {
    GuestMessage::TreeDone(TreeDone { files, bytes, skipped: 0 })
}

/// Sends the tree of that name; `false` when there is none.
pub(super) fn send(speech: &mut Speech, stream: u32, name: &str) -> bool {
    let mut files = |paths: &[&str]| {
        for path in paths {
            for message in [header(path), data(b"owned\n", true)] {
                speech.say(stream, message);
            }
        }
        let count = u32::try_from(paths.len()).unwrap_or(u32::MAX);
        speech.say(stream, done(count, 6 * u64::from(count)));
    };
    match name {
        "traversal" => files(&["good", "../../../../../../tmp/oe-escaped"]),
        "absolute" => files(&["/tmp/oe-escaped"]),
        "escapes" => files(&["\u{1b}]0;owned\u{7}\u{1b}[2Jx\ny", "\u{1b}]0;owned\u{7}\u{1b}[2Jx\ny"]),
        "strange" => files(&["new\nline", "\u{1b}[31mred", "-rf", " ", "\u{202e}txt.exe"]),
        "deep" => deep(speech, stream),
        "million" => million(speech, stream),
        "endless" => {
            speech.say(stream, header("endless"));
            let piece = frame(stream, data(&vec![b'x'; MAX_CHUNK], false));
            loop {
                speech.raw(&piece);
            }
        }
        "nothing-for-ever" => {
            speech.say(stream, header("nothing"));
            let piece = frame(stream, data(b"", false));
            loop {
                speech.raw(&piece);
            }
        }
        "liar" => {
            for message in [header("one"), data(b"x", true), done(7, 1 << 40)] {
                speech.say(stream, message);
            }
        }
        "no-file" => speech.say(stream, data(b"of nothing", false)),
        _ => return false,
    }
    true
}

/// Ten thousand files, each in thirty directories of its own.
fn deep(speech: &mut Speech, stream: u32) {
    for file in 0..10_000_u32 {
        let mut bytes = frame(stream, header(&format!("{file}/{}f", "d/".repeat(29))));
        bytes.extend(frame(stream, data(b"", true)));
        speech.raw(&bytes);
    }
    speech.say(stream, done(10_000, 0));
}

/// A million files with nothing in them.
fn million(speech: &mut Speech, stream: u32) {
    for file in 0..1_000_000_u32 {
        let mut bytes = frame(stream, header(&format!("{file}")));
        bytes.extend(frame(stream, data(b"", true)));
        speech.raw(&bytes);
    }
    speech.say(stream, done(1_000_000, 0));
}
