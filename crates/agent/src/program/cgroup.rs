//! The cgroup (version 2) of a program: its limits, whether anything in it still lives, whether the kernel
//! killed in it for want of memory, and killing all of it at once.
//!
//! The tree in the guest is `/sys/fs/cgroup` (the agent itself, unlimited) → `outlast` (controllers on, no
//! processes) → one directory per program. Who is put into it is decided by `spawn`.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::cell::{Cell, RefCell};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::io::Interest;

/// Where the kernel's tree is mounted.
pub(crate) const TREE: &str = "/sys/fs/cgroup";
/// The parent of every program's cgroup.
const PARENT: &str = "/sys/fs/cgroup/outlast";

/// The longest list of processes that is read, in bytes: a cgroup has at most as many as `pids.max` allows.
const MEMBERS: u64 = 1 << 20;

/// A file of a cgroup could not be used as wanted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum CgroupError {
    /// mkdir.
    #[error("make {0}")]
    Make(PathBuf, #[source] Errno),
    /// Opening, reading or writing one of its files.
    #[error("{0} of a cgroup")]
    File(&'static str, #[source] Errno),
    /// A file that does not say what cgroup-v2.rst promises.
    #[error("{0} of a cgroup is unreadable")]
    Format(&'static str),
}

impl CgroupError {
    /// The error number behind it.
    pub(super) fn errno(&self) -> i32 {
        match self {
            Self::Make(_, source) | Self::File(_, source) => source.raw_os_error(),
            Self::Format(_) => 0,
        }
    }
}

/// What a program may use.
pub(crate) struct Limits {
    /// `memory.max`, in bytes.
    pub(crate) memory_max: u64,
    /// `pids.max`.
    pub(crate) pids_max: u32,
}

/// A directory of the tree.
struct Directory {
    path: PathBuf,
    fd: OwnedFd,
}

impl Directory {
    fn open(path: PathBuf) -> Result<Self, CgroupError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(|source| CgroupError::File("directory", source))?;
        Ok(Self { path, fd })
    }

    fn file(&self, name: &'static str, flags: OFlags) -> Result<Knob, CgroupError> {
        rustix::fs::openat(&self.fd, name, flags | OFlags::CLOEXEC, Mode::empty())
            .map(|fd| Knob { name, fd })
            .map_err(|source| CgroupError::File(name, source))
    }

    fn write(&self, name: &'static str, text: &str) -> Result<(), CgroupError> {
        self.file(name, OFlags::WRONLY)?.write(text)
    }
}

/// An open file of a cgroup.
struct Knob {
    name: &'static str,
    fd: OwnedFd,
}

impl Knob {
    fn write(&self, text: &str) -> Result<(), CgroupError> {
        let written = rustix::io::pwrite(&self.fd, text.as_bytes(), 0);
        written.map(drop).map_err(|source| CgroupError::File(self.name, source))
    }

    fn read(&self) -> Result<String, CgroupError> {
        read(&self.fd, self.name)
    }
}

/// A program's cgroup. Its files are opened when it is made, which is ahead of its need.
pub(crate) struct Cgroup {
    directory: Directory,
    memory_max: Knob,
    pids_max: Knob,
    kill: Knob,
    events: Knob,
    memory_events: Knob,
}

impl Cgroup {
    /// Makes it below `parent`, with what is the same for all; nothing is left of it when that fails.
    fn make(parent: &Path, name: &str) -> Result<Self, CgroupError> {
        let path = parent.join(name);
        rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755))
            .map_err(|source| CgroupError::Make(path.clone(), source))?;
        let made = Self::open(path.clone());
        if made.is_err() {
            // It is empty: nothing was started in it. The first error is the one worth telling.
            let _ = rustix::fs::rmdir(&path);
        }
        made
    }

    fn open(path: PathBuf) -> Result<Self, CgroupError> {
        let directory = Directory::open(path)?;
        directory.write("memory.oom.group", "1")?;
        match directory.write("memory.swap.max", "0") {
            // Kernels without swap do not have the file, and nothing to limit either.
            Ok(()) | Err(CgroupError::File(_, Errno::NOENT)) => {}
            Err(error) => return Err(error),
        }
        Ok(Self {
            memory_max: directory.file("memory.max", OFlags::WRONLY)?,
            pids_max: directory.file("pids.max", OFlags::WRONLY)?,
            kill: directory.file("cgroup.kill", OFlags::WRONLY)?,
            events: directory.file("cgroup.events", OFlags::RDONLY)?,
            memory_events: directory.file("memory.events", OFlags::RDONLY)?,
            directory,
        })
    }

    fn limit(&self, limits: &Limits) -> Result<(), CgroupError> {
        self.memory_max.write(&limits.memory_max.to_string())?;
        self.pids_max.write(&limits.pids_max.to_string())
    }

    fn kill(&self) -> Result<(), CgroupError> {
        match self.kill.write("1") {
            // Removed already, so nothing lives in it.
            Err(CgroupError::File(_, Errno::NODEV)) => Ok(()),
            result => result,
        }
    }

    /// Sends TERM to every process in it. One that comes into being meanwhile may not hear it, and is killed later.
    fn ask_to_end(&self) -> Result<(), CgroupError> {
        for pid in self.members()? {
            // Held first and looked up again then: a number that was given to somebody else in between is not in the list
            // any more, and one that was given away afterwards does not matter to who is held.
            let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            if self.members()?.contains(&pid) {
                // One that has ended needs no signal.
                let _ = pidfd_send_signal(&pidfd, Signal::TERM);
            }
        }
        Ok(())
    }

    fn members(&self) -> Result<Vec<Pid>, CgroupError> {
        let file = self.directory.file("cgroup.procs", OFlags::RDONLY)?;
        let mut text = String::new();
        let read = std::fs::File::from(file.fd).take(MEMBERS).read_to_string(&mut text);
        read.map_err(|error| {
            CgroupError::File(file.name, Errno::from_io_error(&error).unwrap_or(Errno::IO))
        })?;
        Ok(members_in(&text))
    }

    fn populated(&self) -> Result<bool, CgroupError> {
        populated_in(&self.events.read()?)
    }

    /// Whether the kernel's OOM killer has killed anything in it.
    fn out_of_memory(&self) -> Result<bool, CgroupError> {
        out_of_memory_in(&self.memory_events.read()?)
    }

    /// Waits until no process in it lives. The kernel wakes readers of cgroup.events (as a priority event)
    /// when that changes, at most once in ten milliseconds; the state itself is always current.
    async fn empty(&self) -> Result<(), CgroupError> {
        let name = self.events.name;
        let lift = |error: std::io::Error| {
            CgroupError::File(name, Errno::from_io_error(&error).unwrap_or(Errno::IO))
        };
        let copy =
            fcntl_dupfd_cloexec(&self.events.fd, 0).map_err(|source| CgroupError::File(name, source))?;
        let watch = crate::sys::watch::watch(copy, Interest::PRIORITY).map_err(lift)?;
        while self.populated()? {
            watch.ready(Interest::PRIORITY).await.map_err(lift)?.clear_ready();
        }
        Ok(())
    }
}

