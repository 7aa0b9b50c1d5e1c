//! Which control group hierarchies this host has and which of them we may use.
//!
//! Read from /proc/self/mountinfo and /proc/self/cgroup, which tests hand in as text. Makes nothing but the
//! delegation of controllers downwards, which v2 wants.

use super::scope::Scopes;
use super::{CgroupError, make};
use crate::host;
use rustix::fs::Access;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

/// The controllers in use, in the order in which groups are made. Each costs a directory and a move per start
/// on v1, so only what is read or set is in here: `memory` tells a VMM killed for want of memory, and all three
/// take the limits of a VMM.
pub(super) const CONTROLLERS: &[&str] = &["memory", "pids", "cpu"];

/// The control group hierarchies that are used on this host: one or more of v1, the one of v2, or, on a hybrid
/// host, some of v1 and what v1 left to v2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    trees: Vec<Tree>,
    /// What stands in for them where there are none.
    stand_in: Option<String>,
    /// Where systemd keeps the groups: what is asked first.
    scopes: Option<Scopes>,
}

/// One hierarchy: where we may make groups in it, and what it controls for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) root: PathBuf,
    pub(super) version: Version,
    controllers: Vec<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

impl Tree {
    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.contains(&controller)
    }
}

impl Hierarchy {
    /// Looks at this host.
    ///
    /// # Errors
    /// [`CgroupError::Unavailable`] with the reason when nothing may be written.
    pub fn detect() -> Result<Self, CgroupError> {
        let read = |path: &str| {
            std::fs::read_to_string(path)
                .map_err(|error| CgroupError::Unavailable { reason: format!("cannot read {path}: {error}") })
        };
        let (mountinfo, top) = (read("/proc/self/mountinfo")?, Path::new("/"));
        let scopes = Scopes::find(&mounts(&mountinfo), top, host::ordinary_user());
        Ok(Self { scopes, ..Self::detect_in(&mountinfo, &read("/proc/self/cgroup")?, top)? })
    }

    /// As [`Self::detect`], but an ordinary user to whom nothing is delegated does without: there are no directories then,
    /// and limits of processes stand in for those of groups.
    ///
    /// # Errors
    /// [`CgroupError::Unavailable`] for the superuser.
    pub fn detect_or_do_without() -> Result<Self, CgroupError> {
        match (Self::detect(), host::ordinary_user()) {
            (Err(CgroupError::Unavailable { .. }), Some(user)) => {
                let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
                let scopes = Scopes::find(&mounts(&mountinfo), Path::new("/"), Some(user));
                Ok(Self { trees: Vec::new(), stand_in: Some(instead(user)), scopes })
            }
            (detected, _) => detected,
        }
    }

    /// What stands in for control groups, in a sentence; `None` where there are some.
    pub fn stand_in(&self) -> Option<&str> {
        self.stand_in.as_deref()
    }

    /// As [`Self::detect`], from the texts of the two files, with every path looked up below `prefix`.
    pub fn detect_in(mountinfo: &str, own: &str, prefix: &Path) -> Result<Self, CgroupError> {
        let mounts = mounts(mountinfo);
        let mut trees = v1_trees(&mounts, prefix);
        if let Some(tree) = trees.iter().find(|tree| !writable(&tree.root)) {
            return Err(unavailable(format!("{} is not writable", tree.root.display())));
        }
        match v2_tree(&mounts, own, prefix) {
            // Beside v1 it is of use only for a controller that v1 does not have: each tree costs a move per start.
            Ok(mut tree) => {
                let in_v1 = |controller: &str| trees.iter().any(|tree| tree.has(controller));
                tree.controllers.retain(|controller| !in_v1(controller));
                if trees.is_empty() || !tree.controllers.is_empty() {
                    trees.push(tree);
                }
            }
            Err(reason) if trees.is_empty() => return Err(unavailable(reason)),
            Err(_) => {}
        }
        Ok(Self { trees, stand_in: None, scopes: None })
    }

    /// Where systemd keeps the groups, the scopes it may be asked for.
    pub fn scopes(&self) -> Option<&Scopes> {
        self.scopes.as_ref()
    }

    /// The same host without systemd's help: what is used where that does not answer.
    #[must_use]
    pub fn without_scopes(self) -> Self {
        Self { scopes: None, ..self }
    }

