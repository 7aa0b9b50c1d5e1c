//! Archives of source code that people submit: judged whole before anything is made, then unpacked by us.
//!
//! ```text
//!   packed bytes ──► member (one at a time, capped) ──► tree (pure: names, links, sizes) ──► plan ──► files
//! ```
//!
//! Nothing in an archive is believed. Names are checked component by component, links are followed only in
//! the tree of names, never on a disk, and what is written in the end are plain files and directories: a
//! link becomes a copy of what it points to. Sending them to the guest is the runner's business.

mod member;
mod plan;
mod tree;

use outlast_model::limit::{ARCHIVE_BYTES, ARCHIVE_ENTRIES};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use thiserror::Error;

use plan::Plan;
use tree::Tree;

/// Bytes that headers and padding may take on top of the files, per entry that is allowed.
const OVERHEAD_PER_ENTRY: u64 = 4096;

/// An archive was refused, or could not be unpacked.
#[derive(Debug, Error)]
#[error("archive {} is refused", .path.display())]
pub struct RefusedArchive {
    /// The archive.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub reason: ArchiveError,
}

impl RefusedArchive {
    /// Says which archive it was about.
    pub(crate) fn at(path: &Path) -> impl FnOnce(ArchiveError) -> Self {
        move |reason| Self { path: path.to_owned(), reason }
    }
}

/// Why an archive is refused, or could not be unpacked.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// It cannot be opened or read.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// It is a directory, a device or the like.
    #[error("it is not a regular file")]
    NotAFile,
    /// It is too large as it is.
    #[error("it has {size} bytes, at most {ARCHIVE_BYTES} (10 MiB) are allowed")]
    PackedTooLarge {
        /// Its size in bytes.
        size: u64,
    },
    /// It does not begin like a gzip file.
    #[error("it is not a tar.gz: it is not compressed with gzip")]
    NotGzip,
    /// It ends early, or is damaged, or holds something else than a tar.
    #[error("it is not a whole tar.gz")]
    Broken(#[source] io::Error),
    /// A header contradicts itself or describes nothing.
    #[error("entry '{name}' is malformed: {reason}")]
    Malformed {
        /// The entry.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A name begins with a slash.
    #[error("entry '{name}' has an absolute path")]
    Absolute {
        /// The entry.
        name: String,
    },
    /// A name has a `..` in it.
    #[error("entry '{name}' has '..' in its path")]
    ParentPath {
        /// The entry.
        name: String,
    },
    /// A name is too long, not UTF-8, or has a zero byte.
    #[error("entry '{name}' has a name that cannot be used: {reason}")]
    BadName {
        /// The entry.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A link points out of the tree.
    #[error("entry '{name}' is a link out of the archive (to '{target}')")]
    LinkOut {
        /// The link.
        name: String,
        /// Where it points.
        target: String,
    },
    /// A link points to nothing.
    #[error("entry '{name}' is a link to '{target}', which is not in the archive")]
    LinkDangling {
        /// The link.
        name: String,
        /// Where it points.
        target: String,
    },
    /// A link leads back to itself or to a directory it lies in.
    #[error("entry '{name}' is a link that leads back to itself")]
    LinkLoop {
        /// The link.
        name: String,
    },
    /// A device, a pipe, a sparse file and the like.
    #[error("entry '{name}' is a {kind}; only files, directories and links inside are allowed")]
    Kind {
        /// The entry.
        name: String,
        /// What it is.
        kind: &'static str,
    },
    /// One name is a file here and a directory there.
    #[error("entry '{name}' is in the way of another entry")]
    Conflict {
        /// The entry.
        name: String,
    },
    /// Too many entries.
    #[error("it has more than {ARCHIVE_ENTRIES} entries")]
    TooManyEntries,
    /// The files are too large for the memory that was asked for.
    #[error(
        "it unpacks to more than {allowed} bytes, which is half of the workload's memory; \
         {needed} bytes were seen before stopping"
    )]
    TooLarge {
        /// Bytes allowed.
        allowed: u64,
        /// Bytes seen.
        needed: u64,
    },
    /// There is no file in it.
    #[error("it holds no files")]
    Empty,
    /// The file to start is not in it.
    #[error("it has no file '{entry}' to start")]
    NoEntry {
        /// The file, or the names that were tried.
        entry: String,
    },
    /// Unpacking failed.
    #[error("cannot {operation} {}", .path.display())]
    Unpack {
        /// What was being done.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// An archive that was judged whole and found good.
#[derive(Debug)]
pub struct Archive {
    packed: Vec<u8>,
    plan: Plan,
    ceiling: u64,
}

impl Archive {
    /// Reads the packed bytes at `path`, without looking into them.
    ///
    /// # Errors
    /// The file is not there, is none, or is too large.
    pub fn read(path: &Path) -> Result<Vec<u8>, ArchiveError> {
        let file = File::open(path).map_err(ArchiveError::Read)?;
        let metadata = file.metadata().map_err(ArchiveError::Read)?;
        if !metadata.is_file() {
            return Err(ArchiveError::NotAFile);
        }
        let mut packed = Vec::new();
        // It may grow while it is read: one byte over the limit is enough to know.
        file.take(ARCHIVE_BYTES + 1).read_to_end(&mut packed).map_err(ArchiveError::Read)?;
        let size = u64::try_from(packed.len()).unwrap_or(u64::MAX).max(metadata.len());
        if size > ARCHIVE_BYTES {
            return Err(ArchiveError::PackedTooLarge { size });
        }
        Ok(packed)
    }

    /// Judges packed bytes; `allowed` is how many bytes the files in it may have together.
    ///
    /// # Errors
    /// [`ArchiveError`] says which rule they break.
    pub fn inspect(packed: Vec<u8>, allowed: u64) -> Result<Self, ArchiveError> {
        let entries = u64::try_from(ARCHIVE_ENTRIES).unwrap_or(u64::MAX);
        let ceiling = allowed.saturating_add(entries.saturating_mul(OVERHEAD_PER_ENTRY));
        let mut tree = Tree::new();
        let mut bytes: u64 = 0;
        member::walk(&packed, ceiling, allowed, &mut |member, _| {
            bytes = bytes.saturating_add(member.kind.size());
            if bytes > allowed {
                return Err(ArchiveError::TooLarge { allowed, needed: bytes });
            }
            tree.add(member)
        })?;
        let plan = Plan::of(&tree, allowed)?;
        Ok(Self { packed, plan, ceiling })
    }

    /// Whether there is a file of this relative path (links count as what they point to).
    pub fn has_file(&self, path: &str) -> bool {
        self.plan.has_file(path)
    }

    /// The bytes of all files together.
    pub fn unpacked_bytes(&self) -> u64 {
        self.plan.bytes()
    }

    /// Writes everything below `directory`, which exists and is empty. Directories become 0700, files 0600
    /// or, when they may be executed, 0700.
    ///
    /// # Errors
    /// [`ArchiveError::Unpack`]; what was written until then stays for the caller to remove.
    pub fn unpack(&self, directory: &Path) -> Result<(), ArchiveError> {
        self.plan.make_directories(directory)?;
        member::walk(&self.packed, self.ceiling, u64::MAX, &mut |member, content| {
            self.plan.write(&member, content, directory)
        })
    }
}

/// A name from outside, fit to be shown: control characters are escaped and its length is bounded.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(80).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests;