/// The first 4 KiB of a file of a cgroup, from its beginning. The ones read here are far shorter.
fn read(fd: impl AsFd, file: &'static str) -> Result<String, CgroupError> {
    let mut buffer = [0; 4096];
    let length = rustix::io::pread(fd, &mut buffer, 0).map_err(|source| CgroupError::File(file, source))?;
    let text = buffer.get(..length).and_then(|bytes| std::str::from_utf8(bytes).ok());
    text.map(str::to_owned).ok_or(CgroupError::Format(file))
}

/// The value of `key` in a flat keyed file (cgroup-v2.rst, "Format").
fn value_of(text: &str, key: &str) -> Option<u64> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.find(|(name, _)| *name == key)?.1.trim().parse().ok()
}

/// The processes in a list of them. Whoever is not of our PID namespace is listed as 0.
fn members_in(text: &str) -> Vec<Pid> {
    text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect()
}

fn populated_in(events: &str) -> Result<bool, CgroupError> {
    value_of(events, "populated").map(|value| value != 0).ok_or(CgroupError::Format("cgroup.events"))
}

fn out_of_memory_in(events: &str) -> Result<bool, CgroupError> {
    let killed = value_of(events, "oom_kill").ok_or(CgroupError::Format("memory.events"))?;
    // Linux 5.17 and later count killed groups apart; each of those also counted at least one oom_kill.
    Ok(killed > 0 || value_of(events, "oom_group_kill").unwrap_or(0) > 0)
}

