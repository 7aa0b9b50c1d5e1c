//! Which control group hierarchies this host has and which of them we may use.
//!
//! Read from /proc/self/mountinfo and /proc/self/cgroup, which tests hand in as text. Makes nothing but the
//! delegation of controllers downwards, which v2 wants.

use super::{CgroupError, make};
use rustix::fs::Access;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

/// The controllers in use, in the order in which groups are made. Each costs a directory and a move per start
/// on v1, so only what is read or set is in here: `memory` tells a VMM killed for want of memory, and all three
/// take the limits of a VMM.
const CONTROLLERS: &[&str] = &["memory", "pids", "cpu"];

/// The control group hierarchies that are used on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    version: Version,
    roots: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
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
        Self::detect_in(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?, Path::new("/"))
    }

    /// As [`Self::detect`], from the texts of the two files, with every path looked up below `prefix`.
    pub fn detect_in(mountinfo: &str, own: &str, prefix: &Path) -> Result<Self, CgroupError> {
        let mounts: Vec<Mount> = mountinfo.lines().filter_map(Mount::parse).collect();
        let v1: Vec<PathBuf> = CONTROLLERS
            .iter()
            .filter_map(|controller| mounts.iter().find(|mount| mount.has_controller(controller)))
            .map(|mount| below(prefix, &mount.point))
            .collect();
        if !v1.is_empty() {
            return match v1.iter().find(|root| !writable(root)) {
                None => Ok(Self { version: Version::V1, roots: deduplicated(v1) }),
                Some(root) => Err(unavailable(format!("{} is not writable", root.display()))),
            };
        }
        let Some(unified) = mounts.iter().find(|mount| mount.kind == "cgroup2") else {
            return Err(unavailable("no control group file system is mounted".to_owned()));
        };
        let top = below(prefix, &unified.point);
        let candidates = delegation_candidates(&top, own_v2_path(own));
        match candidates.into_iter().find(|candidate| writable(candidate)) {
            Some(root) => Ok(Self { version: Version::V2, roots: vec![root] }),
            None => {
                Err(unavailable(format!("nothing from {} down to our own group is writable", top.display())))
            }
        }
    }

    /// One sentence for people.
    pub fn describe(&self) -> String {
        let roots: Vec<String> = self.roots.iter().map(|root| root.display().to_string()).collect();
        match self.version {
            Version::V1 => format!("cgroup v1: {}", roots.join(", ")),
            Version::V2 => format!("cgroup v2: {}", roots.join(", ")),
        }
    }

    /// The directories in which `outlast` stands.
    pub(super) fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    /// Makes the directories `path` below `root`, each handing the controllers down to the next on v2.
    ///
    /// A controller that cannot be handed down (the group above keeps it, or holds processes itself) is not
    /// there below: what needs it fails then and says so.
    pub(super) fn delegate(&self, root: &Path, path: &[&str]) -> Result<(), CgroupError> {
        let mut directory = root.to_owned();
        for name in path {
            if self.version == Version::V2 {
                hand_down(&directory);
            }
            directory.push(name);
            make(&directory)?;
        }
        if self.version == Version::V2 {
            hand_down(&directory);
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn v1_at(roots: Vec<PathBuf>) -> Self {
        Self { version: Version::V1, roots }
    }
}

fn unavailable(reason: String) -> CgroupError {
    CgroupError::Unavailable { reason }
}

fn writable(path: &Path) -> bool {
    rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

/// Two controllers may be mounted together.
fn deduplicated(mut roots: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut seen = Vec::new();
    roots.retain(|root| {
        let new = !seen.contains(root);
        seen.push(root.clone());
        new
    });
    roots
}

fn below(prefix: &Path, absolute: &Path) -> PathBuf {
    prefix.join(absolute.strip_prefix("/").unwrap_or(absolute))
}

/// Our own path in the v2 hierarchy: the line `0::/PATH`.
fn own_v2_path(own: &str) -> &str {
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

/// Enables for the children of `directory` whatever of our controllers it has and has not handed down yet.
fn hand_down(directory: &Path) {
    let read = |file: &str| std::fs::read_to_string(directory.join(file)).unwrap_or_default();
    let (here, below) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    let has = |list: &str, controller: &str| list.split_whitespace().any(|word| word == controller);
    for controller in CONTROLLERS {
        if has(&here, controller) && !has(&below, controller) {
            // See `delegate` for what a refusal means.
            let _ = std::fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
}

/// One line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
struct Mount {
    point: PathBuf,
    kind: String,
    super_options: String,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
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
        assert_eq!(found.roots(), expected);
        assert!(found.describe().starts_with("cgroup v1: "));
    }

    #[test]
    fn v2_is_used_at_its_top_when_that_is_writable() {
        let host = host(&["sys/fs/cgroup"]);
        let found = Hierarchy::detect_in(V2, "0::/user.slice\n", host.path()).unwrap();
        assert_eq!(found.roots(), [host.path().join("sys/fs/cgroup")]);
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
        found.delegate(&top, &["outlast", "store"]).unwrap();
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
