//! Mounts of every mount namespace that a visible process lives in, from /proc/PID/mountinfo.

use super::{Inventory, Item, Kind, process};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;

/// One mount, and a process that can see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// The inode of its mount namespace.
    pub(super) namespace: u64,
    /// A process in that namespace.
    pub(super) seen_by: u32,
    pub(super) line: MountLine,
}

/// A line of mountinfo (proc_pid_mountinfo(5)).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MountLine {
    pub(super) device: String,
    pub(super) root: String,
    pub(super) point: String,
    pub(super) fstype: String,
    pub(super) source: String,
}

impl MountLine {
    /// Reads a line; a lone `-` ends the optional fields.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(2);
        let (device, root, point) = (before.next()?, before.next()?, before.next()?);
        let mut after = after.split(' ');
        let (fstype, source) = (after.next()?, after.next()?);
        Some(Self {
            device: device.to_owned(),
            root: unescape(root),
            point: unescape(point),
            fstype: fstype.to_owned(),
            source: unescape(source),
        })
    }
}

impl Mount {
    /// The mount point as our own file system calls it.
    pub(super) fn reachable_point(&self) -> PathBuf {
        process::path(self.seen_by, "root").join(self.line.point.trim_start_matches('/'))
    }
}

/// Space, tab, line end and backslash are written as three octal digits.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((head, tail)) = rest.split_once('\\') {
        out.push_str(head);
        let digits = tail.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        out.push(digits.map_or('\\', char::from));
        rest = if digits.is_some() { &tail[3..] } else { tail };
    }
    out.push_str(rest);
    out
}

/// Lists the mounts of all namespaces these processes live in.
pub(super) fn list(pids: &[u32], inventory: &mut Inventory) -> Vec<Mount> {
    let mut seen = BTreeSet::new();
    let mut mounts = Vec::new();
    for pid in pids.iter().copied() {
        match of_process(pid, &seen) {
            Ok(Some((namespace, lines))) => {
                seen.insert(namespace);
                mounts.extend(lines.into_iter().map(|line| Mount { namespace, seen_by: pid, line }));
            }
            Ok(None) => {}
            Err(error) => inventory.failed(Kind::Mount, &format!("mounts of process {pid}"), &error),
        }
    }
    // The device number is no part of the name: it is drawn anew with every mount of a tmpfs.
    let mut layers: BTreeMap<Item, u32> = BTreeMap::new();
    for mount in &mounts {
        let layer = layers.entry(item(mount, 0)).or_insert(0);
        *layer += 1;
        inventory.found(item(mount, *layer));
    }
    mounts
}

fn item(mount: &Mount, layer: u32) -> Item {
    let MountLine { root, point, fstype, source, .. } = mount.line.clone();
    Item::Mount { namespace: mount.namespace, point, root, fstype, source, layer }
}

fn of_process(pid: u32, seen: &BTreeSet<u64>) -> io::Result<Option<(u64, Vec<MountLine>)>> {
    let namespace = process::namespace_of(pid, "mnt")?;
    if seen.contains(&namespace) {
        return Ok(None);
    }
    let text = match fs::read(process::path(pid, "mountinfo")) {
        // A process that is exiting has no mount namespace any more.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
            return Ok(None);
        }
        text => text?,
    };
    let lines: Option<Vec<_>> = String::from_utf8_lossy(&text).lines().map(MountLine::parse).collect();
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "a line of mountinfo cannot be read");
    Ok(Some((namespace, lines.ok_or_else(bad)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn optional_fields_and_escapes_are_understood() {
        let line =
            r"36 35 98:0 /mnt1 /mnt\0402 rw,noatime shared:1 master:2 - ext3 /dev/ro\134ot rw,errors=c";
        let mount = MountLine::parse(line).unwrap();
        assert_eq!((mount.point.as_str(), mount.source.as_str()), ("/mnt 2", "/dev/ro\\ot"));
        let bare = MountLine::parse("36 35 0:4 net:[40265] /run/ns rw - nsfs nsfs rw").unwrap();
        assert_eq!((bare.root.as_str(), bare.fstype.as_str()), ("net:[40265]", "nsfs"));
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(text in ".{0,200}") {
            let _ = MountLine::parse(&text);
            let _ = unescape(&text);
        }
    }
}
