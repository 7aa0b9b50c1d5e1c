//! The tree of names in an archive, and where its links lead. Pure: no file is touched.

use super::member::{Kind, Member, Name};
use super::{ArchiveError, shown};
use std::collections::BTreeMap;

/// Links followed for one name before it counts as a loop (Linux's own limit).
const MAX_HOPS: usize = 40;

/// What stands at a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    /// A directory.
    Directory(BTreeMap<String, Node>),
    /// A file whose content is that of a member.
    File {
        /// The member's number.
        member: usize,
        /// Bytes.
        size: u64,
        /// Whether it may be executed.
        executable: bool,
    },
    /// A link, with its target as written.
    Symlink(String),
}

/// All names of an archive.
#[derive(Debug)]
pub(super) struct Tree {
    top: BTreeMap<String, Node>,
}

/// Where a link leads: the place, free of links, and what stands there.
pub(super) struct Place<'tree> {
    /// Its components.
    pub(super) path: Vec<String>,
    /// What stands there.
    pub(super) node: PlaceNode<'tree>,
}

/// What stands at a place that is free of links.
pub(super) enum PlaceNode<'tree> {
    /// A directory.
    Directory(&'tree BTreeMap<String, Node>),
    /// A file: member, bytes, whether it may be executed.
    File(usize, u64, bool),
}

impl Tree {
    /// Without any name.
    pub(super) fn new() -> Self {
        Self { top: BTreeMap::new() }
    }

    /// The names at the top.
    pub(super) fn top(&self) -> &BTreeMap<String, Node> {
        &self.top
    }

    /// Puts a member in its place. A later file or link takes the place of an earlier one, as with tar.
    pub(super) fn add(&mut self, member: Member) -> Result<(), ArchiveError> {
        let Member { index, name, kind } = member;
        let node = match kind {
            Kind::File { size, executable } => Node::File { member: index, size, executable },
            Kind::Directory => Node::Directory(BTreeMap::new()),
            Kind::Symlink { target } => Node::Symlink(target),
            Kind::HardLink { target } => self.earlier_file(&name, &target)?,
        };
        let conflict = || ArchiveError::Conflict { name: name.shown() };
        let Some((last, parents)) = name.0.split_last() else {
            return Ok(()); // The top itself, which is a directory: there already.
        };
        let mut directory = &mut self.top;
        for part in parents {
            let node = directory.entry(part.clone()).or_insert_with(|| Node::Directory(BTreeMap::new()));
            // A path that leads through a file is nonsense; through a link, it is an old trick.
            let Node::Directory(inner) = node else { return Err(conflict()) };
            directory = inner;
        }
        match (directory.get(last), &node) {
            (Some(Node::Directory(_)), Node::Directory(_)) => return Ok(()),
            (Some(Node::Directory(_)), _) | (Some(_), Node::Directory(_)) => return Err(conflict()),
            (Some(Node::File { .. } | Node::Symlink(_)) | None, _) => {}
        }
        directory.insert(last.clone(), node);
        Ok(())
    }

    fn earlier_file(&self, name: &Name, target: &Name) -> Result<Node, ArchiveError> {
        let dangling = || ArchiveError::LinkDangling { name: name.shown(), target: target.shown() };
        match self.node(&target.0) {
            Some(file @ Node::File { .. }) => Ok(file.clone()),
            Some(Node::Directory(_) | Node::Symlink(_)) | None => Err(dangling()),
        }
    }

    /// What stands at a path, links not followed. The top itself has no node.
    fn node(&self, path: &[String]) -> Option<&Node> {
        let (last, parents) = path.split_last()?;
        let mut directory = &self.top;
        for part in parents {
            let Some(Node::Directory(inner)) = directory.get(part) else { return None };
            directory = inner;
        }
        directory.get(last)
    }

    /// Follows the link that lies in the directory `parent` (free of links) under the name `link`.
    pub(super) fn follow(
        &self,
        parent: &[String],
        link: &str,
        target: &str,
    ) -> Result<Place<'_>, ArchiveError> {
        let name = || shown([parent, &[link.to_owned()]].concat().join("/").as_bytes());
        let shown_target = || shown(target.as_bytes());
        let out = || ArchiveError::LinkOut { name: name(), target: shown_target() };
        let dangling = || ArchiveError::LinkDangling { name: name(), target: shown_target() };
        let mut place = parent.to_vec();
        // The components still to walk, the next one last.
        let mut ahead = components(target).ok_or_else(out)?;
        let mut hops = 1;
        while let Some(part) = ahead.pop() {
            if part == ".." {
                place.pop().ok_or_else(out)?;
                continue;
            }
            place.push(part);
            match self.node(&place).ok_or_else(dangling)? {
                Node::Directory(_) => {}
                Node::File { .. } if ahead.is_empty() => {}
                Node::File { .. } => return Err(dangling()),
                Node::Symlink(next) => {
                    hops += 1;
                    if hops > MAX_HOPS {
                        return Err(ArchiveError::LinkLoop { name: name() });
                    }
                    place.pop();
                    ahead.extend(components(next).ok_or_else(out)?);
                }
            }
        }
        let node = match self.node(&place) {
            None => PlaceNode::Directory(&self.top),
            Some(Node::Directory(inner)) => PlaceNode::Directory(inner),
            Some(Node::File { member, size, executable }) => PlaceNode::File(*member, *size, *executable),
            Some(Node::Symlink(_)) => return Err(ArchiveError::LinkLoop { name: name() }),
        };
        Ok(Place { path: place, node })
    }
}

/// A target's components, the first one last; `None` when it is absolute or has a zero byte.
fn components(target: &str) -> Option<Vec<String>> {
    if target.starts_with('/') || target.contains('\0') {
        return None;
    }
    let parts = target.split('/').filter(|part| !part.is_empty() && *part != ".");
    Some(parts.rev().map(str::to_owned).collect())
}
