//! Control groups: where runners live and where VMMs are counted, on cgroup v1 and v2 alike.
//!
//! ```text
//!   ROOT/outlast/runners              every runner; static, never removed
//!   ROOT/outlast/STORE/INCARNATION    the VMM of one incarnation (and later its helpers); limits sit here
//! ```
//!
//! Where systemd keeps the groups an incarnation lives in a scope of systemd's instead (`scope`), if that answers.
//!
//! There is one `ROOT` per controller in use on v1, and one on v2. A runner is in no group of its own: it would
//! have to leave it to remove it, and moving a process costs an RCU grace period (5–20 ms measured on an idle
//! host). For the same reason moves are made beside the path that somebody waits on: the launcher adopts a
//! runner that is already working, and a VMM is added while it starts, before any of its vCPUs runs.
//!
//! Limits stand before a VMM is put in. What dies of an incarnation dies with its PID namespace; what is in the
//! group all the same when that is removed is killed there, by `cgroup.kill` or one by one.
//!
//! Not responsible for what the limits are.

mod events;
mod find;
mod kill;
mod limits;
mod scope;
mod usage;

pub use events::CgroupEvents;
pub use find::Hierarchy;
pub use limits::{Limited, Limits};
pub use scope::Scopes;
pub use usage::CgroupUsage;

use find::{CONTROLLERS, Tree, Version};
use outlast_model::{IncarnationId, StoreId};
use rustix::io::Errno;
use rustix::process::Pid;
use scope::Scope;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use thiserror::Error;

/// The directory of everything that is ours.
const OURS: &str = "outlast";
/// The directory of all runners.
const RUNNERS: &str = "runners";
/// While a process of a group exits, its directory is busy; no event says when that is over on v1.
const BUSY_POLL: Duration = Duration::from_millis(1);
/// Another process may remove a store's empty directory just as we make one in it; then we begin again.
const ATTEMPTS: u32 = 16;

