//! Processes, zombies and open files, from /proc.
//!
//! A fresh /proc of our PID namespace shows the processes of every namespace nested in it, too.

use super::{Inventory, InventoryError, Item, Kind};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const PROC: &str = "/proc";
/// `PF_KTHREAD` among a process's flags (include/linux/sched.h).
const KERNEL_THREAD: u32 = 0x0020_0000;

/// What /proc/PID/stat says (proc_pid_stat(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) comm: String,
    pub(super) state: char,
    pub(super) flags: u32,
    pub(super) start_time: u64,
}

impl Stat {
    /// Reads the text. The name stands between the first `(` and the *last* `)`: it may hold both.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once('(')?;
        let (comm, rest) = rest.rsplit_once(')')?;
        // The fields behind the name begin with the third; the start time is the twenty-second, the flags the ninth.
        let mut fields = rest.split_whitespace();
        let state = fields.next()?.chars().next()?;
        let flags = fields.nth(5)?.parse().ok()?;
        let start_time = fields.nth(12)?.parse().ok()?;
        Some(Self { comm: comm.to_owned(), state, flags, start_time })
    }

    /// Threads of the kernel come and go, and change their names, at its own pleasure; nobody leaves one behind.
    fn is_of_the_kernel(&self) -> bool {
        self.flags & KERNEL_THREAD != 0
    }

    fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// Lists all processes and returns the pids of those that live.
pub(super) fn list(inventory: &mut Inventory) -> Result<Vec<u32>, InventoryError> {
    let failed = |source| InventoryError::Processes { path: PROC.into(), source };
    let mut living = Vec::new();
    for entry in fs::read_dir(PROC).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        match stat(pid) {
            Ok(stat) if stat.is_of_the_kernel() => {}
            Ok(stat) => {
                let dead = stat.is_dead();
                let Stat { comm, start_time, .. } = stat;
                if dead {
                    inventory.found(Item::Zombie { pid, start_time, comm });
                } else {
                    living.push(pid);
                    inventory.found(Item::Process { pid, start_time, comm });
                }
            }
            Err(error) => inventory.failed(Kind::Process, &format!("process {pid}"), &error),
        }
    }
    Ok(living)
}

fn stat(pid: u32) -> io::Result<Stat> {
    let bytes = fs::read(path(pid, "stat"))?;
    let text = String::from_utf8_lossy(&bytes);
    Stat::parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a process's stat"))
}

/// `/proc/PID/NAME`.
pub(super) fn path(pid: u32, name: &str) -> PathBuf {
    Path::new(PROC).join(pid.to_string()).join(name)
}

/// The inode in a link like `net:[4026531840]`.
pub(super) fn namespace_inode(link: &str, kind: &str) -> Option<u64> {
    link.strip_prefix(kind)?.strip_prefix(":[")?.strip_suffix(']')?.parse().ok()
}

/// The inode of a process's namespace of that kind.
pub(super) fn namespace_of(pid: u32, kind: &str) -> io::Result<u64> {
    let link = fs::read_link(path(pid, &format!("ns/{kind}")))?;
    let inode = namespace_inode(&link.to_string_lossy(), kind);
    inode.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a namespace link"))
}

/// Lists what these processes hold open, by name and count.
pub(super) fn list_open_files(pids: &[u32], inventory: &mut Inventory) {
    for pid in pids.iter().copied() {
        match open_files(pid) {
            Ok((start_time, counts)) => {
                for (target, count) in counts {
                    inventory.found(Item::OpenFile { pid, start_time, target, count });
                }
            }
            Err(error) => inventory.doubt(Kind::OpenFile, format!("process {pid}: {error}")),
        }
    }
}

fn open_files(pid: u32) -> io::Result<(u64, BTreeMap<String, u32>)> {
    let start_time = stat(pid)?.start_time;
    let mut counts = BTreeMap::new();
    for (_, target) in descriptors(pid)? {
        // The listing itself holds a descriptor, on a directory in /proc.
        if target.starts_with("/proc/") && target.ends_with("/fd") {
            continue;
        }
        *counts.entry(without_inode(&target)).or_insert(0) += 1;
    }
    Ok((start_time, counts))
}

/// A process's descriptors: the link in /proc, and what it points at.
pub(super) fn descriptors(pid: u32) -> io::Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path(pid, "fd"))? {
        let link = entry?.path();
        if let Ok(target) = fs::read_link(&link) {
            found.push((link, target.to_string_lossy().into_owned()));
        }
    }
    Ok(found)
}

/// `socket:[123]` and `pipe:[123]` become `socket` and `pipe`: their numbers are not names.
fn without_inode(target: &str) -> String {
    match target.split_once(":[") {
        Some((kind, number)) if !target.starts_with('/') && number.ends_with(']') => kind.to_owned(),
        Some(_) | None => target.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_may_hold_brackets_and_spaces() {
        let text = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 0 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.comm.as_str(), stat.state, stat.start_time), ("a) b (c)", 'S', 4711));
        assert!(!stat.is_of_the_kernel());
    }

    #[test]
    fn a_thread_of_the_kernel_is_known_by_its_flag() {
        let text = "7 (kworker/0:0) I 2 0 0 0 -1 69238880 0 0 0 0 0 5 0 0 20 0 1 0 31 0 0";
        let stat = Stat::parse(text).unwrap();
        assert!(stat.is_of_the_kernel());
        assert_eq!(stat.start_time, 31);
    }

    #[test]
    fn numbers_of_pipes_are_not_names_but_paths_are() {
        assert_eq!(without_inode("pipe:[12]"), "pipe");
        assert_eq!(without_inode("anon_inode:[eventfd]"), "anon_inode");
        assert_eq!(without_inode("/tmp/a:[1]"), "/tmp/a:[1]");
    }

    #[test]
    fn a_namespace_link_is_read_only_for_its_own_kind() {
        assert_eq!(namespace_inode("net:[42]", "net"), Some(42));
        assert_eq!(namespace_inode("mnt:[42]", "net"), None);
        assert_eq!(namespace_inode("net:[x]", "net"), None);
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(text in ".{0,200}") {
            let _ = Stat::parse(&text);
        }
    }
}