/// What keeps the processes of one program together.
pub(crate) enum Group {
    /// Its cgroup.
    Cgroup(Cgroup),
    /// The process group of its leader, for tests on hosts: no limits, and whoever leaves it is lost.
    #[cfg(test)]
    ProcessGroup(Cell<Option<Pid>>),
}

/// Makes groups, and keeps one ready: making a cgroup takes about a quarter of the time a short program takes.
pub(crate) struct Groups {
    kind: Kind,
    /// Groups made since boot. A number is never used twice, because the remains of a program that could not
    /// be cleared away may still be there.
    made: Cell<u64>,
    spare: RefCell<Option<Cgroup>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Cgroups,
    #[cfg(test)]
    ProcessGroups,
}

impl Groups {
    /// Cgroups, in the guest.
    pub(crate) fn new() -> Self {
        Self { kind: Kind::Cgroups, made: Cell::new(0), spare: RefCell::default() }
    }

    /// Process groups, for tests on hosts.
    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Self { kind: Kind::ProcessGroups, ..Self::new() }
    }

    /// Makes a group with these limits.
    pub(super) fn make(&self, limits: &Limits) -> Result<Group, CgroupError> {
        match self.kind {
            Kind::Cgroups => self.cgroup(limits).map(Group::Cgroup),
            #[cfg(test)]
            Kind::ProcessGroups => Ok(Group::ProcessGroup(Cell::new(None))),
        }
    }

    /// Lets all programs stand still, or go on.
    ///
    /// # Errors
    /// [`CgroupError`], with ETIMEDOUT when one did not stand still in time: then all go on.
    pub(super) fn freeze(&self, frozen: bool) -> Result<(), CgroupError> {
        match self.kind {
            Kind::Cgroups => freeze_all_programs(frozen),
            #[cfg(test)]
            Kind::ProcessGroups => Ok(()),
        }
    }

    /// Makes the next group's cgroup ahead of its need. A failure shows when that one is made.
    pub(crate) fn prepare_one(&self) {
        if self.kind == Kind::Cgroups && self.spare.borrow().is_none() {
            *self.spare.borrow_mut() = self.fresh().ok();
        }
    }

    fn cgroup(&self, limits: &Limits) -> Result<Cgroup, CgroupError> {
        let spare = self.spare.borrow_mut().take();
        let cgroup = spare.map_or_else(|| self.fresh(), Ok)?;
        let limited = cgroup.limit(limits);
        if limited.is_err() {
            let _ = rustix::fs::rmdir(&cgroup.directory.path);
        }
        limited.map(|()| cgroup)
    }

    fn fresh(&self) -> Result<Cgroup, CgroupError> {
        self.made.set(self.made.get() + 1);
        Cgroup::make(Path::new(PARENT), &self.made.get().to_string())
    }
}

