//! What several fuzz targets share: cutting bytes into pieces, reading frames both ways, and looking at what was
//! written to a disk. Not responsible for any property of its own.

use outlast_wire::guest::{FrameDecoder, FrameError, MAX_FRAME, MAX_GUEST_FRAME, encode};
use prost::Message;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The bytes cut into pieces of 1 to 97 bytes. Where depends on the bytes alone, so that a finding can be repeated.
pub fn pieces(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    // FNV-1a: any mixing will do, this one is short.
    let mix = |state: u64, byte: u8| (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let mut state = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |state, byte| mix(state, *byte));
    let mut rest = bytes;
    std::iter::from_fn(move || {
        state = mix(state, 1);
        let wanted = usize::try_from(state >> 32).map_or(1, |number| number % 97 + 1);
        let (piece, tail) = rest.split_at(wanted.min(rest.len()));
        rest = tail;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Who sends: a guest may send less in one frame than the host.
#[derive(Debug, Clone, Copy)]
pub enum From {
    /// The agent, or what took its place.
    Guest,
    /// The runner.
    Host,
}

impl From {
    fn decoder(self) -> FrameDecoder {
        match self {
            Self::Guest => FrameDecoder::of_guest(),
            Self::Host => FrameDecoder::new(),
        }
    }

    fn longest(self) -> usize {
        match self {
            Self::Guest => MAX_GUEST_FRAME,
            Self::Host => MAX_FRAME,
        }
    }
}

/// What a decoder made of bytes: the messages, and why it stopped if it did.
#[derive(Debug, PartialEq)]
pub struct Heard<M> {
    /// Whole messages, in order.
    pub messages: Vec<M>,
    /// The first error; nothing behind it was read.
    pub error: Option<FrameError>,
    /// Bytes of a frame that is not whole yet, without an error.
    pub pending: usize,
}

/// Feeds a decoder piece by piece, as a link does, and holds it to its bound on memory meanwhile.
pub fn hear<'a, M: Message + Default>(from: From, pieces: impl Iterator<Item = &'a [u8]>) -> Heard<M> {
    let mut decoder = from.decoder();
    let mut messages = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next_message::<M>() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return Heard { messages, error: Some(error), pending: 0 },
            }
        }
        assert!(decoder.pending().len() < from.longest() + 4, "a whole frame is held back");
    }
    Heard { messages, error: None, pending: decoder.pending().len() }
}

/// What must hold for every stream of frames, in either direction: pieces make no difference, and what was
/// understood is understood again from its own bytes.
pub fn frames<M: Message + Default + PartialEq>(from: From, bytes: &[u8]) -> Heard<M> {
    let whole = hear::<M>(from, std::iter::once(bytes));
    assert_eq!(whole, hear::<M>(from, pieces(bytes)), "pieces change what is heard");
    let mut again = Vec::new();
    for message in &whole.messages {
        match encode(message) {
            Ok(frame) => again.extend(frame),
            Err(error) => panic!("a message that was read cannot be written: {error}"),
        }
    }
    let repeated = hear::<M>(from, std::iter::once(again.as_slice()));
    assert_eq!(repeated.messages, whole.messages, "writing and reading changes a message");
    assert_eq!((repeated.error, repeated.pending), (None, 0));
    whole
}

/// A regular file that was found: its path below the top, its length, its permission bits.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Below the top.
    pub path: PathBuf,
    /// Bytes.
    pub length: u64,
    /// Permission bits.
    pub mode: u32,
}

/// Every file below `top`, sorted.
///
/// # Panics
/// When anything is neither a regular file nor a directory, is a second name of another file, or is open to others.
pub fn files_below(top: &Path) -> Vec<Found> {
    use std::os::unix::fs::MetadataExt;
    let mut found = Vec::new();
    let mut ahead = vec![top.to_owned()];
    while let Some(directory) = ahead.pop() {
        for entry in fs::read_dir(&directory).expect("a directory that was made can be read").flatten() {
            let path = entry.path();
            let metadata = fs::symlink_metadata(&path).expect("it was just listed");
            let mode = metadata.permissions().mode() & 0o7777;
            assert_eq!(mode & 0o7077, 0, "{} has mode {mode:o}", path.display());
            if metadata.is_dir() {
                ahead.push(path);
                continue;
            }
            assert!(metadata.is_file() && metadata.nlink() == 1, "{} is no plain file", path.display());
            let path = path.strip_prefix(top).expect("it lies below").to_owned();
            found.push(Found { path, length: metadata.len(), mode });
        }
    }
    found.sort();
    found
}

/// The names in a directory, sorted.
pub fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("the scratch directory is there").flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
