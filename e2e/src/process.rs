//! Processes as a test sees them from outside: found in /proc, held as a pidfd, signalled only through it.

use crate::deadline;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// A process, held so that its pid cannot come to mean another one.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    comm: String,
    descriptor: OwnedFd,
}

/// One entry of /proc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its pid in our namespace.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// Its name, at most fifteen characters.
    pub comm: String,
    /// Its pid in every namespace from ours inwards.
    pub nested_pids: Vec<u32>,
    /// Whether it is a zombie.
    pub is_zombie: bool,
}

impl Process {
    /// Takes hold of the process that this is about, if it still exists.
    pub fn hold(entry: &Entry) -> Option<Self> {
        let pid = Pid::from_raw(i32::try_from(entry.pid).ok()?)?;
        let descriptor = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Order matters: only a name read after the descriptor was opened belongs to the same process.
        let now = read(entry.pid)?;
        (now == *entry).then(|| Self { pid: entry.pid, comm: entry.comm.clone(), descriptor })
    }

    /// Its pid in our namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends it a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        if let Err(error) = pidfd_send_signal(&self.descriptor, signal) {
            panic!("send {signal:?} to {} ({}): {error}", self.pid, self.comm);
        }
    }

    /// Kills it, if it still lives. Tells whether it did: a zombie takes a signal, too, and is none the worse.
    pub fn try_kill(&self) -> bool {
        !self.is_dead() && pidfd_send_signal(&self.descriptor, Signal::KILL).is_ok()
    }

    /// Kills it, and waits until it is dead.
    #[track_caller]
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        let dead = || self.is_dead().then_some(());
        deadline::until(&format!("{} is dead", self.comm), Duration::from_secs(2), dead);
    }

    /// Whether nothing of it is left: its parent has looked at how it ended.
    pub fn is_gone(&self) -> bool {
        read(self.pid).is_none_or(|now| now.comm != self.comm)
    }

    /// Whether it is dead: gone, or a zombie. A pidfd becomes readable when its process ends.
    pub fn is_dead(&self) -> bool {
        let mut wanted = [PollFd::new(&self.descriptor, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut wanted, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// A line of /proc/PID/status, without its name: `VmRSS` is `  1234 kB`.
    pub fn status(&self, field: &str) -> Option<String> {
        status_field(&status(self.pid)?, field)
    }
}

/// All processes in our PID namespace and in those nested in it.
pub fn all() -> Vec<Entry> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pid = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    entries.filter_map(pid).filter_map(read).collect()
}

/// The living processes of that name. The kernel keeps fifteen characters of it.
pub fn named(comm: &str) -> Vec<Entry> {
    let short: String = comm.chars().take(15).collect();
    all().into_iter().filter(|entry| entry.comm == short && !entry.is_zombie).collect()
}

/// The runners: processes of that program that are PID 1 of a namespace nested in ours.
pub fn runners() -> Vec<Entry> {
    let mut runners = named("outlast-runner");
    runners.retain(|entry| entry.nested_pids.len() > 1 && entry.nested_pids.last() == Some(&1));
    runners
}

/// The launchers: processes of the same program in our own namespace.
pub fn launchers() -> Vec<Entry> {
    let mut launchers = named("outlast-runner");
    launchers.retain(|entry| entry.nested_pids.len() == 1);
    launchers
}

/// The VMMs that descend from that process.
pub fn vmms_of(runner: u32) -> Vec<Entry> {
    let all = all();
    let descends = |entry: &Entry| {
        let mut parent = entry.parent;
        for _ in 0..all.len() {
            if parent == runner {
                return true;
            }
            match all.iter().find(|other| other.pid == parent) {
                Some(next) => parent = next.parent,
                None => return false,
            }
        }
        false
    };
    let is_vmm = |entry: &&Entry| entry.comm.starts_with("qemu") && !entry.is_zombie;
    all.iter().filter(is_vmm).filter(|entry| descends(entry)).cloned().collect()
}

fn read(pid: u32) -> Option<Entry> {
    let text = status(pid)?;
    let field = |name: &str| status_field(&text, name);
    let nested = field("NSpid")?;
    Some(Entry {
        pid,
        parent: field("PPid")?.trim().parse().ok()?,
        comm: field("Name")?.trim().to_owned(),
        nested_pids: nested.split_whitespace().filter_map(|pid| pid.parse().ok()).collect(),
        is_zombie: field("State")?.trim().starts_with(['Z', 'X']),
    })
}

fn status(pid: u32) -> Option<String> {
    let path = PathBuf::from("/proc").join(pid.to_string()).join("status");
    fs::read(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn status_field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.map(str::to_owned)
}