    /// One sentence for people: each hierarchy with its controllers, and which of those in use are nowhere.
    pub fn describe(&self) -> String {
        if let Some(scopes) = &self.scopes {
            return scopes.describe(CONTROLLERS);
        }
        if let Some(stand_in) = &self.stand_in {
            return stand_in.clone();
        }
        let said: Vec<String> = self.trees.iter().map(Tree::describe).collect();
        let is_there = |controller: &str| self.trees.iter().any(|tree| tree.has(controller));
        let missing: Vec<&str> = CONTROLLERS.iter().copied().filter(|name| !is_there(name)).collect();
        let mut text = said.join(", ");
        if !missing.is_empty() {
            text = format!("{text}; without {}", missing.join(", "));
        }
        text
    }

    /// The hierarchies.
    pub(super) fn trees(&self) -> &[Tree] {
        &self.trees
    }

    /// The hierarchy that has a controller.
    pub(super) fn tree_of(&self, controller: &str) -> Option<&Tree> {
        self.trees.iter().find(|tree| tree.has(controller))
    }

    /// The directories in which `outlast` stands.
    pub(super) fn roots(&self) -> impl Iterator<Item = &Path> {
        self.trees.iter().map(|tree| tree.root.as_path())
    }

    #[cfg(test)]
    pub(super) fn v1_at(roots: Vec<(PathBuf, &'static str)>) -> Self {
        let tree = |(root, controller)| Tree { root, version: Version::V1, controllers: vec![controller] };
        Self { trees: roots.into_iter().map(tree).collect(), stand_in: None, scopes: None }
    }

    #[cfg(test)]
    pub(super) fn v2_at(root: PathBuf) -> Self {
        Self {
            trees: vec![Tree { root, version: Version::V2, controllers: CONTROLLERS.to_vec() }],
            stand_in: None,
            scopes: None,
        }
    }

    /// Of an ordinary user to whom nothing else is delegated.
    #[cfg(test)]
    pub(super) fn with_scopes(scopes: Scopes) -> Self {
        Self { trees: Vec::new(), stand_in: Some(instead(1000)), scopes: Some(scopes) }
    }
}

impl Tree {
    /// A scope, whose controllers are those that systemd gave it.
    pub(super) fn scope(directory: &Path) -> Self {
        Self { root: directory.to_owned(), version: Version::V2, controllers: CONTROLLERS.to_vec() }
    }

    /// Makes the directories `path` below the root, each handing the controllers down to the next on v2.
    ///
    /// A controller that cannot be handed down (the group above keeps it, or holds processes itself) is not
    /// there below: what needs it fails then and says so.
    pub(super) fn delegate(&self, path: &[&str]) -> Result<(), CgroupError> {
        let mut directory = self.root.clone();
        for name in path {
            self.hand_down(&directory);
            directory.push(name);
            make(&directory)?;
        }
        self.hand_down(&directory);
        Ok(())
    }

