//! Scopes: where an incarnation lives on a host whose control groups systemd keeps (systemd.scope(5)).
//!
//! ```text
//!   outlast.slice/outlast-STORE-INCARNATION.scope   systemd's: made on request, gone once nothing lives in it
//!       runner                                      ours, for it is delegated: launcher, then runner
//!       vmm                                         ours, with the limits
//! ```
//!
//! There every group has one writer, and groups of ours beside systemd's are against its rules. A process comes into
//! a scope by being the one that asks: `systemd-run --scope` asks, waits until it is done, and becomes the launcher.
//! systemd's own tool speaks to the manager over its private socket, with no bus between. Ordinary users ask the
//! manager of their own, who gives them what was delegated to it: that is how they get limits.
//!
//! Not responsible for when one is asked for, and what is done when there is no answer.

use super::find::{Mount, below, own_v2_path, words};
use super::{CgroupError, join, kill, make};
use outlast_model::{IncarnationId, StoreId};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The slice of all scopes of ours.
const SLICE: &str = "outlast.slice";
/// It asks for a scope; a part of every systemd.
const TOOL: &str = "/usr/bin/systemd-run";
/// There exactly where systemd is the first process (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";
/// The leaf of launcher and runner.
const RUNNER: &str = "runner";
/// The leaf of the VMM.
const VMM: &str = "vmm";
/// No event says that a cgroup's directory is gone.
const GONE_POLL: Duration = Duration::from_millis(2);

/// The scopes that a manager of systemd's keeps for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scopes {
    /// The top of the hierarchy.
    top: PathBuf,
    /// The manager's own group.
    keeper: PathBuf,
    /// Whose manager it is; the host's when nobody's.
    user: Option<u32>,
}

impl Scopes {
    /// Those that this user could have on a host with such mounts: systemd runs, on version 2 alone, and there is a
    /// manager. Whether it answers is not known before it is asked.
    pub(super) fn find(mounts: &[Mount], prefix: &Path, user: Option<u32>) -> Option<Self> {
        if mounts.iter().any(|mount| mount.kind == "cgroup") {
            return None;
        }
        let unified = mounts.iter().find(|mount| mount.kind == "cgroup2")?;
        let at = |path: &str| below(prefix, Path::new(path));
        if !at(BOOTED).is_dir() || !at(TOOL).exists() {
            return None;
        }
        let top = below(prefix, &unified.point);
        let keeper = match user {
            None => top.clone(),
            // Order matters: without its socket a manager is gone, or was never there.
            Some(uid) if at(&runtime(uid)).join("systemd/private").exists() => {
                top.join(format!("user.slice/user-{uid}.slice/user@{uid}.service"))
            }
            Some(_) => return None,
        };
        keeper.is_dir().then_some(Self { top, keeper, user })
    }

    /// The beginning of a command that becomes, in the scope of that incarnation, the program that is added to it. It
    /// gets nothing of the caller's environment.
    pub fn command(&self, store: StoreId, incarnation: IncarnationId) -> Command {
        self.asking_for(&name(store, incarnation))
    }

    fn asking_for(&self, unit: &str) -> Command {
        let mut command = Command::new(TOOL);
        command.env_clear();
        if let Some(uid) = self.user {
            command.arg("--user").env("XDG_RUNTIME_DIR", runtime(uid));
        }
        command.args(["--scope", "--quiet", "--collect", "--no-ask-password", "--property=Delegate=yes"]);
        command.arg(format!("--slice={SLICE}")).arg(format!("--unit={unit}")).arg("--");
        command
    }

    /// Asks for a scope and gives it back at once. Blocks the thread.
    ///
    /// # Errors
    /// [`CgroupError::Unavailable`] with the manager's words, or that it said nothing in time.
    pub fn attempt(&self, within: Duration) -> Result<(), CgroupError> {
        let mut command = self.asking_for(&format!("outlast-try-{}.scope", std::process::id()));
        let asked =
            command.arg("/bin/true").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let unavailable = |reason: String| CgroupError::Unavailable { reason };
        let child = asked.spawn().map_err(|error| unavailable(format!("{TOOL}: {error}")))?;
        let mut child = child;
        let process = crate::process::Process::of_child(child.id());
        if !matches!(process.map(|process| process.wait_dead(within)), Ok(Ok(true))) {
            // It is our child and not waited for: its pid is its own.
            let _ = child.kill();
            let _ = child.wait();
            return Err(unavailable(format!("systemd did not answer within {} s", within.as_secs())));
        }
        let output = child.wait_with_output().map_err(|error| unavailable(format!("{TOOL}: {error}")))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(unavailable(said.lines().last().unwrap_or("systemd-run failed").trim().to_owned()))
    }

    /// One sentence for people.
    pub(super) fn describe(&self, controllers: &[&str]) -> String {
        let offered = words(&self.keeper.join("cgroup.controllers"));
        let whose = match self.user {
            None => "systemd".to_owned(),
            Some(uid) => format!("systemd's manager of uid {uid}"),
        };
        format!(
            "cgroup v2: a scope of {whose} for each run in {SLICE}, with {}",
            given(&offered, controllers)
        )
    }

