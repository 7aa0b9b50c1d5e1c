//! The members of a tar.gz, one after another, with every length checked before memory is taken for it.
//!
//! The tar crate's own reading of long names and PAX headers takes as much memory as the archive says; so
//! headers are read raw and put together here. Names are checked here; how members relate, in [`super::tree`].

use super::{ArchiveError, shown};
use outlast_model::limit::ARCHIVE_ENTRIES;
use std::io::{self, Read};
use tar::{EntryType, PaxExtensions};

/// A long name or a PAX header may have this many bytes.
const MAX_EXTENSION: u64 = 64 * 1024;
/// A path may have this many bytes, a component of it [`MAX_COMPONENT`] (PATH_MAX and NAME_MAX of Linux).
const MAX_PATH: usize = 4095;
/// See [`MAX_PATH`].
const MAX_COMPONENT: usize = 255;

/// A checked relative path: components that are neither empty nor `.` nor `..`; none means the top.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Name(pub(super) Vec<String>);

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file with this many bytes.
    File {
        /// Bytes.
        size: u64,
        /// Whether it may be executed.
        executable: bool,
    },
    /// A directory.
    Directory,
    /// A symbolic link, with its target as written.
    Symlink {
        /// The target.
        target: String,
    },
    /// Another name of an earlier file.
    HardLink {
        /// The earlier file.
        target: Name,
    },
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// Its number in the archive, from 0.
    pub(super) index: usize,
    /// Its name.
    pub(super) name: Name,
    /// What it is.
    pub(super) kind: Kind,
}

impl Kind {
    /// Bytes of content.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::File { size, .. } => *size,
            Self::Directory | Self::Symlink { .. } | Self::HardLink { .. } => 0,
        }
    }
}

impl Name {
    /// Checks a path as an archive has it.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ArchiveError> {
        let bad = |reason| ArchiveError::BadName { name: shown(bytes), reason };
        let text = std::str::from_utf8(bytes).map_err(|_| bad("it is not UTF-8"))?;
        if text.starts_with('/') {
            return Err(ArchiveError::Absolute { name: shown(bytes) });
        }
        if text.contains('\0') {
            return Err(bad("it has a zero byte"));
        }
        let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        if parts.contains(&"..") {
            return Err(ArchiveError::ParentPath { name: shown(bytes) });
        }
        if text.len() > MAX_PATH || parts.iter().any(|part| part.len() > MAX_COMPONENT) {
            return Err(bad("it is too long"));
        }
        Ok(Self(parts.into_iter().map(str::to_owned).collect()))
    }

    /// With slashes, fit to be shown.
    pub(super) fn shown(&self) -> String {
        shown(self.0.join("/").as_bytes())
    }
}

/// What extension headers said about the member that follows them.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

/// Gives every member and its content to `visit`, in order, and reads the archive to its very end, so that
/// a damaged one is found. At most `ceiling` bytes are unpacked; `allowed` only stands in the error.
pub(super) fn walk(
    packed: &[u8],
    ceiling: u64,
    allowed: u64,
    visit: &mut dyn FnMut(Member, &mut dyn Read) -> Result<(), ArchiveError>,
) -> Result<(), ArchiveError> {
    if !packed.starts_with(&[0x1f, 0x8b]) {
        return Err(ArchiveError::NotGzip);
    }
    let mut reader = flate2::read::MultiGzDecoder::new(packed).take(ceiling);
    let walked = walk_members(&mut reader, visit);
    let drained = walked.and_then(|()| {
        io::copy(&mut reader, &mut io::sink()).map_err(ArchiveError::Broken)?;
        Ok(())
    });
    // At the ceiling the reader pretends that the file ends, so whatever was thought of it means nothing.
    if reader.limit() == 0 && matches!(drained, Ok(()) | Err(ArchiveError::Broken(_))) {
        return Err(ArchiveError::TooLarge { allowed, needed: ceiling });
    }
    drained
}

fn walk_members(
    reader: &mut dyn Read,
    visit: &mut dyn FnMut(Member, &mut dyn Read) -> Result<(), ArchiveError>,
) -> Result<(), ArchiveError> {
    let mut archive = tar::Archive::new(reader);
    let mut extensions = Extensions::default();
    let mut index = 0;
    for entry in archive.entries().map_err(ArchiveError::Broken)?.raw(true) {
        let mut entry = entry.map_err(ArchiveError::Broken)?;
        if extensions.absorb(&mut entry)? {
            continue;
        }
        let member = std::mem::take(&mut extensions).member(index, &entry)?;
        visit(member, &mut entry)?;
        index += 1;
        if index > ARCHIVE_ENTRIES {
            return Err(ArchiveError::TooManyEntries);
        }
    }
    Ok(())
}

