//! A file or a directory becomes a tar. Links below the top are passed on as links and never followed.

use crate::Tally;
use crate::error::{CopyError, at_source, shown};
use crate::name::{MAX_DEPTH, name_of};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, fstatfs, openat, readlinkat, statat,
};
use rustix::io::Errno;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use tar::{EntryType, Header};

/// File systems that the kernel makes up as one reads (statfs(2), linux/magic.h): they are the machine, not its files.
const MADE_UP: [u32; 13] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x1cd1,      // devpts
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0x6265_6570, // configfs
    0xcafe_4a11, // bpf
    0x6165_676c, // pstore
    0xde5e_81e4, // efivarfs
    0x4249_4e4d, // binfmt_misc
];

/// Whose the files are on the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Those that they have here, by number.
    Kept,
    /// Root's.
    Root,
}

/// What was sent.
pub type Packed = Tally;

/// Sends what is at `source` as a tar, its last mark included. A link at the top is followed: it is what was named.
///
/// # Errors
/// [`CopyError`]; what was sent until then ends without the mark, and so nobody takes it for whole.
pub fn pack(source: &Path, owners: Owners, out: impl Write) -> Result<Packed, CopyError> {
    let top = open_top(source)?;
    let status = fstat(&top).map_err(at_source("look at", source))?;
    let out = tar::Builder::new(Gate { inner: out, shut: false });
    let mut packer = Packer { out, owners, tally: Tally::default(), shown: source.to_owned() };
    let name = name_of(source).map_or_else(|| PathBuf::from("."), PathBuf::from);
    match FileType::from_raw_mode(status.st_mode) {
        FileType::RegularFile => packer.file(top, &status, &name)?,
        FileType::Directory => packer.tree(top, &status, name)?,
        _ => return Err(CopyError::NotCopied { path: source.to_owned() }),
    }
    packer.out.finish().map_err(CopyError::Send)?;
    packer.out.get_mut().flush().map_err(CopyError::Send)?;
    Ok(std::mem::take(&mut packer.tally))
}

/// What a stream goes through: shut, nothing more is sent.
struct Gate<W> {
    inner: W,
    shut: bool,
}

