//! The members of a stream, one after another, with every length checked before memory is taken for it.
//!
//! The tar crate's own reading of long names and PAX headers takes as much memory as the stream says; so headers are
//! read raw and put together here.

use crate::error::{CopyError, shown};
use crate::name::Name;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use tar::{EntryType, PaxExtensions};

/// A long name or a PAX header may have this many bytes.
const MAX_EXTENSION: u64 = 64 * 1024;
/// Longest target of a link, in bytes.
const MAX_TARGET: usize = 4095;
/// More members than anybody copies.
const MAX_MEMBERS: u64 = 4 << 20;

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, with its target as written.
    Symlink(Vec<u8>),
    /// Another name of an earlier file.
    HardLink(Name),
    /// A device, a pipe and the like.
    Other(&'static str),
}

/// What else is known of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since the Unix epoch.
    pub(crate) modified: u64,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: Name,
    pub(crate) kind: Kind,
    pub(crate) meta: Meta,
}

/// A stream that remembers that it ended.
struct Watched<R> {
    inner: R,
    ended: bool,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.ended |= length == 0 && !buffer.is_empty();
        Ok(length)
    }
}

/// Gives every member and its content to `visit`, in order, and reads the stream to its very end.
///
/// # Errors
/// [`CopyError::CutOff`] when the mark of the end is not there: what comes before it may be half of a copy.
pub(crate) fn walk(
    stream: impl Read,
    visit: &mut dyn FnMut(Member, &mut dyn Read) -> Result<(), CopyError>,
) -> Result<(), CopyError> {
    let mut watched = Watched { inner: stream, ended: false };
    let walked = walk_members(&mut watched, visit);
    if watched.ended && matches!(walked, Ok(()) | Err(CopyError::Receive(_))) {
        return Err(CopyError::CutOff);
    }
    walked?;
    io::copy(&mut watched, &mut io::sink()).map_err(CopyError::Receive).map(drop)
}

fn walk_members(
    stream: &mut dyn Read,
    visit: &mut dyn FnMut(Member, &mut dyn Read) -> Result<(), CopyError>,
) -> Result<(), CopyError> {
    let mut archive = tar::Archive::new(stream);
    let mut extensions = Extensions::default();
    let mut count: u64 = 0;
    for entry in archive.entries().map_err(CopyError::Receive)?.raw(true) {
        let mut entry = entry.map_err(CopyError::Receive)?;
        count += 1;
        if count > MAX_MEMBERS {
            return Err(CopyError::TooMany(MAX_MEMBERS));
        }
        if extensions.absorb(&mut entry)? {
            continue;
        }
        let member = std::mem::take(&mut extensions).member(&entry)?;
        let size = entry.size();
        let mut content = Exactly { inner: &mut entry, left: size };
        visit(member, &mut content)?;
    }
    Ok(())
}

/// A member's content: an end before its end is an error.
struct Exactly<'e, R> {
    inner: &'e mut R,
    left: u64,
}

impl<R: Read> Read for Exactly<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        if length == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left = self.left.saturating_sub(length as u64);
        Ok(length)
    }
}

/// What extension headers said about the member that follows them.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Extensions {
    /// Takes in an extension header; `false` when the entry is none.
    fn absorb<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<bool, CopyError> {
        match entry.header().entry_type() {
            EntryType::GNULongName => self.path = Some(text_of(entry)?),
            EntryType::GNULongLink => self.link = Some(text_of(entry)?),
            EntryType::XHeader => self.absorb_pax(&content_of(entry)?)?,
            // Says something about all members that follow: nothing we use.
            EntryType::XGlobalHeader => drop(content_of(entry)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn absorb_pax(&mut self, content: &[u8]) -> Result<(), CopyError> {
        let refused = |reason| CopyError::Entry { name: "PAX header".to_owned(), reason };
        for extension in PaxExtensions::new(content) {
            let extension = extension.map_err(|_| refused("it does not parse"))?;
            match extension.key_bytes() {
                b"path" => self.path = Some(extension.value_bytes().to_vec()),
                b"linkpath" => self.link = Some(extension.value_bytes().to_vec()),
                b"size" => {
                    let size = extension.value().ok().and_then(|text| text.parse().ok());
                    self.size = Some(size.ok_or_else(|| refused("its size is not a number"))?);
                }
                key if key.starts_with(b"GNU.sparse.") => return Err(refused("it is a sparse file")),
                _ => {}
            }
        }
        Ok(())
    }

    /// The member that this entry is, with everything the headers before it said.
    fn member<R: Read>(self, entry: &tar::Entry<'_, R>) -> Result<Member, CopyError> {
        let header = entry.header();
        let path = self.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let refused = |reason| CopyError::Entry { name: shown(Path::new(OsStr::from_bytes(&path))), reason };
        // Two readers that disagree about a length see two different streams.
        if self.size.is_some_and(|said| said != entry.size()) {
            return Err(refused("its two sizes differ"));
        }
        let name = Name::parse(&path)?;
        let target = || {
            let target = self.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
            let target = target.filter(|target| !target.is_empty() && target.len() <= MAX_TARGET);
            let target = target.filter(|target| !target.contains(&0));
            target.ok_or_else(|| refused("it is a link to nothing"))
        };
        let kind = match header.entry_type() {
            // Old tars mark a directory by a slash at the end of its name only.
            EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink(target()?),
            EntryType::Link => Kind::HardLink(Name::parse(&target()?)?),
            EntryType::Char | EntryType::Block => Kind::Other("a device"),
            EntryType::Fifo => Kind::Other("a named pipe"),
            EntryType::GNUSparse => return Err(refused("it is a sparse file")),
            _ => Kind::Other("of an unknown kind"),
        };
        if name.split().is_none() && kind != Kind::Directory {
            return Err(refused("it has no name"));
        }
        if kind != Kind::File && entry.size() > 0 && !matches!(kind, Kind::Other(_)) {
            return Err(refused("it has content and is no file"));
        }
        Ok(Member { name, kind, meta: meta(header).map_err(|()| refused("its numbers are none"))? })
    }
}

fn meta(header: &tar::Header) -> Result<Meta, ()> {
    let number = |value: io::Result<u64>| u32::try_from(value.map_err(|_| ())?).map_err(|_| ());
    Ok(Meta {
        mode: header.mode().map_err(|_| ())? & 0o7777,
        uid: number(header.uid())?,
        gid: number(header.gid())?,
        // Before 1970 is nobody's business here.
        modified: header.mtime().unwrap_or(0),
    })
}

fn content_of<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Vec<u8>, CopyError> {
    if entry.size() > MAX_EXTENSION {
        let reason = "its header is too long";
        return Err(CopyError::Entry { name: "extension header".to_owned(), reason });
    }
    let mut content = Vec::new();
    entry.read_to_end(&mut content).map_err(CopyError::Receive)?;
    Ok(content)
}

/// GNU's long names end with a zero byte.
fn text_of<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Vec<u8>, CopyError> {
    let mut text = content_of(entry)?;
    while text.last() == Some(&0) {
        text.pop();
    }
    Ok(text)
}