    /// That of an incarnation, whether it is there or not.
    pub(super) fn of(&self, store: StoreId, incarnation: IncarnationId) -> Scope {
        Scope { directory: self.keeper.join(SLICE).join(name(store, incarnation)) }
    }

    /// Whether this process is in the scope, and nowhere below it.
    pub(super) fn holds_us(&self, scope: &Scope) -> bool {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        below(&self.top, Path::new(own_v2_path(&own))) == scope.directory
    }

    /// The incarnations of a store that have one.
    pub(super) fn list(&self, store: StoreId) -> Result<Vec<IncarnationId>, CgroupError> {
        let path = self.keeper.join(SLICE);
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(CgroupError::List { path, source }),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|source| CgroupError::List { path: path.clone(), source })?;
            found.extend(entry.file_name().to_str().and_then(|name| incarnation_in(name, store)));
        }
        Ok(found)
    }
}

/// The scope of one incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scope {
    directory: PathBuf,
}

impl Scope {
    /// Whether a launcher has made its leaves. One that systemd gave too late, to nobody, has none.
    pub(super) fn is_furnished(&self) -> bool {
        self.vmm().is_dir()
    }

    /// The leaf with the limits.
    pub(super) fn vmm(&self) -> PathBuf {
        self.directory.join(VMM)
    }

    /// Makes the leaves and puts this process into its own: a group that hands controllers down may hold none.
    pub(super) fn furnish(&self, hand_down: impl FnOnce(&Path)) -> Result<(), CgroupError> {
        let runner = self.directory.join(RUNNER);
        make(&runner)?;
        join(&runner.join("cgroup.procs"), 0)?;
        hand_down(&self.directory);
        make(&self.vmm())
    }

    /// Kills what is in it and waits until systemd has removed it. Tells whether it was there. Not for who lives in it.
    pub(super) fn end(&self, end: Instant) -> Result<bool, CgroupError> {
        let mut there = false;
        while self.directory.is_dir() {
            there = true;
            // Where the kernel cannot kill a whole tree at once, only the members of each group are known.
            for group in [self.directory.join(RUNNER), self.vmm(), self.directory.clone()] {
                kill::everything_in(&group)?;
            }
            if Instant::now() >= end {
                return Err(CgroupError::Kept { path: self.directory.clone() });
            }
            std::thread::sleep(GONE_POLL);
        }
        Ok(there)
    }

    /// What keeps limits in it, for people.
    pub(super) fn describe(&self, controllers: &[&str]) -> String {
        let name = self.directory.file_name().unwrap_or_default().to_string_lossy();
        let offered = words(&self.vmm().join("cgroup.controllers"));
        format!("systemd's {name} with {}", given(&offered, controllers))
    }
}

/// Of the controllers in use those that are there, and those that are not.
fn given(offered: &[String], controllers: &[&str]) -> String {
    let is_there = |name: &&&str| offered.iter().any(|word| word == *name);
    let (there, missing): (Vec<&str>, Vec<&str>) =
        controllers.iter().copied().partition(|name| is_there(&name));
    let there = if there.is_empty() { "no controller".to_owned() } else { there.join(", ") };
    if missing.is_empty() { there } else { format!("{there}; without {}", missing.join(", ")) }
}

/// Where the sockets of a user's manager are (pam_systemd(8)), whatever the environment says.
fn runtime(uid: u32) -> String {
    format!("/run/user/{uid}")
}

fn name(store: StoreId, incarnation: IncarnationId) -> String {
    format!("outlast-{store}-{incarnation}.scope")
}