impl<W: Write> Write for Gate<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.shut { Err(io::ErrorKind::BrokenPipe.into()) } else { self.inner.write(bytes) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Opening a device can do things, and a pipe waits: what it is, is asked first, and again by the caller once it is open.
fn open_top(source: &Path) -> Result<OwnedFd, CopyError> {
    let missing = |errno: Errno| match errno {
        Errno::NOENT => CopyError::NoSource { path: source.to_owned() },
        errno => at_source("look at", source)(errno),
    };
    let status = rustix::fs::stat(source).map_err(missing)?;
    if !matches!(FileType::from_raw_mode(status.st_mode), FileType::RegularFile | FileType::Directory) {
        return Err(CopyError::NotCopied { path: source.to_owned() });
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    openat(CWD, source, flags, Mode::empty()).map_err(missing)
}

struct Packer<W: Write> {
    out: tar::Builder<Gate<W>>,
    owners: Owners,
    tally: Tally,
    /// The source, for errors.
    shown: PathBuf,
}

impl<W: Write> Drop for Packer<W> {
    /// A tar builder that is dropped sends the mark of the end, whatever is missing before it.
    fn drop(&mut self) {
        self.out.get_mut().shut = true;
    }
}

/// A directory that is being walked.
struct Level {
    entries: Dir,
    name: PathBuf,
}

/// What an entry of a directory turned out to be.
enum Found {
    Directory(OwnedFd, Stat),
    File(OwnedFd, Stat),
    Link(CString, Stat),
    /// Not copied, and what it is.
    Other(&'static str),
    Gone,
}

impl<W: Write> Packer<W> {
    fn tree(&mut self, top: OwnedFd, status: &Stat, name: PathBuf) -> Result<(), CopyError> {
        self.directory(status, &name)?;
        let mut levels = vec![self.level(top, name)?];
        while let Some(level) = levels.last_mut() {
            let Some(entry) = level.entries.read() else {
                levels.pop();
                continue;
            };
            let entry = entry.map_err(at_source("read", &self.shown.join(&level.name)))?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            let name = level.name.join(OsStr::from_bytes(entry.file_name().to_bytes()));
            let here = level.entries.fd().map_err(at_source("read", &self.shown))?;
            let found = examine(here, entry.file_name()).map_err(at_source("read", &self.at(&name)))?;
            match found {
                Found::Directory(..) if levels.len() >= MAX_DEPTH => {
                    return Err(CopyError::TooDeep { path: self.at(&name) });
                }
                Found::Directory(fd, status) => {
                    self.directory(&status, &name)?;
                    if is_made_up(&fd) {
                        self.leave_out(&name, "what the kernel makes up is not copied");
                    } else {
                        levels.push(self.level(fd, name)?);
                    }
                }
                Found::File(fd, status) => self.file(fd, &status, &name)?,
                Found::Link(target, status) => self.link(&target, &status, &name)?,
                Found::Other(what) => self.leave_out(&name, what),
                Found::Gone => {}
            }
        }
        Ok(())
    }

    /// Where a member lies, for errors.
    fn at(&self, name: &Path) -> PathBuf {
        match name_of(&self.shown) {
            // The member's name begins with the source's own.
            Some(_) => self.shown.parent().unwrap_or(Path::new("")).join(name),
            None => self.shown.join(name),
        }
    }

    fn leave_out(&mut self, name: &Path, what: &str) {
        let path = self.at(name);
        self.tally.leave_out(|| format!("{}: {what}", shown(&path)));
    }

    fn level(&self, directory: OwnedFd, name: PathBuf) -> Result<Level, CopyError> {
        let entries = Dir::new(directory).map_err(at_source("read", &self.at(&name)))?;
        Ok(Level { entries, name })
    }

    fn directory(&mut self, status: &Stat, name: &Path) -> Result<(), CopyError> {
        let mut header = self.header(EntryType::Directory, status, 0);
        self.out.append_data(&mut header, with_slash(name), io::empty()).map_err(CopyError::Send)
    }

    fn link(&mut self, target: &CStr, status: &Stat, name: &Path) -> Result<(), CopyError> {
        let mut header = self.header(EntryType::Symlink, status, 0);
        let target = OsStr::from_bytes(target.to_bytes());
        self.out.append_link(&mut header, name, target).map_err(CopyError::Send)
    }

    fn file(&mut self, file: OwnedFd, status: &Stat, name: &Path) -> Result<(), CopyError> {
        let size = u64::try_from(status.st_size).unwrap_or(0);
        let mut header = self.header(EntryType::Regular, status, size);
        let mut content = Content { file: File::from(file), left: size, failure: None };
        let sent = self.out.append_data(&mut header, name, &mut content);
        if let Some(failure) = content.failure {
            return Err(match failure {
                Failure::Shorter => CopyError::Changed { path: self.at(name) },
                Failure::Read(error) => at_source("read", &self.at(name))(error),
            });
        }
        sent.map_err(CopyError::Send)?;
        self.tally.files += 1;
        self.tally.bytes += size;
        Ok(())
    }

    fn header(&self, kind: EntryType, status: &Stat, size: u64) -> Header {
        let (uid, gid) = match self.owners {
            Owners::Kept => (status.st_uid, status.st_gid),
            Owners::Root => (0, 0),
        };
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(status.st_mode & 0o7777);
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header.set_mtime(u64::try_from(status.st_mtime).unwrap_or(0));
        header.set_size(size);
        header
    }
}

fn with_slash(name: &Path) -> PathBuf {
    name.join("")
}

/// A file's content, as long as its header says. Which side of the copy failed must be known afterwards.
struct Content {
    file: File,
    left: u64,
    failure: Option<Failure>,
}

enum Failure {
    Shorter,
    Read(io::Error),
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        match self.file.read(&mut buffer[..most]) {
            Ok(0) => {
                self.failure = Some(Failure::Shorter);
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Ok(length) => {
                self.left -= length as u64;
                Ok(length)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                self.failure = Some(Failure::Read(error));
                Err(io::ErrorKind::Other.into())
            }
        }
    }
}

/// Looks at one entry. Order matters: its kind is asked before it is opened, because opening a device can do things, and
/// again once it is open, because it may have been exchanged meanwhile.
fn examine(here: BorrowedFd<'_>, name: &CStr) -> Result<Found, Errno> {
    let seen = match statat(here, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(status) => status,
        Err(Errno::NOENT) => return Ok(Found::Gone),
        Err(errno) => return Err(errno),
    };
    match FileType::from_raw_mode(seen.st_mode) {
        FileType::RegularFile | FileType::Directory => {}
        FileType::Symlink => return Ok(Found::Link(readlinkat(here, name, Vec::new())?, seen)),
        FileType::Fifo => return Ok(Found::Other("a named pipe is not copied")),
        FileType::Socket => return Ok(Found::Other("a socket is not copied")),
        _ => return Ok(Found::Other("a device is not copied")),
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = match openat(here, name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(Found::Gone),
        Err(errno) => return Err(errno),
    };
    let status = fstat(&fd)?;
    Ok(match FileType::from_raw_mode(status.st_mode) {
        FileType::Directory => Found::Directory(fd, status),
        FileType::RegularFile => Found::File(fd, status),
        _ => Found::Gone,
    })
}

fn is_made_up(directory: &OwnedFd) -> bool {
    // The type's width differs between machines; the numbers fit 32 bits.
    let kind = fstatfs(directory.as_fd()).map(|system| system.f_type);
    kind.is_ok_and(|kind| u32::try_from(kind & 0xffff_ffff).is_ok_and(|kind| MADE_UP.contains(&kind)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_makes_up_is_told_from_files() {
        let open = |path: &str| OwnedFd::from(File::open(path).unwrap());
        assert!(is_made_up(&open("/proc")) && is_made_up(&open("/sys")));
        assert!(!is_made_up(&open(std::env::temp_dir().to_str().unwrap())));
    }
}
