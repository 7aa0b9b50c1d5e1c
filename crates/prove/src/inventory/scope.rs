//! What an inventory looks at: which directories, which cgroups, whose open files, and what is excepted.
//!
//! Processes, namespaces, links, mounts and sockets need no scope: everything that can be seen from our own
//! PID namespace is listed. That is why each test lives in namespaces of its own.

use outlast_wire::paths::{Evidence, Places};
use std::path::{Path, PathBuf};

/// What one inventory looks at.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    pub(super) trees: Vec<Tree>,
    pub(super) cgroups: Option<CgroupScope>,
    pub(super) open_files_of: Vec<u32>,
    pub(super) memory_directories: Vec<PathBuf>,
}

/// A directory whose whole content is listed, but for what is excepted.
#[derive(Debug, Clone)]
pub struct Tree {
    root: PathBuf,
    except: Vec<Pattern>,
    only_naming: Option<Vec<String>>,
}

/// The cgroups of all hierarchies that lie below one path.
#[derive(Debug, Clone)]
pub struct CgroupScope {
    pub(super) below: PathBuf,
    pub(super) except: Vec<Pattern>,
}

/// A relative path in which a component may hold one `*` (any text) or, as the last component, be `**`
/// (everything below). As in a shell, a leading `*` does not stand for a leading dot: what is only half made
/// or set aside is named with one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Vec<String>);

impl Pattern {
    /// From its written form.
    pub fn new(text: &str) -> Self {
        Self(text.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect())
    }

    /// Whether it names this relative path.
    pub fn matches(&self, path: &Path) -> bool {
        let mut components = path.components().map(|part| part.as_os_str().to_string_lossy().into_owned());
        for (index, wanted) in self.0.iter().enumerate() {
            if wanted == "**" && index + 1 == self.0.len() {
                return components.next().is_some();
            }
            match components.next() {
                Some(found) if part_matches(wanted, &found) => {}
                Some(_) | None => return false,
            }
        }
        components.next().is_none()
    }
}

fn part_matches(wanted: &str, found: &str) -> bool {
    match wanted.split_once('*') {
        None => wanted == found,
        Some((head, _)) if head.is_empty() && found.starts_with('.') => false,
        Some((head, tail)) => {
            found.len() >= head.len() + tail.len() && found.starts_with(head) && found.ends_with(tail)
        }
    }
}

impl Tree {
    /// Everything below `root`.
    pub fn all(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), except: Vec::new(), only_naming: None }
    }

    /// But not what this [`Pattern`] names, relative to the root.
    #[must_use]
    pub fn except(mut self, pattern: &str) -> Self {
        self.except.push(Pattern::new(pattern));
        self
    }

    /// Only paths in which one of these names occurs. For directories shared with others: whatever is
    /// temporary there carries the id of the incarnation it belongs to.
    #[must_use]
    pub fn only_naming(mut self, names: impl IntoIterator<Item = String>) -> Self {
        self.only_naming = Some(names.into_iter().collect());
        self
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether a path, relative to the root, is to be listed.
    pub(super) fn lists(&self, path: &Path) -> bool {
        let text = path.to_string_lossy();
        let named =
            self.only_naming.as_ref().is_none_or(|names| names.iter().any(|name| text.contains(name)));
        named && !self.except.iter().any(|pattern| pattern.matches(path))
    }
}

impl Scope {
    /// Nothing but what needs no scope.
    pub fn new() -> Self {
        Self::default()
    }

    /// The home and run directory of one owner, without the store and the evidence, which are kept.
    /// What the library holds is not part of it: see [`Tree::only_naming`].
    #[must_use]
    pub fn with_places(self, places: &Places) -> Self {
        let mut home = Tree::all(places.home());
        for name in ["outlast.db*", "proofs", "incarnations", "incarnations/*", "incarnations/*/outputs/**"] {
            home = home.except(name);
        }
        // Where VMs are; what one keeps is in a directory of its own, which goes with it. What a detached program wrote is
        // evidence.
        for name in ["vms", "incarnations/*/exec-*.log", "incarnations/*/exec-*.end"] {
            home = home.except(name);
        }
        let kept = Evidence::at(PathBuf::from("incarnations/*"));
        let files =
            [kept.journal(), kept.output_log(), kept.console_log(), kept.vmm_log(), kept.runner_log()];
        for path in files.iter().chain([&kept.outputs()]) {
            home = home.except(&path.to_string_lossy());
        }
        for (directory, except) in [(places.run(), ""), (places.library().path(), "/**")] {
            if let Ok(inside) = directory.strip_prefix(places.home()) {
                let inside = inside.to_string_lossy();
                home = home.except(&inside);
                home = home.except(&format!("{inside}{except}"));
            }
        }
        let scope = self.with_tree(home);
        if places.run().starts_with(places.home()) { scope } else { scope.with_tree(Tree::all(places.run())) }
    }

