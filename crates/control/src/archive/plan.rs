//! What will be written: every directory, and for every member of the archive the files made from it.
//!
//! Links are gone here: a link to a file is one more file of the same member, a link to a directory one
//! more copy of all that is in it, and both count towards the limits.

use super::member::Member;
use super::tree::{Node, PlaceNode, Tree};
use super::{ArchiveError, shown};
use outlast_model::limit::ARCHIVE_ENTRIES;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Longest relative path of a planned file, in bytes; what it is put below needs room in PATH_MAX too.
const MAX_PLANNED_PATH: usize = 3000;

/// What an archive becomes on disk.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Parents before children.
    directories: BTreeSet<String>,
    files: BTreeSet<String>,
    /// By member: the files with its content, and whether they may be executed.
    by_member: BTreeMap<usize, Vec<(String, bool)>>,
    bytes: u64,
}

/// A plan being made.
struct Planner<'tree> {
    tree: &'tree Tree,
    plan: Plan,
    allowed: u64,
    /// The directories, free of links, that are being copied at this moment: a link to one never ends.
    within: Vec<Vec<String>>,
}

impl Plan {
    /// Follows every link of a tree; `allowed` is how many bytes the files may have together.
    pub(super) fn of(tree: &Tree, allowed: u64) -> Result<Self, ArchiveError> {
        let mut planner = Planner { tree, plan: Self::default(), allowed, within: vec![Vec::new()] };
        planner.directory(tree.top(), &[], "")?;
        if planner.plan.files.is_empty() {
            return Err(ArchiveError::Empty);
        }
        Ok(planner.plan)
    }

    /// Whether a file of this relative path will be written.
    pub(super) fn has_file(&self, path: &str) -> bool {
        self.files.contains(path)
    }

    /// The bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes all directories below `top`.
    pub(super) fn make_directories(&self, top: &Path) -> Result<(), ArchiveError> {
        for directory in &self.directories {
            let path = top.join(directory);
            let made = DirBuilder::new().mode(0o700).create(&path);
            made.map_err(|source| ArchiveError::Unpack { operation: "make directory", path, source })?;
        }
        Ok(())
    }

    /// Writes the files made from one member: the first from its content, the others as copies of the first.
    pub(super) fn write(
        &self,
        member: &Member,
        content: &mut dyn Read,
        top: &Path,
    ) -> Result<(), ArchiveError> {
        let Some([(first, executable), others @ ..]) = self.by_member.get(&member.index).map(Vec::as_slice)
        else {
            return Ok(());
        };
        let original = top.join(first);
        copy(content, create(&original, *executable)?, &original)?;
        for (name, executable) in others {
            let path = top.join(name);
            let mut source = File::open(&original).map_err(|source| ArchiveError::Unpack {
                operation: "open",
                path: original.clone(),
                source,
            })?;
            copy(&mut source, create(&path, *executable)?, &path)?;
        }
        Ok(())
    }
}

fn create(path: &Path, executable: bool) -> Result<File, ArchiveError> {
    let mode = if executable { 0o700 } else { 0o600 };
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.map_err(|source| ArchiveError::Unpack { operation: "make", path: path.to_owned(), source })
}

/// Copies everything; what fails while reading is the archive's fault, what fails while writing the disk's.
fn copy(content: &mut dyn Read, mut file: File, path: &Path) -> Result<(), ArchiveError> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = match content.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(ArchiveError::Broken(error)),
        };
        let written = file.write_all(&buffer[..length]);
        written.map_err(|source| ArchiveError::Unpack {
            operation: "write",
            path: path.to_owned(),
            source,
        })?;
    }
}

impl Planner<'_> {
    /// Plans what is in a directory: `place` is where it really is, `at` what it is written as.
    fn directory(
        &mut self,
        nodes: &BTreeMap<String, Node>,
        place: &[String],
        at: &str,
    ) -> Result<(), ArchiveError> {
        for (name, node) in nodes {
            let path = if at.is_empty() { name.clone() } else { format!("{at}/{name}") };
            match node {
                Node::Directory(inner) => {
                    let place = [place, std::slice::from_ref(name)].concat();
                    self.enter(inner, &place, &path)?;
                }
                Node::File { member, size, executable } => self.file(*member, *size, *executable, path)?,
                Node::Symlink(target) => {
                    let led = self.tree.follow(place, name, target)?;
                    match led.node {
                        PlaceNode::File(member, size, executable) => {
                            self.file(member, size, executable, path)?;
                        }
                        PlaceNode::Directory(inner) => self.enter(inner, &led.path, &path)?,
                    }
                }
            }
        }
        Ok(())
    }

    fn enter(
        &mut self,
        inner: &BTreeMap<String, Node>,
        place: &[String],
        path: &str,
    ) -> Result<(), ArchiveError> {
        if self.within.iter().any(|outer| outer == place) {
            return Err(ArchiveError::LinkLoop { name: shown(path.as_bytes()) });
        }
        self.count(path, 0)?;
        self.plan.directories.insert(path.to_owned());
        self.within.push(place.to_vec());
        self.directory(inner, place, path)?;
        self.within.pop();
        Ok(())
    }

    fn file(&mut self, member: usize, size: u64, executable: bool, path: String) -> Result<(), ArchiveError> {
        self.count(&path, size)?;
        self.plan.by_member.entry(member).or_default().push((path.clone(), executable));
        self.plan.files.insert(path);
        Ok(())
    }

    fn count(&mut self, path: &str, size: u64) -> Result<(), ArchiveError> {
        if path.len() > MAX_PLANNED_PATH {
            return Err(ArchiveError::BadName { name: shown(path.as_bytes()), reason: "it is too long" });
        }
        if self.plan.directories.len() + self.plan.files.len() >= ARCHIVE_ENTRIES {
            return Err(ArchiveError::TooManyEntries);
        }
        self.plan.bytes = self.plan.bytes.saturating_add(size);
        if self.plan.bytes > self.allowed {
            return Err(ArchiveError::TooLarge { allowed: self.allowed, needed: self.plan.bytes });
        }
        Ok(())
    }
}
