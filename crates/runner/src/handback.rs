//! Fetches the files a program left for its user, out of a guest that may be hostile.
//!
//! Paths are checked component by component; every file is made anew below a directory nobody else knows,
//! never through a link; bytes and files are counted against the limits whatever the agent said. The
//! directory gets its name `outputs` only when all of it has arrived.

use crate::link::{Link, LinkError};
use crate::output::leave_room;
use outlast_model::limit;
use outlast_wire::guest::{FileHeader, GetTree, GuestMessage, HostMessage, guest_words};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use thiserror::Error;

/// Where in the guest a program leaves what it wants handed back.
const GUEST_DIRECTORY: &str = "/outlast/out";

/// A path of the guest may have this many components. With the limit on files it bounds the directories made.
const MAX_DEPTH: usize = 32;

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
    #[error("the files are more than {} files or {} bytes", limit::RETURNED_FILES, limit::RETURNED_BYTES)]
    TooMuch,
    /// The host's disk.
    #[error("cannot write {path}")]
    Write {
        /// Which.
        path: PathBuf,
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
            GuestMessage::FileData(data) => tree.append(&data.data)?,
            GuestMessage::TreeDone(_) => break,
            _ => return Err(HandBackError::Shape),
        }
    }
    std::fs::rename(&partial, target).map_err(write_error(target))?;
    Ok((tree.files, tree.bytes))
}

fn write_error(path: &Path) -> impl FnOnce(io::Error) -> HandBackError + '_ {
    move |source| HandBackError::Write { path: path.to_path_buf(), source }
}

/// A tree being written.
struct Tree {
    root: PathBuf,
    current: Option<(PathBuf, File)>,
    files: u32,
    bytes: u64,
}

impl Tree {
    fn create(root: &Path) -> Result<Self, HandBackError> {
        std::fs::DirBuilder::new().mode(0o700).create(root).map_err(write_error(root))?;
        Ok(Self { root: root.to_path_buf(), current: None, files: 0, bytes: 0 })
    }

    fn begin(&mut self, header: &FileHeader) -> Result<(), HandBackError> {
        self.files += 1;
        if self.files > limit::RETURNED_FILES {
            return Err(HandBackError::TooMuch);
        }
        let path = self.root.join(relative(&header.path)?);
        if let Some(parent) = path.parent() {
            // Nothing but directories and regular files was ever made below the root, so no link is followed.
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(parent)
                .map_err(write_error(parent))?;
        }
        let mode = 0o600 | (header.mode & 0o100);
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
        let file = file.map_err(write_error(&path))?;
        self.current = Some((path, file));
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), HandBackError> {
        let (path, file) = self.current.as_mut().ok_or(HandBackError::Shape)?;
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        if self.bytes > limit::RETURNED_BYTES {
            return Err(HandBackError::TooMuch);
        }
        leave_room(file).and_then(|()| file.write_all(bytes)).map_err(write_error(path))
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

    #[test]
    fn a_file_sent_twice_and_bytes_without_a_file_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut tree = Tree::create(&directory.path().join("t")).unwrap();
        assert!(matches!(tree.append(b"x"), Err(HandBackError::Shape)));
        let header = FileHeader { path: "a/b".to_owned(), mode: 0o7777, size: 0 };
        tree.begin(&header).unwrap();
        tree.append(b"x").unwrap();
        assert!(matches!(tree.begin(&header), Err(HandBackError::Write { .. })));
        let under_a_file = FileHeader { path: "a/b/c".to_owned(), ..header };
        assert!(matches!(tree.begin(&under_a_file), Err(HandBackError::Write { .. })));
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