    /// A further directory.
    #[must_use]
    pub fn with_tree(mut self, tree: Tree) -> Self {
        self.trees.push(tree);
        self
    }

    /// The cgroups below `below` in every hierarchy (an empty path: all of them), but not those that
    /// `except` names, relative to the hierarchy's root.
    #[must_use]
    pub fn with_cgroups(mut self, below: impl Into<PathBuf>, except: &[&str]) -> Self {
        let except = except.iter().map(|pattern| Pattern::new(pattern)).collect();
        self.cgroups = Some(CgroupScope { below: below.into(), except });
        self
    }

    /// The open files of this process, which lives longer than what is being judged.
    #[must_use]
    pub fn with_open_files_of(mut self, pid: u32) -> Self {
        self.open_files_of.push(pid);
        self
    }

    /// A shared-memory mount.
    #[must_use]
    pub fn with_memory_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.memory_directories.push(directory.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, path: &str) -> bool {
        Pattern::new(pattern).matches(Path::new(path))
    }

    #[test]
    fn a_pattern_names_exactly_what_it_says() {
        assert!(matches("outlast.db*", "outlast.db-wal") && !matches("outlast.db*", "outlast.d"));
        assert!(
            matches("incarnations/*", "incarnations/a") && !matches("incarnations/*", "incarnations/a/b")
        );
        assert!(!matches("incarnations/*", "incarnations"));
        assert!(matches("outputs/**", "outputs/a/b") && !matches("outputs/**", "outputs"));
        assert!(matches("*/journal", "x/journal") && !matches("*/journal", "x/y/journal"));
        assert!(!matches("templates/*", "templates/.making-x") && matches("t/.lock-*", "t/.lock-x"));
        assert!(!matches(".lock-*", "lock-a") && !matches("ab*ba", "aba"));
    }

    #[test]
    fn a_home_keeps_its_evidence_and_nothing_else() {
        let places = Places::new("/h".into(), "/h/run".into(), "/h/library".into());
        let scope = Scope::new().with_places(&places);
        let lists = |path: &str| scope.trees[0].lists(Path::new(path));
        for kept in ["outlast.db", "outlast.db-wal", "run", "library", "library/images/x", "incarnations/i"] {
            assert!(!lists(kept), "{kept} is no leak");
        }
        for kept in [
            "incarnations/i/journal.jsonl",
            "incarnations/i/outputs/a/b",
            "incarnations/i/exec-2.log",
            "incarnations/i/exec-2.end",
            "vms",
        ] {
            assert!(!lists(kept), "{kept} is no leak");
        }
        for leak in [
            "run/i",
            "run/i/qmp.sock",
            "incarnations/i/hold",
            "incarnations/i/input",
            "disk",
            "vms/v",
            "vms/.making-v",
        ] {
            assert!(lists(leak), "{leak} is a leak");
        }
        assert_eq!(scope.trees.len(), 1);
    }

    #[test]
    fn a_run_directory_elsewhere_is_a_tree_of_its_own() {
        let places = Places::new("/h".into(), "/run/outlast".into(), "/lib".into());
        let scope = Scope::new().with_places(&places);
        assert_eq!(scope.trees[1].root(), Path::new("/run/outlast"));
    }

    #[test]
    fn in_a_shared_directory_only_our_own_names_count() {
        let tree = Tree::all("/lib").only_naming(["01abc".to_owned()]);
        assert!(tree.lists(Path::new("templates/.making-01abc/memory")));
        assert!(!tree.lists(Path::new("templates/.making-01xyz/memory")));
        assert!(!Tree::all("/lib").only_naming([]).lists(Path::new("anything")));
    }

    proptest! {
        #[test]
        fn a_plain_path_is_a_pattern_that_names_only_itself(parts in prop::collection::vec("[a-z]{1,6}", 1..5), other in "[a-z/]{1,20}") {
            let path = parts.join("/");
            prop_assert!(matches(&path, &path));
            prop_assert_eq!(matches(&path, &other), Pattern::new(&other) == Pattern::new(&path));
        }
    }
}
