//! Fetches the files a program left for its user, out of a guest that may be hostile.
//!
//! Paths are checked component by component; every file is made anew below a directory nobody else knows,
//! never through a link; bytes, files and directories are counted against the limits whatever the agent said, and
//! what it says at the end must agree. The directory gets its name `outputs` only when all of it has arrived.

use crate::link::{Link, LinkError};
use crate::output::leave_room;
use outlast_model::limit;
use outlast_wire::guest::{FileData, FileHeader, GetTree, GuestMessage, HostMessage, TreeDone, guest_words};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use thiserror::Error;

/// Where in the guest a program leaves what it wants handed back.
const GUEST_DIRECTORY: &str = "/outlast/out";

/// A path of the guest may have this many components.
const MAX_DEPTH: usize = 32;

/// So many directories are made for a guest's files. Paths of many components would make far more of them than
/// there may be files.
const MAX_DIRECTORIES: u32 = limit::RETURNED_FILES;

/// The files could not be handed back; none are shown.
#[derive(Debug, Error)]
pub enum HandBackError {
    /// The link, or the agent's refusal.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A path that leads out of the tree, or is no path.
    #[error("the guest sent the path {0:?}")]
    Path(String),
    /// Bytes without a file, or an answer that is none.
    #[error("the guest sent a tree that is not one")]
    Shape,
    /// More than is allowed.
    #[error(
        "there are more than {} files, {MAX_DIRECTORIES} directories or {} bytes",
        limit::RETURNED_FILES,
        limit::RETURNED_BYTES
    )]
    TooMuch,
    /// The host's disk, or names that no two files can have.
    #[error("cannot write {path:?}")]
    Write {
        /// Which, as the guest named it.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Where the tree lies until it is complete.
pub fn partial(target: &Path) -> PathBuf {
    target.with_extension("partial")
}

/// Fetches the tree into `target`, which must not exist yet. The caller holds the deadline, and removes
/// [`partial`] when this fails or is cancelled.
pub async fn fetch(link: &mut Link, target: &Path) -> Result<(u32, u64), HandBackError> {
    let partial = partial(target);
    let mut tree = Tree::create(&partial)?;
    let stream = link.open_stream();
    let request = GetTree {
        path: GUEST_DIRECTORY.to_owned(),
        max_bytes: limit::RETURNED_BYTES,
        max_files: limit::RETURNED_FILES,
    };
    link.queue(stream, HostMessage::GetTree(request))?;
    loop {
        match link.answer("get files", stream).await? {
            GuestMessage::FileHeader(header) => tree.begin(&header)?,
            GuestMessage::FileData(data) => tree.append(&data)?,
            GuestMessage::TreeDone(done) if tree.is_all(&done) => break,
            _ => return Err(HandBackError::Shape),
        }
    }
    std::fs::rename(&partial, target).map_err(write_error(target))?;
    Ok((tree.files, tree.bytes))
}

fn write_error(path: &Path) -> impl FnOnce(io::Error) -> HandBackError {
    let path = guest_words(&path.to_string_lossy());
    move |source| HandBackError::Write { path, source }
}

/// A tree being written.
struct Tree {
    root: PathBuf,
    /// The file whose last piece has not come yet.
    current: Option<(PathBuf, File)>,
    files: u32,
    directories: u32,
    bytes: u64,
}

impl Tree {
    fn create(root: &Path) -> Result<Self, HandBackError> {
        std::fs::DirBuilder::new().mode(0o700).create(root).map_err(write_error(root))?;
        Ok(Self { root: root.to_path_buf(), current: None, files: 0, directories: 0, bytes: 0 })
    }

    fn begin(&mut self, header: &FileHeader) -> Result<(), HandBackError> {
        if self.current.is_some() {
            return Err(HandBackError::Shape);
        }
        self.files += 1;
        if self.files > limit::RETURNED_FILES {
            return Err(HandBackError::TooMuch);
        }
        let relative = relative(&header.path)?;
        self.make_directories(relative)?;
        let path = self.root.join(relative);
        let mode = 0o600 | (header.mode & 0o100);
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
        self.current = Some((path, file.map_err(write_error(relative))?));
        Ok(())
    }

    /// Makes what is missing on the way to a file. Nothing but directories and regular files was ever made below
    /// the root, so no link is followed.
    fn make_directories(&mut self, relative: &Path) -> Result<(), HandBackError> {
        let mut directory = self.root.clone();
        for component in relative.parent().into_iter().flat_map(Path::components) {
            directory.push(component);
            match std::fs::DirBuilder::new().mode(0o700).create(&directory) {
                Ok(()) => self.directories += 1,
                // If it is a file, the next one cannot be made in it.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(write_error(relative)(source)),
            }
            if self.directories > MAX_DIRECTORIES {
                return Err(HandBackError::TooMuch);
            }
        }
        Ok(())
    }

    fn append(&mut self, piece: &FileData) -> Result<(), HandBackError> {
        let (path, file) = self.current.as_mut().ok_or(HandBackError::Shape)?;
        // A piece of nothing that is not the last would cost the guest nothing, for ever.
        if piece.data.is_empty() && !piece.last {
            return Err(HandBackError::Shape);
        }
        self.bytes = self.bytes.saturating_add(piece.data.len() as u64);
        if self.bytes > limit::RETURNED_BYTES {
            return Err(HandBackError::TooMuch);
        }
        leave_room(file).and_then(|()| file.write_all(&piece.data)).map_err(write_error(path))?;
        if piece.last {
            self.current = None;
        }
        Ok(())
    }

    /// Whether what the guest says that it sent is what came.
    fn is_all(&self, done: &TreeDone) -> bool {
        self.current.is_none() && (done.files, done.bytes) == (self.files, self.bytes)
    }
}

/// The guest's path, if every component of it is a plain name.
fn relative(text: &str) -> Result<&Path, HandBackError> {
    let path = Path::new(text);
    let plain = path.components().all(|component| matches!(component, Component::Normal(_)));
    let shallow = path.components().count() <= MAX_DEPTH;
    let sane = plain && shallow && !text.is_empty() && text.len() <= 4096 && !text.contains('\0');
    if sane { Ok(path) } else { Err(HandBackError::Path(guest_words(text))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_that_lead_out_are_refused() {
        for bad in ["", "/etc/passwd", "../x", "a/../../x", "a/..", "./../x", "a\0b"] {
            assert!(relative(bad).is_err(), "{bad:?}");
        }
        assert!(relative("a/b.txt").is_ok());
    }

    fn piece(data: &[u8], last: bool) -> FileData {
        FileData { data: data.to_vec(), last }
    }

    fn header(path: &str) -> FileHeader {
        FileHeader { path: path.to_owned(), mode: 0o7777, size: 0 }
    }

    fn tree() -> (tempfile::TempDir, Tree) {
        let directory = tempfile::tempdir().unwrap();
        let tree = Tree::create(&directory.path().join("t")).unwrap();
        (directory, tree)
    }

    #[test]
    fn a_file_sent_twice_and_bytes_without_a_file_are_refused() {
        let (_directory, mut tree) = tree();
        assert!(matches!(tree.append(&piece(b"x", false)), Err(HandBackError::Shape)));
        tree.begin(&header("a/b")).unwrap();
        assert!(matches!(tree.begin(&header("a/c")), Err(HandBackError::Shape)), "the first is not complete");
        tree.append(&piece(b"x", true)).unwrap();
        assert!(matches!(tree.append(&piece(b"x", false)), Err(HandBackError::Shape)), "it was complete");
        assert!(matches!(tree.begin(&header("a/b")), Err(HandBackError::Write { .. })));
        assert!(matches!(tree.begin(&header("a/b/c")), Err(HandBackError::Write { .. })));
    }

    #[test]
    fn pieces_of_nothing_and_sums_that_do_not_agree_are_refused() {
        let (_directory, mut tree) = tree();
        let done = |files, bytes| TreeDone { files, bytes, skipped: 0 };
        assert!(tree.is_all(&done(0, 0)));
        tree.begin(&header("a")).unwrap();
        assert!(matches!(tree.append(&piece(b"", false)), Err(HandBackError::Shape)));
        assert!(!tree.is_all(&done(1, 0)), "it is not complete");
        tree.append(&piece(b"xyz", true)).unwrap();
        assert!(tree.is_all(&done(1, 3)));
        assert!(!tree.is_all(&done(1, 2)) && !tree.is_all(&done(2, 3)));
    }

    #[test]
    fn directories_are_counted_like_files() {
        let (_directory, mut tree) = tree();
        tree.directories = MAX_DIRECTORIES - 1;
        tree.begin(&header("one/f")).unwrap();
        tree.append(&piece(b"", true)).unwrap();
        tree.begin(&header("one/g")).unwrap();
        tree.append(&piece(b"", true)).unwrap();
        assert!(matches!(tree.begin(&header("two/f")), Err(HandBackError::TooMuch)));
    }

    #[test]
    fn a_name_of_the_guest_is_plain_in_an_error() {
        let (_directory, mut tree) = tree();
        for _ in 0..2 {
            match tree.begin(&header("\u{1b}[2Jx")) {
                Ok(()) => tree.append(&piece(b"", true)).unwrap(),
                Err(error) => assert!(!error.to_string().chars().any(char::is_control), "{error}"),
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_stays_below_the_root(text in ".{0,40}") {
            if let Ok(path) = relative(&text) {
                prop_assert!(Path::new("/root").join(path).starts_with("/root"));
                prop_assert!(!path.components().any(|c| c == Component::ParentDir));
            }
        }
    }
}
