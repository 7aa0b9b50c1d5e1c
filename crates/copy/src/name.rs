//! Names: of members of a stream, checked component by component, and of what a path stands for.

use crate::error::{CopyError, shown};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// A path may have this many bytes, a component of it [`MAX_COMPONENT`] (PATH_MAX and NAME_MAX of Linux).
const MAX_PATH: usize = 4095;
/// See [`MAX_PATH`].
const MAX_COMPONENT: usize = 255;
/// Directories within each other; each level is opened on the way to a file.
pub(crate) const MAX_DEPTH: usize = 128;

/// A checked relative path: components that are neither empty nor `.` nor `..`; none means the top.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Name(pub(crate) Vec<OsString>);

impl Name {
    /// Checks a path as a stream has it.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, CopyError> {
        let bad = |reason| CopyError::Entry { name: shown(Path::new(OsStr::from_bytes(bytes))), reason };
        if bytes.starts_with(b"/") {
            return Err(bad("its path is absolute"));
        }
        if bytes.contains(&0) {
            return Err(bad("its path has a zero byte"));
        }
        let parts: Vec<&[u8]> =
            bytes.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
        if parts.contains(&b"..".as_slice()) {
            return Err(bad("its path has '..' in it"));
        }
        if bytes.len() > MAX_PATH || parts.iter().any(|part| part.len() > MAX_COMPONENT) {
            return Err(bad("its path is too long"));
        }
        if parts.len() > MAX_DEPTH {
            return Err(bad("it is too deep"));
        }
        Ok(Self(parts.into_iter().map(|part| OsStr::from_bytes(part).to_owned()).collect()))
    }

    /// Its last component and those before it; the top has none.
    pub(crate) fn split(&self) -> Option<(&OsStr, &[OsString])> {
        self.0.split_last().map(|(last, before)| (last.as_os_str(), before))
    }

    /// What it takes of our memory, in bytes: each component is one of its own.
    pub(crate) fn held(&self) -> usize {
        self.0.iter().map(|component| component.len() + size_of::<OsString>() + 16).sum()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.iter().collect()
    }

    /// Whether a link of this name and target leads out of the tree whose own root lies `above` components down: only
    /// `..` at its beginning is counted, because behind a component that may be a link it would lead anywhere.
    pub(crate) fn link_leads_out(&self, target: &[u8], above: usize) -> bool {
        let target = Path::new(OsStr::from_bytes(target));
        let mut room = self.0.len().saturating_sub(1).saturating_sub(above);
        let mut climbing = true;
        for component in target.components() {
            match component {
                Component::CurDir => {}
                Component::Normal(_) => climbing = false,
                Component::ParentDir if climbing && room > 0 => room -= 1,
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => return true,
            }
        }
        false
    }
}

/// Whether a path means what is in a directory and not the directory: `DIR/.`, and what has no name.
pub fn is_contents(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    bytes.ends_with(b"/.") || bytes == b"." || path.file_name().is_none()
}

/// What the copy of this path is called; `None` when it is what is in a directory.
pub fn name_of(path: &Path) -> Option<&OsStr> {
    if is_contents(path) { None } else { path.file_name() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_lead_out_are_refused() {
        for bad in ["/etc/passwd", "../x", "a/../../x", "a/..", "a\0b", &"x".repeat(256), &"d/".repeat(200)] {
            assert!(Name::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert_eq!(Name::parse(b"./a//b/.").unwrap().path(), Path::new("a/b"));
        assert!(Name::parse(b"./").unwrap().split().is_none());
        assert!(Name::parse(b"od\xffd").is_ok(), "names need not be text");
    }

    #[test]
    fn links_within_the_tree_are_told_from_those_that_lead_out() {
        let link = Name::parse(b"top/d/link").unwrap();
        for inside in ["file", "../file", "x/y", ".", "./x", ".."] {
            assert!(!link.link_leads_out(inside.as_bytes(), 1), "{inside}");
        }
        for out in ["/etc", "../../x", "../..", "x/../y", "../../../x"] {
            assert!(link.link_leads_out(out.as_bytes(), 1), "{out}");
        }
        assert!(!link.link_leads_out(b"../../x", 0), "everything in a directory is one tree");
    }

    #[test]
    fn a_path_means_a_thing_or_what_is_in_it() {
        for contents in [".", "a/.", "/", "..", "a/.."] {
            assert!(is_contents(Path::new(contents)), "{contents}");
        }
        assert_eq!(name_of(Path::new("a/b/")), Some(OsStr::new("b")));
        assert_eq!(name_of(Path::new("a/b/.")), None);
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_stays_below_the_root(text in ".{0,40}") {
            if let Ok(name) = Name::parse(text.as_bytes()) {
                prop_assert!(name.path().components().all(|part| matches!(part, Component::Normal(_))));
            }
        }
    }
}
