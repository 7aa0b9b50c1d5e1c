//! Sending back every regular file below a directory. The workload wrote that tree, so everything in it is
//! suspect: links are never followed, nothing but regular files and directories is opened, mounts are not
//! entered, and depth, number and size are limited.

use crate::refusal::{Reason, refused};
use crate::session::{Gone, Outlet};
use outlast_wire::guest::{FileData, FileHeader, GetTree, GuestMessage, MAX_CHUNK, TreeDone};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use std::ffi::CStr;
use thiserror::Error;

/// Deepest directory that is entered. Each level holds a descriptor while it is walked.
const MAX_DEPTH: usize = 128;

/// Most entries that are looked at, wanted or not.
const MAX_ENTRIES: u64 = 1 << 20;

/// Longest relative path, in bytes.
const MAX_PATH: usize = 4095;

/// A tree was not sent whole.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum TreeError {
    /// Not an absolute path.
    #[error("path {0:?} is not absolute")]
    Path(String),
    /// The directory that was asked for; a symbolic link anywhere on the way to it is ELOOP.
    #[error("open directory {0:?}")]
    Open(String, #[source] Errno),
    /// Something below it.
    #[error("read {0:?}")]
    Read(String, #[source] Errno),
    /// More bytes than wanted.
    #[error("files of more than {0} bytes")]
    Bytes(u64),
    /// More files than wanted.
    #[error("more than {0} files")]
    Files(u32),
    /// Too many entries.
    #[error("more than {MAX_ENTRIES} entries")]
    Entries,
    /// Too deep, or a path too long.
    #[error("{0:?} is too deep")]
    Depth(String),
    /// Nobody listens any more.
    #[error("connection over")]
    Gone,
}

impl From<Gone> for TreeError {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl Reason for TreeError {
    fn errno(&self) -> i32 {
        match self {
            Self::Open(_, source) | Self::Read(_, source) => source.raw_os_error(),
            Self::Path(_) => Errno::INVAL.raw_os_error(),
            Self::Bytes(_) => Errno::FBIG.raw_os_error(),
            Self::Files(_) | Self::Entries | Self::Depth(_) => Errno::OVERFLOW.raw_os_error(),
            Self::Gone => 0,
        }
    }
}

/// A walk through a tree.
pub(crate) struct Tree {
    request: GetTree,
    done: TreeDone,
    entries: u64,
}

/// What an entry of a directory turned out to be.
enum Entry {
    Directory(OwnedFd, String),
    File(OwnedFd, FileHeader),
    /// Neither, or gone since it was listed, or with a name that is not UTF-8.
    Other,
}

impl Tree {
    /// A walk that has not begun.
    pub(crate) fn new(request: GetTree) -> Self {
        Self { request, done: TreeDone { files: 0, bytes: 0, skipped: 0 }, entries: 0 }
    }

    /// Sends every file and then the sums, or a refusal.
    pub(crate) async fn send(mut self, out: &Outlet) {
        let last = match self.walk(out).await {
            Ok(()) => GuestMessage::TreeDone(self.done),
            Err(error) => GuestMessage::Refused(refused("get a tree", &error)),
        };
        // Nobody listening is not worth a word.
        let _ = out.send(&last).await;
    }

    async fn walk(&mut self, out: &Outlet) -> Result<(), TreeError> {
        let Some(top) = open_top(&self.request.path)? else { return Ok(()) };
        let mut path = vec![listing(top, "")?];
        while let Some((directory, prefix)) = path.last_mut() {
            let Some(entry) = directory.read() else {
                path.pop();
                continue;
            };
            let entry = entry.map_err(|source| TreeError::Read(prefix.clone(), source))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.count_entry()?;
            let here = directory.fd().map_err(|source| TreeError::Read(prefix.clone(), source))?;
            match examine(here, name, prefix)? {
                Entry::Directory(_, deeper) if path.len() >= MAX_DEPTH => {
                    return Err(TreeError::Depth(deeper));
                }
                Entry::Directory(fd, deeper) => path.push(listing(fd, &deeper)?),
                Entry::File(fd, header) => self.send_file(&fd, header, out).await?,
                Entry::Other => self.done.skipped = self.done.skipped.saturating_add(1),
            }
            // Walking makes no waits of its own; programs and pings want their turn too.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn count_entry(&mut self) -> Result<(), TreeError> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES { Err(TreeError::Entries) } else { Ok(()) }
    }

    async fn send_file(&mut self, fd: &OwnedFd, header: FileHeader, out: &Outlet) -> Result<(), TreeError> {
        if self.done.files >= self.request.max_files {
            return Err(TreeError::Files(self.request.max_files));
        }
        // Asked before any byte is sent: a sparse file of a terabyte costs nothing here.
        self.check_bytes(header.size)?;
        let path = header.path.clone();
        out.send(&GuestMessage::FileHeader(header)).await?;
        loop {
            let place = out.place().await?;
            let mut data = vec![0; MAX_CHUNK];
            let length = rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut data))
                .map_err(|source| TreeError::Read(path.clone(), source))?;
            data.truncate(length);
            // It may have grown since it was opened.
            self.check_bytes(u64::try_from(length).unwrap_or(u64::MAX))?;
            self.done.bytes += u64::try_from(length).unwrap_or(u64::MAX);
            place.put(&GuestMessage::FileData(FileData { data, last: length == 0 }));
            if length == 0 {
                self.done.files += 1;
                return Ok(());
            }
        }
    }

    fn check_bytes(&self, more: u64) -> Result<(), TreeError> {
        let limit = self.request.max_bytes;
        if self.done.bytes.saturating_add(more) > limit { Err(TreeError::Bytes(limit)) } else { Ok(()) }
    }
}

/// The directory that was asked for; `None` when there is none.
fn open_top(path: &str) -> Result<Option<OwnedFd>, TreeError> {
    if !path.starts_with('/') {
        return Err(TreeError::Path(path.to_owned()));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(CWD, path, flags, Mode::empty(), resolve) {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOENT) => Ok(None),
        Err(source) => Err(TreeError::Open(path.to_owned(), source)),
    }
}

fn listing(directory: OwnedFd, path: &str) -> Result<(Dir, String), TreeError> {
    let listing = Dir::new(directory).map_err(|source| TreeError::Read(path.to_owned(), source))?;
    Ok((listing, path.to_owned()))
}

/// Opens one entry if it is a directory or a regular file. Order matters: its kind is asked first, because
/// opening a device can do things, and again once it is open, because it may have been exchanged meanwhile.
fn examine(here: BorrowedFd<'_>, name: &CStr, prefix: &str) -> Result<Entry, TreeError> {
    let Ok(utf8) = name.to_str() else { return Ok(Entry::Other) };
    let path = if prefix.is_empty() { utf8.to_owned() } else { format!("{prefix}/{utf8}") };
    let error = |source| TreeError::Read(path.clone(), source);
    match look(here, name) {
        Ok(FileType::Directory | FileType::RegularFile) => {}
        Ok(_) | Err(Errno::NOENT) => return Ok(Entry::Other),
        Err(source) => return Err(error(source)),
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let fd = match openat2(here, name, flags, Mode::empty(), resolve) {
        Ok(fd) => fd,
        // Gone, exchanged for a link, a socket or a device without a driver, or another mount.
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::XDEV) => return Ok(Entry::Other),
        Err(source) => return Err(error(source)),
    };
    let status = rustix::fs::fstat(&fd).map_err(error)?;
    let kind = FileType::from_raw_mode(status.st_mode);
    if path.len() > MAX_PATH {
        return Err(TreeError::Depth(path));
    }
    Ok(match kind {
        FileType::Directory => Entry::Directory(fd, path),
        FileType::RegularFile => {
            let size = u64::try_from(status.st_size).unwrap_or(0);
            Entry::File(fd, FileHeader { path, mode: status.st_mode & 0o7777, size })
        }
        _ => Entry::Other,
    })
}

fn look(here: BorrowedFd<'_>, name: &CStr) -> Result<FileType, Errno> {
    let status = rustix::fs::statat(here.as_fd(), name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(status.st_mode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::collect_for_tests;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    /// The files by path, and how it ended.
    fn walk(path: &Path, max_bytes: u64, max_files: u32) -> (Vec<(String, Vec<u8>)>, GuestMessage) {
        let path = path.to_str().unwrap().to_owned();
        let tree = Tree::new(GetTree { path, max_bytes, max_files });
        let mut messages = collect_for_tests(|out| async move { tree.send(&out).await });
        let last = messages.pop().unwrap();
        let mut files: Vec<(String, Vec<u8>)> = Vec::new();
        for message in messages {
            match message {
                GuestMessage::FileHeader(header) => files.push((header.path, Vec::new())),
                GuestMessage::FileData(piece) => files.last_mut().unwrap().1.extend(piece.data),
                other => panic!("{other:?}"),
            }
        }
        files.sort();
        (files, last)
    }

    fn refused_errno(last: &GuestMessage) -> i32 {
        let GuestMessage::Refused(refused) = last else { panic!("{last:?}") };
        refused.errno
    }

    #[test]
    fn only_regular_files_are_sent_and_nothing_outside_is_reached() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "secret").unwrap();
        std::fs::write(root.path().join("a"), "a").unwrap();
        std::fs::create_dir(root.path().join("d")).unwrap();
        std::fs::write(root.path().join("d/b"), vec![b'b'; 100_000]).unwrap();
        symlink(outside.path().join("secret"), root.path().join("link")).unwrap();
        symlink(outside.path(), root.path().join("d/links")).unwrap();
        symlink("..", root.path().join("d/up")).unwrap();
        let fifo = root.path().join("fifo");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let socket = std::os::unix::net::UnixListener::bind(root.path().join("socket")).unwrap();
        let odd = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"od\xffd");
        std::fs::write(root.path().join(odd), "odd").unwrap();

        let (files, last) = walk(root.path(), 1 << 20, 100);
        assert_eq!(files, [("a".to_owned(), b"a".to_vec()), ("d/b".to_owned(), vec![b'b'; 100_000])]);
        assert_eq!(last, GuestMessage::TreeDone(TreeDone { files: 2, bytes: 100_001, skipped: 6 }));
        drop(socket);
    }

    #[test]
    fn a_missing_directory_is_empty_and_a_link_in_its_place_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let (files, last) = walk(&root.path().join("absent"), 1, 1);
        assert_eq!(files, []);
        assert_eq!(last, GuestMessage::TreeDone(TreeDone { files: 0, bytes: 0, skipped: 0 }));
        symlink(root.path(), root.path().join("link")).unwrap();
        let (_, last) = walk(&root.path().join("link"), 1, 1);
        assert!(refused_errno(&last) != 0, "{last:?}");
    }

    #[test]
    fn limits_are_kept() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("a"), "aa").unwrap();
        assert_eq!(refused_errno(&walk(root.path(), 1, 10).1), libc::EFBIG);
        assert_eq!(refused_errno(&walk(root.path(), 10, 0).1), libc::EOVERFLOW);
        // A file that claims a terabyte and holds nothing.
        std::fs::File::create(root.path().join("sparse")).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(refused_errno(&walk(root.path(), 1 << 30, 10).1), libc::EFBIG);
    }

    #[test]
    fn a_tree_that_is_too_deep_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let mut deep = root.path().to_owned();
        for _ in 0..=MAX_DEPTH {
            deep.push("d");
        }
        std::fs::create_dir_all(&deep).unwrap();
        assert_eq!(refused_errno(&walk(root.path(), 1, 1).1), libc::EOVERFLOW);
    }
}