    /// Enables for the children of `directory` whatever of its controllers it has and has not handed down yet.
    pub(super) fn hand_down(&self, directory: &Path) {
        if self.version == Version::V1 {
            return;
        }
        let (here, below) =
            (words(&directory.join("cgroup.controllers")), words(&directory.join("cgroup.subtree_control")));
        for controller in &self.controllers {
            let is_in = |list: &[String]| list.iter().any(|word| word == controller);
            if is_in(&here) && !is_in(&below) {
                // See `delegate` for what a refusal means.
                let _ = std::fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
    }

    fn describe(&self) -> String {
        let version = match self.version {
            Version::V1 => "v1",
            Version::V2 => "v2",
        };
        let controllers =
            if self.controllers.is_empty() { "nothing".to_owned() } else { self.controllers.join(", ") };
        format!("cgroup {version}: {controllers} at {}", self.root.display())
    }
}

/// What v1 has of our controllers. Two may be mounted together.
fn v1_trees(mounts: &[Mount], prefix: &Path) -> Vec<Tree> {
    let mut trees: Vec<Tree> = Vec::new();
    for &controller in CONTROLLERS {
        let Some(mount) = mounts.iter().find(|mount| mount.has_controller(controller)) else { continue };
        let root = below(prefix, &mount.point);
        match trees.iter_mut().find(|tree| tree.root == root) {
            Some(tree) => tree.controllers.push(controller),
            None => trees.push(Tree { root, version: Version::V1, controllers: vec![controller] }),
        }
    }
    trees
}

/// The place in v2 that is ours, and what it has of our controllers; or why there is none.
fn v2_tree(mounts: &[Mount], own: &str, prefix: &Path) -> Result<Tree, String> {
    let Some(unified) = mounts.iter().find(|mount| mount.kind == "cgroup2") else {
        return Err("no control group file system is mounted".to_owned());
    };
    let top = below(prefix, &unified.point);
    let candidates = delegation_candidates(&top, own_v2_path(own));
    let Some(root) = candidates.into_iter().find(|candidate| writable(candidate)) else {
        return Err(format!("nothing from {} down to our own group is writable", top.display()));
    };
    let offered = words(&root.join("cgroup.controllers"));
    let is_offered = |controller: &&str| offered.iter().any(|word| word == controller);
    let controllers = CONTROLLERS.iter().copied().filter(is_offered).collect();
    Ok(Tree { root, version: Version::V2, controllers })
}

/// The words of a file of v2; none when it cannot be read.
pub(super) fn words(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

fn instead(user: u32) -> String {
    format!("rlimits stand in for control groups: none is delegated to uid {user}")
}

fn unavailable(reason: String) -> CgroupError {
    CgroupError::Unavailable { reason }
}

fn writable(path: &Path) -> bool {
    rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

pub(super) fn below(prefix: &Path, absolute: &Path) -> PathBuf {
    prefix.join(absolute.strip_prefix("/").unwrap_or(absolute))
}

/// Our own path in the v2 hierarchy: the line `0::/PATH`.
pub(super) fn own_v2_path(own: &str) -> &str {
    own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/")
}

/// The top of the hierarchy first (the superuser's place), then everything on the way down to our own group:
/// the highest that was delegated to us is the one whose end is least likely to be the end of a terminal.
fn delegation_candidates(top: &Path, own: &str) -> Vec<PathBuf> {
    let mut candidates = vec![top.to_owned()];
    let mut path = top.to_owned();
    for component in Path::new(own).components() {
        match component {
            Component::Normal(name) => {
                path.push(name);
                candidates.push(path.clone());
            }
            // `/../x` is how a group outside of our cgroup namespace is shown: there is no way there.
            Component::ParentDir => return vec![top.to_owned()],
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    candidates
}

/// One line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
pub(super) struct Mount {
    pub(super) point: PathBuf,
    pub(super) kind: String,
    super_options: String,
}

fn mounts(mountinfo: &str) -> Vec<Mount> {
    mountinfo.lines().filter_map(Mount::parse).collect()
}

impl Mount {
    pub(super) fn parse(line: &str) -> Option<Self> {
        // Optional fields stand between the sixth and the dash.
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?;
        let mut after = after.split(' ');
        let kind = after.next()?.to_owned();
        let super_options = after.nth(1).unwrap_or_default().to_owned();
        Some(Self { point: unescaped(point), kind, super_options })
    }

    fn has_controller(&self, controller: &str) -> bool {
        self.kind == "cgroup" && self.super_options.split(',').any(|option| option == controller)
    }
}

/// Blanks in paths are written as three octal digits behind a backslash.
fn unescaped(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            Some(_) | None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const V1: &str = "\
        31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:5 - cgroup cgroup rw,memory\n\
        39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

    fn roots(found: &Hierarchy) -> Vec<&Path> {
        found.roots().collect()
    }

    fn host(directories: &[&str]) -> tempfile::TempDir {
        let host = tempfile::tempdir().unwrap();
        for directory in directories {
            std::fs::create_dir_all(host.path().join(directory)).unwrap();
        }
        host
    }

    #[test]
    fn v1_controllers_are_used_one_by_one() {
        let host = host(&["sys/fs/cgroup/memory", "sys/fs/cgroup/pids"]);
        let found = Hierarchy::detect_in(V1, "4:memory:/x\n0::/\n", host.path()).unwrap();
        let expected = ["memory", "pids"].map(|name| host.path().join("sys/fs/cgroup").join(name));
        assert_eq!(roots(&found), expected);
        assert!(found.describe().starts_with("cgroup v1: "));
    }

    #[test]
    fn v2_is_used_at_its_top_when_that_is_writable() {
        let host = host(&["sys/fs/cgroup"]);
        let found = Hierarchy::detect_in(V2, "0::/user.slice\n", host.path()).unwrap();
        assert_eq!(roots(&found), [host.path().join("sys/fs/cgroup")]);
        // A tree that offers nothing (all controllers belong to v1, or to somebody else) still groups processes.
        assert!(found.describe().ends_with("; without memory, pids, cpu"), "{}", found.describe());
    }

    #[test]
    fn a_hybrid_host_takes_from_v2_what_v1_does_not_have() {
        let host = host(&["sys/fs/cgroup/pids", "sys/fs/cgroup/unified"]);
        let unified = host.path().join("sys/fs/cgroup/unified");
        std::fs::write(unified.join("cgroup.controllers"), "hugetlb cpu memory pids\n").unwrap();
        let without_memory: Vec<&str> = V1.lines().filter(|line| !line.contains("memory")).collect();
        let found = Hierarchy::detect_in(&without_memory.join("\n"), "0::/\n", host.path()).unwrap();
        assert_eq!(roots(&found), [host.path().join("sys/fs/cgroup/pids"), unified.clone()]);
        assert_eq!(found.tree_of("memory").map(|tree| tree.root.clone()), Some(unified));
        assert_eq!(found.tree_of("pids").map(|tree| tree.version), Some(Version::V1));
        assert!(!found.describe().contains("without"), "{}", found.describe());
    }

    #[test]
    fn two_controllers_mounted_together_are_one_tree() {
        let host = host(&["sys/fs/cgroup/both"]);
        let text = "35 31 0:32 / /sys/fs/cgroup/both rw - cgroup cgroup rw,memory,pids\n";
        let found = Hierarchy::detect_in(text, "", host.path()).unwrap();
        assert_eq!(roots(&found), [host.path().join("sys/fs/cgroup/both")]);
        assert!(found.tree_of("memory").is_some() && found.tree_of("pids").is_some());
    }

    #[test]
    fn v2_hands_controllers_down_on_the_way() {
        let host = host(&["sys/fs/cgroup/outlast/store"]);
        let top = host.path().join("sys/fs/cgroup");
        for directory in [top.clone(), top.join("outlast"), top.join("outlast/store")] {
            std::fs::write(directory.join("cgroup.controllers"), "cpu memory pids\n").unwrap();
            std::fs::write(directory.join("cgroup.subtree_control"), "cpu memory\n").unwrap();
        }
        let found = Hierarchy::detect_in(V2, "0::/\n", host.path()).unwrap();
        found.trees()[0].delegate(&["outlast", "store"]).unwrap();
        let control = std::fs::read_to_string(top.join("outlast/store/cgroup.subtree_control")).unwrap();
        assert_eq!(control, "+pids");
    }

    #[test]
    fn without_any_hierarchy_the_reason_is_told() {
        let error = Hierarchy::detect_in("", "", Path::new("/nowhere")).unwrap_err();
        assert!(error.to_string().contains("no control group file system is mounted"), "{error}");
        let error = Hierarchy::detect_in(V1, "", Path::new("/nowhere")).unwrap_err();
        assert!(error.to_string().contains("memory is not writable"), "{error}");
    }

    #[test]
    fn candidates_go_from_the_top_down_to_our_own_group() {
        let top = Path::new("/c");
        let paths = |own| delegation_candidates(top, own);
        assert_eq!(paths("/"), [Path::new("/c")]);
        assert_eq!(paths("/a/b"), [Path::new("/c"), Path::new("/c/a"), Path::new("/c/a/b")]);
        assert_eq!(paths("/../x"), [Path::new("/c")]);
        assert_eq!(own_v2_path("3:cpu:/q\n0::/a\n"), "/a");
    }

    #[test]
    fn blanks_in_mount_points_are_read() {
        let mount = Mount::parse(r"1 2 0:3 / /a\040b\134 rw - cgroup2 none rw").unwrap();
        assert_eq!(mount.point, Path::new(r"/a b\"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,200}") {
            let _ = Mount::parse(&text);
            let _ = unescaped(&text);
            let _ = Hierarchy::detect_in(&text, &text, Path::new("/nowhere"));
        }
    }
}