impl Extensions {
    /// Takes in an extension header; `false` when the entry is none.
    fn absorb<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<bool, ArchiveError> {
        match entry.header().entry_type() {
            EntryType::GNULongName => self.path = Some(text_of(entry)?),
            EntryType::GNULongLink => self.link = Some(text_of(entry)?),
            EntryType::XHeader => self.absorb_pax(&content_of(entry)?)?,
            // Says something about all members that follow (git writes its commit there): nothing we use.
            EntryType::XGlobalHeader => drop(content_of(entry)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn absorb_pax(&mut self, content: &[u8]) -> Result<(), ArchiveError> {
        let malformed = |reason| ArchiveError::Malformed { name: "PAX header".to_owned(), reason };
        for extension in PaxExtensions::new(content) {
            let extension = extension.map_err(|_| malformed("it does not parse"))?;
            match extension.key_bytes() {
                b"path" => self.path = Some(extension.value_bytes().to_vec()),
                b"linkpath" => self.link = Some(extension.value_bytes().to_vec()),
                b"size" => {
                    let size = extension.value().ok().and_then(|text| text.parse().ok());
                    self.size = Some(size.ok_or_else(|| malformed("its size is not a number"))?);
                }
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(ArchiveError::Kind { name: "PAX header".to_owned(), kind: "sparse file" });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The member that this entry is, with everything the headers before it said.
    fn member<R: Read>(self, index: usize, entry: &tar::Entry<'_, R>) -> Result<Member, ArchiveError> {
        let header = entry.header();
        let path = self.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let malformed = |reason| ArchiveError::Malformed { name: shown(&path), reason };
        let size = entry.size();
        // Two readers that disagree about a length see two different archives.
        if self.size.is_some_and(|said| said != size) {
            return Err(malformed("its two sizes differ"));
        }
        let name = Name::parse(&path)?;
        let link = || {
            let link = self.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
            link.filter(|link| !link.is_empty()).ok_or_else(|| malformed("it is a link to nothing"))
        };
        let kind = match header.entry_type() {
            // Old tars mark a directory by a slash at the end of its name only.
            EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") && size == 0 => {
                Kind::Directory
            }
            EntryType::Regular | EntryType::Continuous => {
                Kind::File { size, executable: header.mode().unwrap_or(0) & 0o111 != 0 }
            }
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => {
                let target = String::from_utf8(link()?).map_err(|_| malformed("its target is not UTF-8"))?;
                // No file system can have it, and following it would cost what it costs to write it, again and again.
                if target.len() > MAX_PATH {
                    return Err(malformed("its target is too long"));
                }
                Kind::Symlink { target }
            }
            EntryType::Link => {
                let target = link()?;
                // Whatever is wrong with the target, the entry is what a person must look for.
                let out = |_| ArchiveError::LinkOut { name: shown(&path), target: shown(&target) };
                Kind::HardLink { target: Name::parse(&target).map_err(out)? }
            }
            other => return Err(ArchiveError::Kind { name: shown(&path), kind: kind_name(other) }),
        };
        if name.0.is_empty() && kind != Kind::Directory {
            return Err(malformed("it has no name"));
        }
        Ok(Member { index, name, kind })
    }
}

/// The words of an error for what is never unpacked.
fn kind_name(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Char => "character device",
        EntryType::Block => "block device",
        EntryType::Fifo => "named pipe",
        EntryType::GNUSparse => "sparse file",
        _ => "thing of an unknown kind",
    }
}

fn content_of<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Vec<u8>, ArchiveError> {
    if entry.size() > MAX_EXTENSION {
        let reason = "its header is too long";
        return Err(ArchiveError::Malformed { name: "extension header".to_owned(), reason });
    }
    let mut content = Vec::new();
    entry.read_to_end(&mut content).map_err(ArchiveError::Broken)?;
    Ok(content)
}

/// GNU's long names end with a zero byte.
fn text_of<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Vec<u8>, ArchiveError> {
    let mut text = content_of(entry)?;
    while text.last() == Some(&0) {
        text.pop();
    }
    Ok(text)
}
