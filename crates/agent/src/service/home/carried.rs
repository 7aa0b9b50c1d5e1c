//! What is mounted in the guest's root and comes along into another: everything directly below it, with whatever is
//! mounted in there in turn.
//!
//! The other root has been written to by whoever lived in it; links on the way stay inside it. What the mounts are is
//! not asked.

use super::SettleError;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::mount_bind_recursive;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The mount points to carry along, the shortest paths first.
#[derive(Debug)]
pub(super) struct Carried(Vec<PathBuf>);

impl Carried {
    /// What is mounted now.
    pub(super) fn list() -> std::io::Result<Self> {
        // Bytes: a mount point may have any name.
        let mut points = below_root(&std::fs::read("/proc/self/mountinfo")?);
        // A file that is shown in the place of another says who the machine is, and will be said anew.
        points.retain(|point| !point.is_file());
        Ok(Self(points))
    }

    /// Shows all of it in the directory `root` too.
    pub(super) fn show_in(&self, root: &Path) -> Result<(), SettleError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| SettleError::Carry(path, source)
        };
        let top = rustix::fs::openat(CWD, root, flags, Mode::empty()).map_err(failed(root))?;
        for path in &self.0 {
            let target = reach(&top, path).map_err(failed(path))?;
            // The descriptor, and not a path that could lead elsewhere.
            let target = format!("/proc/self/fd/{}", target.as_raw_fd());
            mount_bind_recursive(path, target).map_err(failed(path))?;
        }
        Ok(())
    }
}

/// The directory that is called `path` by those whose root is `top`, made where it is missing.
fn reach(top: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let enter = |path: &Path| openat2(top, path, flags, Mode::empty(), ResolveFlags::IN_ROOT);
    let mut so_far = PathBuf::from("/");
    let mut here = enter(&so_far)?;
    for name in path.components().skip(1) {
        so_far.push(name);
        here = match enter(&so_far) {
            Err(Errno::NOENT) => {
                rustix::fs::mkdirat(&here, name.as_os_str(), Mode::from_raw_mode(0o755))?;
                enter(&so_far)?
            }
            entered => entered?,
        };
    }
    Ok(here)
}

/// The mount points whose parent is the root mount, out of mountinfo (proc_pid_mountinfo(5)). Lines that make no sense
/// are passed over: the kernel writes none.
fn below_root(mountinfo: &[u8]) -> Vec<PathBuf> {
    let lines: Vec<[&[u8]; 3]> = mountinfo.split(|&byte| byte == b'\n').filter_map(fields).collect();
    // Of several roots, one above the other, the last is the one that is seen.
    let Some([root, ..]) = lines.iter().rfind(|[_, _, point]| *point == b"/") else { return Vec::new() };
    let below = lines.iter().filter(|[_, parent, point]| parent == root && *point != b"/");
    let mut points: Vec<PathBuf> = below.map(|[_, _, point]| unescaped(point)).collect();
    points.sort();
    points.dedup();
    points
}

/// Id, id of the parent, mount point.
fn fields(line: &[u8]) -> Option<[&[u8]; 3]> {
    let mut fields = line.split(|&byte| byte == b' ');
    Some([fields.next()?, fields.next()?, fields.nth(2)?])
}

/// Space, tab, line feed and backslash are written as three octal digits.
fn unescaped(point: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(point.len());
    let mut rest = point;
    while let Some((&first, after)) = rest.split_first() {
        if let (b'\\', Some(byte)) = (first, octal(after)) {
            path.push(byte);
            rest = after.get(3..).unwrap_or_default();
        } else {
            path.push(first);
            rest = after;
        }
    }
    PathBuf::from(OsString::from_vec(path))
}

fn octal(text: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(text.get(..3)?).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const GUEST: &[u8] = b"\
21 1 0:18 / / rw,nodev - overlay overlay rw,lowerdir=/lower\n\
16 21 0:4 / /proc rw,nosuid - proc proc rw\n\
17 21 0:15 / /sys rw,nosuid - sysfs sysfs rw\n\
26 17 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n\
24 21 0:20 / /tmp rw - tmpfs tmpfs rw\n\
27 21 0:23 / /outlast/work rw - tmpfs tmpfs rw\n\
28 24 0:24 / /tmp/deeper rw - tmpfs tmpfs rw\n\
29 21 0:25 / /a\\040b\\134 rw - tmpfs tmpfs rw\n\
30 21 0:26 / /tmp rw - tmpfs tmpfs rw\n";

    #[test]
    fn what_is_directly_below_the_root_comes_along_and_brings_its_own() {
        let expected: Vec<PathBuf> =
            ["/a b\\", "/outlast/work", "/proc", "/sys", "/tmp"].map(PathBuf::from).to_vec();
        assert_eq!(below_root(GUEST), expected);
        assert_eq!(below_root(b"nonsense\n\n1 2\n"), Vec::<PathBuf>::new());
    }

    #[test]
    fn this_host_has_a_proc_to_carry() {
        let Carried(points) = Carried::list().unwrap();
        assert!(points.contains(&PathBuf::from("/proc")), "{points:?}");
    }

    #[test]
    fn missing_directories_are_made_and_links_stay_inside_the_root() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("var")).unwrap();
        symlink("/var", root.path().join("outlast")).unwrap();
        symlink("../../../../gone", root.path().join("tmp")).unwrap();
        let top = rustix::fs::open(root.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        reach(&top, Path::new("/outlast/work")).unwrap();
        assert!(root.path().join("var/work").is_dir());
        assert_eq!(reach(&top, Path::new("/tmp")).map(drop), Err(Errno::EXIST), "a link that leads nowhere");
        std::fs::write(root.path().join("run"), "a file").unwrap();
        assert_eq!(reach(&top, Path::new("/run")).map(drop), Err(Errno::NOTDIR));
    }
}
