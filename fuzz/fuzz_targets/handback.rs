//! The files a program leaves for its user, from a guest that lies: whatever it sends, nothing is written outside of
//! the one directory, and nothing but plain files and directories of our own in it.
//!
//! The input is a text, so that the corpus can be read; a line is what the guest says next:
//!
//! ```text
//!   F MODE PATH   a file begins         D TEXT   bytes of it         L C   8 bytes of it, times the number of C
//!   Z TEXT        its last bytes        E        the tree is complete, with the right sums
//!   Y             so it says, with other sums                        S     something on another stream
//!   X             a message that does not belong there
//! ```
#![no_main]

use libfuzzer_sys::fuzz_target;
use outlast_fuzz::{files_below, names_in};
use outlast_runner::handback::fetch;
use outlast_runner::link::Link;
use outlast_wire::guest::{FileData, FileHeader, GuestFrame, GuestMessage, Pong, TreeDone, encode};
use std::os::unix::fs::PermissionsExt;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
}

fuzz_target!(|text: &[u8]| {
    let mut sums = TreeDone { files: 0, bytes: 0, skipped: 0 };
    let lines = text.split(|byte| *byte == b'\n');
    let said: Vec<(u32, GuestMessage)> = lines.map(|line| message(line, &mut sums)).collect();
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let inside = scratch.path().join("inside");
    std::fs::create_dir(&inside).expect("made");
    std::fs::set_permissions(&inside, PermissionsExt::from_mode(0o700)).expect("ours");
    let target = inside.join("outputs");
    let fetched = RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
            let mut frames = Vec::new();
            for (stream, message) in &said {
                let frame = GuestFrame { stream: *stream, message: Some(message.clone()) };
                frames.extend(encode(&frame).expect("short enough"));
            }
            let guest = tokio::spawn(async move {
                let _ = theirs.write_all(&frames).await;
                let _ = theirs.shutdown().await;
                // Kept open for what the host says, until the host is done.
                theirs
            });
            let mut link = Link::new(ours);
            let fetched = fetch(&mut link, &target).await;
            // Before the link goes: a write to a socket nobody reads is a signal that would end this process.
            guest.abort();
            drop(guest.await);
            fetched
        })
    });
    assert_eq!(names_in(scratch.path()), ["inside"], "something was written outside");
    if let Ok((files, bytes)) = fetched {
        assert_eq!(names_in(&inside), ["outputs"]);
        let found = files_below(&target);
        assert_eq!(found.len(), usize::try_from(files).expect("few"));
        assert_eq!(found.iter().map(|file| file.length).sum::<u64>(), bytes);
        assert_eq!(wanted(&said), found.into_iter().map(|file| (file.path, file.length)).collect::<Vec<_>>());
    } else {
        assert!(!target.exists(), "a tree that is not whole has its name");
        files_below(&inside);
    }
});

/// The files that a tree which was accepted must have.
fn wanted(said: &[(u32, GuestMessage)]) -> Vec<(std::path::PathBuf, u64)> {
    let mut wanted: Vec<(std::path::PathBuf, u64)> = Vec::new();
    for (stream, message) in said {
        match message {
            _ if *stream != 1 => {}
            GuestMessage::FileHeader(header) => {
                // As the file system sees it: no empty components, no dots.
                wanted.push((std::path::Path::new(&header.path).components().collect(), 0));
            }
            GuestMessage::FileData(data) => {
                wanted.last_mut().expect("bytes without a file are refused").1 += data.data.len() as u64;
            }
            _ => break,
        }
    }
    wanted.sort();
    wanted
}

/// What a line says; the sums are those of what was said so far.
fn message(line: &[u8], sums: &mut TreeDone) -> (u32, GuestMessage) {
    let (kind, rest) = line.split_at(line.len().min(2));
    let data = |data: Vec<u8>, last: bool, sums: &mut TreeDone| {
        sums.bytes += data.len() as u64;
        GuestMessage::FileData(FileData { data, last })
    };
    let message = match kind {
        b"F " => {
            let text = String::from_utf8_lossy(rest);
            let (mode, path) = text.split_once(' ').unwrap_or(("", &text));
            let mode = u32::from_str_radix(mode, 8).unwrap_or(0o644);
            sums.files += 1;
            GuestMessage::FileHeader(FileHeader { path: path.to_owned(), mode, size: 0 })
        }
        b"D " => data(rest.to_vec(), false, sums),
        b"Z" | b"Z " => data(rest.to_vec(), true, sums),
        b"L " => data(vec![b'l'; 8 * usize::from(rest.first().copied().unwrap_or(0))], false, sums),
        b"E" | b"E " => GuestMessage::TreeDone(*sums),
        b"Y" | b"Y " => GuestMessage::TreeDone(TreeDone { bytes: sums.bytes + 1, ..*sums }),
        b"S" | b"S " => return (0, GuestMessage::Pong(Pong {})),
        _ => GuestMessage::Pong(Pong {}),
    };
    (1, message)
}