fn incarnation_in(name: &str, store: StoreId) -> Option<IncarnationId> {
    let id = name.strip_prefix(&format!("outlast-{store}-"))?.strip_suffix(".scope")?;
    id.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::{Hierarchy, IncarnationCgroup, list};
    use super::*;

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
    const HYBRID: &str = "30 23 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
        31 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    const KEEPER: &str = "sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service";

    fn mounts(text: &str) -> Vec<Mount> {
        text.lines().filter_map(Mount::parse).collect()
    }

    fn ids() -> (StoreId, IncarnationId) {
        (StoreId::from_parts(1, 2), IncarnationId::from_parts(3, 4))
    }

    /// A host with systemd, and a manager of user 1000.
    fn host() -> tempfile::TempDir {
        let host = tempfile::tempdir().unwrap();
        for directory in ["run/systemd/system", "usr/bin", KEEPER, "run/user/1000/systemd"] {
            std::fs::create_dir_all(host.path().join(directory)).unwrap();
        }
        std::fs::write(host.path().join("usr/bin/systemd-run"), "").unwrap();
        std::fs::write(host.path().join("run/user/1000/systemd/private"), "").unwrap();
        host
    }

    fn find(host: &tempfile::TempDir, user: Option<u32>) -> Option<Scopes> {
        Scopes::find(&mounts(V2), host.path(), user)
    }

    #[test]
    fn the_host_s_systemd_is_asked_by_root_and_a_user_s_by_the_user() {
        let host = host();
        let top = host.path().join("sys/fs/cgroup");
        assert_eq!(find(&host, None).unwrap().keeper, top);
        assert_eq!(find(&host, Some(1000)).unwrap().keeper, host.path().join(KEEPER));
        assert_eq!(find(&host, Some(1001)), None, "no manager runs for that user");
    }

    #[test]
    fn nobody_is_asked_without_systemd_or_on_version_1() {
        let host = host();
        assert_eq!(Scopes::find(&mounts(HYBRID), host.path(), None), None);
        std::fs::remove_dir(host.path().join("run/systemd/system")).unwrap();
        assert_eq!(find(&host, None), None);
    }

    #[test]
    fn a_user_s_systemd_is_asked_over_the_user_s_own_directory_whatever_the_environment_says() {
        let host = host();
        let (store, incarnation) = ids();
        let command = find(&host, Some(1000)).unwrap().command(store, incarnation);
        let environment: Vec<_> = command.get_envs().collect();
        assert_eq!(environment.len(), 1, "{environment:?}");
        assert_eq!(environment[0].1.unwrap(), "/run/user/1000");
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        assert!(words.contains(&format!("--unit=outlast-{store}-{incarnation}.scope")), "{words:?}");
        assert_eq!(words.last().unwrap(), "--");
    }

    #[test]
    fn a_scope_is_named_by_store_and_incarnation_and_found_by_them() {
        let host = host();
        let (store, incarnation) = ids();
        let scopes = find(&host, Some(1000)).unwrap();
        assert_eq!(scopes.list(store).unwrap(), vec![]);
        let slice = host.path().join(KEEPER).join(SLICE);
        let others = [
            name(StoreId::from_parts(9, 9), incarnation),
            "outlast-try-7.scope".to_owned(),
            format!("outlast-{store}-x.scope"),
        ];
        for name in others.into_iter().chain([name(store, incarnation)]) {
            std::fs::create_dir_all(slice.join(name)).unwrap();
        }
        assert_eq!(scopes.list(store).unwrap(), vec![incarnation]);
        let hierarchy = Hierarchy::with_scopes(scopes);
        assert_eq!(list(&hierarchy, store).unwrap(), vec![incarnation]);
    }

    #[test]
    fn a_scope_that_nobody_furnished_is_not_where_an_incarnation_is() {
        let host = host();
        let (store, incarnation) = ids();
        let scopes = find(&host, Some(1000)).unwrap();
        let scope = scopes.of(store, incarnation);
        std::fs::create_dir_all(&scope.directory).unwrap();
        let hierarchy = Hierarchy::with_scopes(scopes);
        let named = || IncarnationCgroup::named(&hierarchy, store, incarnation);
        assert!(named().vmm().is_none());
        assert!(named().limited_by().unwrap().contains("systemd gave no scope"));
        std::fs::create_dir(scope.vmm()).unwrap();
        assert_eq!(named().vmm().procs, [scope.vmm().join("cgroup.procs")]);
        std::fs::write(scope.vmm().join("cgroup.controllers"), "memory pids\n").unwrap();
        let by = named().limited_by().unwrap();
        assert!(by.ends_with("with memory, pids; without cpu"), "{by}");
    }

    #[test]
    fn a_scope_that_systemd_does_not_remove_is_told() {
        let host = host();
        let (store, incarnation) = ids();
        let scopes = find(&host, Some(1000)).unwrap();
        let scope = scopes.of(store, incarnation);
        let group = IncarnationCgroup::named(&Hierarchy::with_scopes(scopes), store, incarnation);
        assert!(!group.remove(Duration::ZERO).unwrap(), "there is none");
        std::fs::create_dir_all(&scope.directory).unwrap();
        std::fs::write(scope.directory.join("cgroup.kill"), "").unwrap();
        assert!(
            matches!(group.remove(Duration::ZERO), Err(CgroupError::Kept { path }) if path == scope.directory)
        );
        assert_eq!(std::fs::read_to_string(scope.directory.join("cgroup.kill")).unwrap(), "1");
        // Who lives in it may not do that.
        std::fs::write(scope.directory.join("cgroup.kill"), "").unwrap();
        group.remove_from_inside(Duration::ZERO).unwrap();
        assert_eq!(std::fs::read_to_string(scope.directory.join("cgroup.kill")).unwrap(), "");
    }

    #[test]
    fn without_a_kill_of_the_whole_tree_the_members_of_the_leaves_die() {
        use std::os::unix::process::ExitStatusExt as _;
        let top = tempfile::tempdir().unwrap();
        let scope = Scope { directory: top.path().join("a.scope") };
        let mut children: Vec<_> = [RUNNER, VMM]
            .iter()
            .map(|leaf| {
                let child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
                std::fs::create_dir_all(scope.directory.join(leaf)).unwrap();
                std::fs::write(scope.directory.join(leaf).join("cgroup.procs"), child.id().to_string())
                    .unwrap();
                child
            })
            .collect();
        // Nobody removes these directories.
        assert!(matches!(scope.end(Instant::now()), Err(CgroupError::Kept { .. })));
        for child in &mut children {
            assert_eq!(child.wait().unwrap().signal(), Some(9));
        }
    }
}