impl Group {
    /// The directory a process is cloned into.
    #[cfg_attr(not(test), expect(clippy::unnecessary_wraps, reason = "in tests there is none"))]
    pub(super) fn directory(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Cgroup(cgroup) => Some(cgroup.directory.fd.as_fd()),
            #[cfg(test)]
            Self::ProcessGroup(_) => None,
        }
    }

    /// The program has begun with this process.
    pub(super) fn has_leader(&self, leader: Pid) {
        match self {
            Self::Cgroup(_) => {
                let _ = leader;
            }
            #[cfg(test)]
            Self::ProcessGroup(cell) => cell.set(Some(leader)),
        }
    }

    /// Kills everything in it with SIGKILL, at once and without a gap through which a fork could escape.
    pub(super) fn kill(&self) -> Result<(), CgroupError> {
        match self {
            Self::Cgroup(cgroup) => cgroup.kill(),
            #[cfg(test)]
            Self::ProcessGroup(leader) => signal_process_group(leader.get(), Signal::KILL),
        }
    }

    /// Sends SIGTERM to everything in it.
    pub(super) fn ask_to_end(&self) -> Result<(), CgroupError> {
        match self {
            Self::Cgroup(cgroup) => cgroup.ask_to_end(),
            #[cfg(test)]
            Self::ProcessGroup(leader) => signal_process_group(leader.get(), Signal::TERM),
        }
    }

    /// Kills whatever still lives in it and waits until nothing does, but no longer than `limit`.
    /// Returns whether it is empty now.
    pub(super) async fn clear(&self, limit: Duration) -> Result<bool, CgroupError> {
        match self {
            Self::Cgroup(cgroup) => {
                if !cgroup.populated()? {
                    return Ok(true);
                }
                cgroup.kill()?;
                tokio::time::timeout(limit, cgroup.empty()).await.map_or(Ok(false), |end| end.map(|()| true))
            }
            #[cfg(test)]
            Self::ProcessGroup(_) => self.kill().map(|()| true),
        }
    }

    /// Whether the kernel killed anything in it for want of memory.
    pub(super) fn out_of_memory(&self) -> Result<bool, CgroupError> {
        match self {
            Self::Cgroup(cgroup) => cgroup.out_of_memory(),
            #[cfg(test)]
            Self::ProcessGroup(_) => Ok(false),
        }
    }

    /// Removes it. One that cannot be removed (something in it cannot die) stays, and the console says so.
    pub(super) fn remove(&self) {
        match self {
            Self::Cgroup(cgroup) => {
                if let Err(errno) = rustix::fs::rmdir(&cgroup.directory.path) {
                    crate::console::say(&format!("remove {}: {errno}", cgroup.directory.path.display()));
                }
            }
            #[cfg(test)]
            Self::ProcessGroup(_) => {}
        }
    }
}

/// A child is in the group of its parent until it has made one of its own: one that has not come so far is signalled
/// itself. Only as long as it is our child, for then the number is still its own.
#[cfg(test)]
fn signal_process_group(leader: Option<Pid>, signal: Signal) -> Result<(), CgroupError> {
    use rustix::process::{WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};
    let Some(leader) = leader else { return Ok(()) };
    let is_ours =
        || waitid(WaitId::Pid(leader), WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT);
    let signalled = match kill_process_group(leader, signal) {
        Err(Errno::SRCH) if is_ours().is_ok() => kill_process(leader, signal),
        result => result,
    };
    match signalled {
        Err(Errno::SRCH) => Ok(()),
        result => result.map_err(|source| CgroupError::File("process group", source)),
    }
}

/// Turns the controllers on and makes the parent of all programs' cgroups. Once, at boot, with [`TREE`] mounted.
/// The cpu controller weighs all programs together like one process of the agent's rank; it is welcome, the
/// other two are needed.
///
/// # Errors
/// [`CgroupError`] when memory or pids cannot be limited: no program may be started then.
pub(crate) fn prepare_cgroups() -> Result<(), CgroupError> {
    let root = Directory::open(PathBuf::from(TREE))?;
    // A kernel without the controller answers EINVAL; programs then compete with the agent one by one.
    let _ = root.write("cgroup.subtree_control", "+cpu");
    root.write("cgroup.subtree_control", "+memory +pids")?;
    match rustix::fs::mkdirat(&root.fd, "outlast", Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(source) => return Err(CgroupError::Make(PathBuf::from(PARENT), source)),
    }
    Directory::open(PathBuf::from(PARENT))?.write("cgroup.subtree_control", "+memory +pids")
}