/// Something about control groups did not work.
#[derive(Debug, Error)]
pub enum CgroupError {
    /// There is none we could use, and why: the words for `doctor`.
    #[error("no control group can be used: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// A directory could not be made.
    #[error("cannot make the control group {path}")]
    Make {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A process could not be moved.
    #[error("cannot move process {pid} into {path}")]
    Move {
        /// Its pid.
        pid: u32,
        /// The group's list of processes.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A limit could not be set.
    #[error("cannot set {path} to {value}")]
    Limit {
        /// The limit's file.
        path: PathBuf,
        /// The value.
        value: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory could not be removed.
    #[error("cannot remove the control group {path}")]
    Remove {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Processes are still in it when the time is over.
    #[error("the control group {path} still holds processes {pids:?}")]
    Busy {
        /// The directory.
        path: PathBuf,
        /// Who, as seen from here; empty when they cannot be listed.
        pids: Vec<i32>,
    },
    /// systemd has not removed the scope when the time is over.
    #[error("systemd keeps the scope {path}")]
    Kept {
        /// Its directory.
        path: PathBuf,
    },
    /// This process is not in the scope it was started in.
    #[error("systemd gave no scope at {path}")]
    Elsewhere {
        /// Where it should be.
        path: PathBuf,
    },
    /// What is in it could not be killed.
    #[error("cannot kill what is in the control group {path}")]
    Kill {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory could not be listed.
    #[error("cannot list the control group {path}")]
    List {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The control group of one incarnation.
#[derive(Debug, Clone)]
pub struct IncarnationCgroup {
    hierarchy: Hierarchy,
    store: StoreId,
    incarnation: IncarnationId,
    /// Where it lives under systemd.
    scope: Option<Scope>,
}

/// Where a VMM is put: the lists of processes of its group, one per controller. Empty when there are none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmmCgroup {
    procs: Vec<PathBuf>,
}

impl VmmCgroup {
    /// None at all, for hosts and tests without control groups.
    pub fn none() -> Self {
        Self::default()
    }

    /// Whether there is nothing to be put into.
    pub fn is_none(&self) -> bool {
        self.procs.is_empty()
    }

    /// Moves a whole process in. Blocks for 5–20 ms: not for an event loop.
    pub fn add(&self, pid: u32) -> Result<(), CgroupError> {
        self.procs.iter().try_for_each(|procs| join(procs, pid))
    }
}

impl IncarnationCgroup {
    /// Makes the directories. Those that exist already are taken as they are: the name is ours alone.
    pub fn create(
        hierarchy: &Hierarchy,
        store: StoreId,
        incarnation: IncarnationId,
    ) -> Result<Self, CgroupError> {
        let group = Self { hierarchy: hierarchy.clone(), store, incarnation, scope: None };
        for tree in hierarchy.trees() {
            make(&tree.root.join(OURS).join(RUNNERS))?;
            limits::weigh_all(&tree.root.join(OURS));
            make(&group.directory(&tree.root))?;
            // Order matters: the store's directory is not empty now, so nobody removes it under our hands.
            tree.delegate(&[OURS, &store.to_string()])?;
            group.die_together(tree);
        }
        Ok(group)
    }

    /// That of an incarnation in whose scope this process was started by [`Scopes::command`]. Makes nothing.
    ///
    /// # Errors
    /// [`CgroupError::Elsewhere`]: it was not.
    pub fn of_own_scope(
        hierarchy: &Hierarchy,
        store: StoreId,
        incarnation: IncarnationId,
    ) -> Result<Self, CgroupError> {
        let scopes = hierarchy.scopes().ok_or(CgroupError::Elsewhere { path: PathBuf::from("/") })?;
        let scope = scopes.of(store, incarnation);
        if !scopes.holds_us(&scope) {
            return Err(CgroupError::Elsewhere { path: scope.vmm() });
        }
        Ok(Self { hierarchy: hierarchy.clone(), store, incarnation, scope: Some(scope) })
    }

    /// Makes what is ours in the scope, and puts this process, and whatever it starts, where the runner belongs.
    pub fn furnish(&self) -> Result<(), CgroupError> {
        let Some(scope) = &self.scope else { return Ok(()) };
        scope.furnish(|directory| Tree::scope(directory).hand_down(directory))?;
        let _ = limits::set(&scope.vmm(), "memory.oom.group", "1");
        Ok(())
    }

    /// A VMM without one of its helpers, or helpers without their VMM, are of no use: for want of memory all go.
    /// v1 and kernels before 4.19 know no such thing; there the PID namespace takes the rest along.
    fn die_together(&self, tree: &Tree) {
        if tree.version == Version::V2 && tree.has("memory") {
            let _ = limits::set(&self.directory(&tree.root), "memory.oom.group", "1");
        }
    }

    /// Names it without touching anything: its runner and the reconciler derive it from the ids.
    pub fn named(hierarchy: &Hierarchy, store: StoreId, incarnation: IncarnationId) -> Self {
        let scope = hierarchy.scopes().map(|scopes| scopes.of(store, incarnation));
        let scope = scope.filter(Scope::is_furnished);
        Self { hierarchy: hierarchy.clone(), store, incarnation, scope }
    }

    /// What keeps the limits of its VMM, in a sentence; none where that is what it always is, a group of ours.
    pub fn limited_by(&self) -> Option<String> {
        let instead = self.hierarchy.stand_in();
        match (&self.scope, self.hierarchy.scopes()) {
            (Some(scope), _) => Some(scope.describe(CONTROLLERS)),
            (None, None) => instead.map(str::to_owned),
            (None, Some(_)) => {
                Some(format!("{}; systemd gave no scope", instead.unwrap_or("a control group of our own")))
            }
        }
    }

    /// Puts a runner where all runners are, out of the group of whoever started it. For the launcher, after
    /// its child went to work; it kills the child if this fails.
    pub fn adopt_runner(&self, pid: u32) -> Result<(), CgroupError> {
        if self.scope.is_some() {
            // It was born there.
            return Ok(());
        }
        let mut roots = self.hierarchy.roots();
        roots.try_for_each(|root| join(&root.join(OURS).join(RUNNERS).join("cgroup.procs"), pid))
    }

    /// Puts this process where all runners are.
    pub fn enter_runner(&self) -> Result<(), CgroupError> {
        // The kernel takes 0 for whoever writes.
        self.adopt_runner(0)
    }

    /// Where the VMM belongs.
    pub fn vmm(&self) -> VmmCgroup {
        let procs = |directory: PathBuf| directory.join("cgroup.procs");
        VmmCgroup { procs: self.directories().into_iter().map(procs).collect() }
    }

    /// Whether there is a group of the VMM's.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn exists(&self) -> io::Result<bool> {
        let mut directories = self.directories().into_iter();
        directories.try_fold(false, |there, directory| Ok(there || directory.try_exists()?))
    }

    /// What the kernel has counted in the group.
    pub fn events(&self) -> CgroupEvents {
        if let Some(vmm) = self.scope.as_ref().map(Scope::vmm) {
            return CgroupEvents::read(Some(&vmm), Some(&vmm));
        }
        let at = |controller| self.hierarchy.tree_of(controller).map(|tree| self.directory(&tree.root));
        CgroupEvents::read(at("memory").as_deref(), at("pids").as_deref())
    }

    /// What the group uses at this moment.
    pub fn usage(&self) -> CgroupUsage {
        if let Some(vmm) = self.scope.as_ref().map(Scope::vmm) {
            return CgroupUsage::read(Some(&vmm), Some(&vmm), Some(&vmm));
        }
        let at = |controller| self.hierarchy.tree_of(controller).map(|tree| self.directory(&tree.root));
        CgroupUsage::read(at("memory").as_deref(), at("cpu").as_deref(), at("pids").as_deref())
    }

    /// Kills everything that is in the group, of which nothing must be left: for whoever removes it, after the
    /// VMM's death was proved or when its runner is dead. What is killed takes a moment to leave.
    ///
    /// # Errors
    /// A group is there and its processes could not be told, or not be killed. That it is not there is none.
    pub fn kill(&self) -> Result<(), CgroupError> {
        self.directories().iter().try_for_each(|directory| kill::everything_in(directory))
    }

    /// Removes the directories, and the store's if nothing else is in it. What still lives in there is killed and
    /// waited for, as are processes that are on their way out, up to `within`. Tells whether there was anything to remove; doing it twice is no error.
    /// A scope is removed by systemd, with everything in it. Blocks the thread.
    pub fn remove(&self, within: Duration) -> Result<bool, CgroupError> {
        let removed = self.remove_from_inside(within)?;
        let Some(scopes) = self.hierarchy.scopes() else { return Ok(removed) };
        // Whether anything was made in it or not.
        Ok(scopes.of(self.store, self.incarnation).end(Instant::now() + within)? || removed)
    }

    /// The same for who lives in the scope, should there be one: all but that and the place in it.
    pub fn remove_from_inside(&self, within: Duration) -> Result<bool, CgroupError> {
        let end = Instant::now() + within;
        let mut removed = match &self.scope {
            Some(scope) => remove_directory(&scope.vmm(), end)?,
            None => false,
        };
        for root in self.hierarchy.roots() {
            removed |= remove_directory(&self.directory(root), end)?;
            // Others of this store may be in there, or about to be: whatever the answer, it is not a failure.
            let _ = std::fs::remove_dir(self.store_directory(root));
        }
        Ok(removed)
    }

    /// The directories of the VMM's group.
    fn directories(&self) -> Vec<PathBuf> {
        match &self.scope {
            Some(scope) => vec![scope.vmm()],
            None => self.hierarchy.roots().map(|root| self.directory(root)).collect(),
        }
    }

    fn directory(&self, root: &Path) -> PathBuf {
        self.store_directory(root).join(self.incarnation.to_string())
    }

    fn store_directory(&self, root: &Path) -> PathBuf {
        root.join(OURS).join(self.store.to_string())
    }
}

/// The incarnations of a store that have a control group, sorted.
pub fn list(hierarchy: &Hierarchy, store: StoreId) -> Result<Vec<IncarnationId>, CgroupError> {
    let mut found = Vec::new();
    for root in hierarchy.roots() {
        let path = root.join(OURS).join(store.to_string());
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(CgroupError::List { path, source }),
        };
        for entry in entries {
            let entry = entry.map_err(|source| CgroupError::List { path: path.clone(), source })?;
            found.extend(entry.file_name().to_str().and_then(|name| name.parse::<IncarnationId>().ok()));
        }
    }
    if let Some(scopes) = hierarchy.scopes() {
        found.extend(scopes.list(store)?);
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Makes a directory and those above it. A parent that vanishes meanwhile (somebody removed the store's empty
/// directory) is made again.
fn make(path: &Path) -> Result<(), CgroupError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        match std::fs::create_dir_all(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < ATTEMPTS => {}
            Err(source) => return Err(CgroupError::Make { path: path.to_owned(), source }),
        }
    }
}

fn join(procs: &Path, pid: u32) -> Result<(), CgroupError> {
    std::fs::OpenOptions::new()
        .write(true)
        .open(procs)
        .and_then(|file| Ok(rustix::io::write(&file, pid.to_string().as_bytes())?))
        .map(drop)
        .map_err(|source| CgroupError::Move { pid, path: procs.to_owned(), source })
}

fn remove_directory(path: &Path, end: Instant) -> Result<bool, CgroupError> {
    loop {
        match rustix::fs::rmdir(path) {
            Ok(()) => return Ok(true),
            Err(Errno::NOENT) => return Ok(false),
            Err(Errno::BUSY) if Instant::now() < end => {
                // Again and again: on v1 one may have been born meanwhile.
                kill::everything_in(path)?;
                std::thread::sleep(BUSY_POLL);
            }
            Err(Errno::BUSY) => {
                let members = kill::members(path).unwrap_or_default();
                let pids = members.into_iter().map(Pid::as_raw_pid).collect();
                return Err(CgroupError::Busy { path: path.to_owned(), pids });
            }
            Err(errno) => return Err(CgroupError::Remove { path: path.to_owned(), source: errno.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> (StoreId, IncarnationId) {
        (StoreId::from_parts(1, 2), IncarnationId::from_parts(3, 4))
    }

    /// Two plain directories stand for two v1 controllers; nothing in here needs the kernel's help.
    fn two_roots() -> (Hierarchy, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let roots = ["memory", "pids"].map(|name| (directory.path().join(name), name));
        for (root, _) in &roots {
            std::fs::create_dir(root).unwrap();
        }
        (Hierarchy::v1_at(roots.to_vec()), directory)
    }

    #[test]
    fn a_group_is_made_listed_and_removed_and_removed_again() {
        let (hierarchy, directory) = two_roots();
        let (store, incarnation) = ids();
        let group = IncarnationCgroup::create(&hierarchy, store, incarnation).unwrap();
        // Making it twice is no error.
        IncarnationCgroup::create(&hierarchy, store, incarnation).unwrap();
        assert_eq!(list(&hierarchy, store).unwrap(), vec![incarnation]);
        assert_eq!(group.vmm().procs.len(), 2);

        assert!(group.remove(Duration::ZERO).unwrap());
        assert!(!group.remove(Duration::ZERO).unwrap());
        assert_eq!(list(&hierarchy, store).unwrap(), vec![]);
        let left = directory.path().join("memory/outlast");
        let names: Vec<_> =
            std::fs::read_dir(left).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["runners"]);
    }

    #[test]
    fn the_store_s_directory_stays_while_another_incarnation_is_in_it() {
        let (hierarchy, _directory) = two_roots();
        let (store, first) = ids();
        let second = IncarnationId::from_parts(5, 6);
        let group = IncarnationCgroup::create(&hierarchy, store, first).unwrap();
        IncarnationCgroup::create(&hierarchy, store, second).unwrap();
        assert!(group.remove(Duration::ZERO).unwrap());
        assert_eq!(list(&hierarchy, store).unwrap(), vec![second]);
    }

    #[test]
    fn other_stores_are_not_seen() {
        let (hierarchy, _directory) = two_roots();
        let (store, incarnation) = ids();
        IncarnationCgroup::create(&hierarchy, StoreId::from_parts(9, 9), incarnation).unwrap();
        assert_eq!(list(&hierarchy, store).unwrap(), vec![]);
    }

    #[test]
    fn processes_are_put_by_their_number() {
        let (hierarchy, directory) = two_roots();
        let (store, incarnation) = ids();
        let group = IncarnationCgroup::create(&hierarchy, store, incarnation).unwrap();
        let procs =
            directory.path().join("pids/outlast").join(store.to_string()).join(incarnation.to_string());
        // Without the kernel there is no such file: that is an error, not a success.
        assert!(matches!(group.vmm().add(42), Err(CgroupError::Move { pid: 42, .. })));
        for root in ["memory", "pids"] {
            let group = directory.path().join(root).join("outlast").join(store.to_string());
            std::fs::write(group.join(incarnation.to_string()).join("cgroup.procs"), "").unwrap();
        }
        group.vmm().add(42).unwrap();
        assert_eq!(std::fs::read_to_string(procs.join("cgroup.procs")).unwrap(), "42");
    }

    #[test]
    fn on_v2_a_group_dies_as_one_for_want_of_memory() {
        let directory = tempfile::tempdir().unwrap();
        let (store, incarnation) = ids();
        let hierarchy = Hierarchy::v2_at(directory.path().to_owned());
        let group = IncarnationCgroup::create(&hierarchy, store, incarnation).unwrap();
        let file = group.directory(directory.path()).join("memory.oom.group");
        assert!(!file.exists(), "no file is made");
        std::fs::write(&file, "").unwrap();
        IncarnationCgroup::create(&hierarchy, store, incarnation).unwrap();
        assert_eq!(std::fs::read_to_string(file).unwrap(), "1");
    }

    #[test]
    fn what_was_counted_is_read_where_the_controllers_are() {
        let (hierarchy, directory) = two_roots();
        let (store, incarnation) = ids();
        let group = IncarnationCgroup::create(&hierarchy, store, incarnation).unwrap();
        assert_eq!(group.events(), CgroupEvents::default());
        let at = |root: &str| group.directory(&directory.path().join(root));
        std::fs::write(at("memory").join("memory.oom_control"), "under_oom 0\noom_kill 7\n").unwrap();
        std::fs::write(at("pids").join("pids.events"), "max 3\n").unwrap();
        assert_eq!(group.events().oom_kills, Some(7));
        assert_eq!(group.events().refused_processes, Some(3));
    }
}
