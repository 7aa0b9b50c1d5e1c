//! Control groups as a test sees them from outside: where they are mounted, and those of one incarnation.

use crate::systemd;
use std::fs;
use std::path::{Path, PathBuf};

/// The mount points of all hierarchies, version 1 and 2.
pub fn mounts() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("our own mounts can be read");
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let is_cgroup = |fields: &Vec<&str>| matches!(fields.get(2), Some(&("cgroup" | "cgroup2")));
    fields.filter(is_cgroup).map(|fields| PathBuf::from(fields[1])).collect()
}

/// The directories of an incarnation's VMM, one a hierarchy in use.
pub fn of_incarnation(incarnation: &str) -> Vec<PathBuf> {
    let stores = mounts().into_iter().flat_map(|mount| children(&mount.join("outlast")));
    let groups = stores.map(|store| store.join(incarnation));
    let leaves =
        scopes().into_iter().filter(|scope| named(scope, incarnation)).map(|scope| scope.join("vmm"));
    groups.chain(leaves).filter(|directory| directory.is_dir()).collect()
}

/// The scopes in which systemd keeps incarnations, the host's manager and that of [`systemd::USER`].
pub fn scopes() -> Vec<PathBuf> {
    let users = format!("user.slice/user-{0}.slice/user@{0}.service/outlast.slice", systemd::USER);
    let slices = mounts().into_iter().flat_map(|mount| [mount.join("outlast.slice"), mount.join(&users)]);
    slices.flat_map(|slice| children(&slice)).filter(|path| path.is_dir()).collect()
}

fn named(scope: &Path, incarnation: &str) -> bool {
    scope.file_name().is_some_and(|name| name.to_string_lossy().ends_with(&format!("-{incarnation}.scope")))
}

/// Whether a group and all that is in it can be killed with one word: version 2 alone.
pub fn can_be_killed_as_one() -> bool {
    mounts().into_iter().any(|mount| mount.join("outlast/runners/cgroup.kill").exists())
}

/// The group that holds this test's processes and limits their number.
pub fn own_pids() -> PathBuf {
    let candidates = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup/test"].map(PathBuf::from);
    let found = candidates.into_iter().find(|directory| directory.join("pids.max").exists());
    found.expect("the number of processes can be limited")
}

fn children(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