/// How long programs may take to stand still: only those in an uninterruptible sleep take longer.
const FREEZE_LIMIT: Duration = Duration::from_secs(2);

/// Lets every program of the guest stand still, or go on; waits until they do stand still.
fn freeze_all_programs(frozen: bool) -> Result<(), CgroupError> {
    let all = Directory::open(PathBuf::from(PARENT))?;
    let events = all.file("cgroup.events", OFlags::RDONLY)?;
    all.write("cgroup.freeze", if frozen { "1" } else { "0" })?;
    if !frozen {
        return Ok(());
    }
    let stands_still = wait_frozen(&events);
    if stands_still.is_err() {
        all.write("cgroup.freeze", "0")?;
    }
    stands_still
}

/// The kernel wakes who polls the file for priority events when it changes.
fn wait_frozen(events: &Knob) -> Result<(), CgroupError> {
    let until = Instant::now() + FREEZE_LIMIT;
    let failed = |source| CgroupError::File(events.name, source);
    while !frozen_in(&events.read()?)? {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| failed(Errno::INVAL))?;
        if left.tv_sec == 0 && left.tv_nsec == 0 {
            return Err(failed(Errno::TIMEDOUT));
        }
        match poll(&mut [PollFd::new(&events.fd, PollFlags::PRI)], Some(&left)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(source) => return Err(failed(source)),
        }
    }
    Ok(())
}

fn frozen_in(events: &str) -> Result<bool, CgroupError> {
    value_of(events, "frozen").map(|value| value != 0).ok_or(CgroupError::Format("cgroup.events"))
}

/// Kills every program of the guest, of whatever connection.
pub(crate) fn kill_all_programs() -> Result<(), CgroupError> {
    Directory::open(PathBuf::from(PARENT))?.write("cgroup.kill", "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn populated_is_read_from_the_events_of_the_kernel() {
        assert!(populated_in("populated 1\nfrozen 0\n").unwrap());
        assert!(!populated_in("populated 0\nfrozen 0\n").unwrap());
        assert!(matches!(populated_in("frozen 0\n"), Err(CgroupError::Format("cgroup.events"))));
        assert!(matches!(populated_in("populated maybe\n"), Err(CgroupError::Format(_))));
    }

    #[test]
    fn frozen_is_read_from_the_events_of_the_kernel() {
        assert!(frozen_in("populated 1\nfrozen 1\n").unwrap());
        assert!(!frozen_in("populated 1\nfrozen 0\n").unwrap());
        assert!(matches!(frozen_in("populated 1\n"), Err(CgroupError::Format("cgroup.events"))));
    }

    #[test]
    fn members_are_those_of_our_namespace() {
        let pids: Vec<i32> =
            members_in("7\n0\nx\n123\n").iter().map(|pid| pid.as_raw_nonzero().get()).collect();
        assert_eq!(pids, [7, 123]);
    }

    #[test]
    fn only_kills_count_as_out_of_memory() {
        let pressed = "low 0\nhigh 0\nmax 4711\noom 3\noom_kill 0\noom_group_kill 0\n";
        assert!(!out_of_memory_in(pressed).unwrap(), "reclaim at the limit is not a kill");
        assert!(out_of_memory_in("max 1\noom 1\noom_kill 2\n").unwrap());
        assert!(out_of_memory_in("oom_kill 0\noom_group_kill 1\n").unwrap());
        assert!(out_of_memory_in("oom 1\n").is_err());
    }
}
