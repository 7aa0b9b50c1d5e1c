//! Control groups of real kernels: where processes are, what is handed down, what dies with what, what is counted.

use super::{PATIENCE, SOON, detached, expect_end};
use crate::cgroups::of_incarnation;
use crate::guest_lab::suite::Case;
use crate::{Lab, Process, until};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// With nothing but version 2.
pub const V2: &[Case] = &[
    Case { name: "a_vmm_is_in_a_group_of_its_own_that_dies_together", run: a_group_of_its_own },
    Case { name: "what_else_is_in_the_group_is_killed_with_it", run: what_else_is_in_the_group_is_killed },
    Case { name: "a_frozen_vmm_is_killed", run: a_frozen_vmm_is_killed },
    Case { name: "a_killed_runner_leaves_no_group", run: a_killed_runner_leaves_no_group },
    Case {
        name: "a_vmm_that_the_host_kills_for_want_of_memory_is_named_so_with_the_count",
        run: a_vmm_killed_for_want_of_memory,
    },
];

/// With memory on version 1 and the rest on version 2.
pub const HYBRID: &[Case] = &[
    Case { name: "a_vmm_is_in_a_group_of_both_versions", run: a_group_of_both_versions },
    Case {
        name: "a_vmm_that_the_host_kills_for_want_of_memory_is_named_so_with_the_count",
        run: a_vmm_killed_for_want_of_memory,
    },
];

const SLEEP: &str = "echo up; sleep 600";
/// Less than any VMM has: version 2 kills at once.
const TOO_LITTLE: u64 = 8 << 20;
/// What is left to grow on version 1, which refuses a limit below what is used. Less than a VMM has, so that the VMM
/// is the largest when it is used up, and the one that is killed.
const LITTLE_MORE: u64 = 16 << 20;
/// Joins the group and takes more than that, at the host's own speed: a guest that grew by itself would be slowed
/// down by its VMM's own pages being fetched again and again, for minutes, before anything is killed.
const EAT: &str = "echo 0 > \"$1/cgroup.procs\" && head -c 48M /dev/zero | tail -c 48M > /dev/null";

#[track_caller]
fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn holds(group: &Path, pid: u32) -> bool {
    read(&group.join("cgroup.procs")).lines().any(|line| line == pid.to_string())
}

/// A program that runs, its only group, its runner and its VMM.
struct Standing {
    id: String,
    incarnation: String,
    runner: Process,
    vmm: Process,
}

impl Standing {
    #[track_caller]
    fn new(lab: &Lab, script: &str) -> Self {
        let id = detached(lab, script);
        let incarnation = lab.show(&id).incarnation;
        let runner = lab.runner();
        let vmm = lab.vmm(&runner);
        Self { id, incarnation, runner, vmm }
    }

    #[track_caller]
    fn only_group(&self) -> PathBuf {
        let mut groups = of_incarnation(&self.incarnation);
        assert_eq!(groups.len(), 1, "{groups:?}");
        groups.remove(0)
    }

    #[track_caller]
    fn killed(&self, lab: &Lab) {
        lab.outlast(&["kill", &self.id]).expect_code(0);
        expect_end(&lab.until_over(&self.id, SOON), "killed", "stopped");
        until("its groups are gone", SOON, || of_incarnation(&self.incarnation).is_empty().then_some(()));
    }
}

fn a_group_of_its_own(lab: &Lab) {
    let standing = Standing::new(lab, SLEEP);
    let group = standing.only_group();
    assert!(holds(&group, standing.vmm.pid()), "the VMM is in {}", group.display());
    let offered = read(&group.join("cgroup.controllers"));
    assert!(["memory", "pids"].iter().all(|name| offered.contains(name)), "handed down: {offered}");
    assert_eq!(read(&group.join("memory.oom.group")).trim(), "1");
    let runners = group.ancestors().nth(2).expect("a group is in its store's, in ours").join("runners");
    assert!(holds(&runners, standing.runner.pid()), "the runner is in {}", runners.display());
    standing.killed(lab);
}

fn a_group_of_both_versions(lab: &Lab) {
    let standing = Standing::new(lab, SLEEP);
    let groups = of_incarnation(&standing.incarnation);
    assert_eq!(groups.len(), 2, "{groups:?}");
    for group in &groups {
        assert!(holds(group, standing.vmm.pid()), "the VMM is in {}", group.display());
    }
    assert!(groups.iter().any(|group| group.join("memory.limit_in_bytes").exists()), "{groups:?}");
    assert!(groups.iter().any(|group| group.join("pids.max").exists()), "{groups:?}");
    standing.killed(lab);
}

/// It is not of the runner's PID namespace, so nothing but the group's own kill reaches it.
fn what_else_is_in_the_group_is_killed(lab: &Lab) {
    use std::os::unix::process::ExitStatusExt as _;
    let standing = Standing::new(lab, SLEEP);
    let mut planted: Child = Command::new("sleep").arg("600").spawn().expect("sleep can be started");
    let procs = standing.only_group().join("cgroup.procs");
    fs::write(procs, planted.id().to_string()).expect("it can be put into the group");
    standing.killed(lab);
    let status =
        until("the planted process is dead", SOON, || planted.try_wait().expect("it is our own child"));
    assert_eq!(status.signal(), Some(9), "{status}");
}

fn a_frozen_vmm_is_killed(lab: &Lab) {
    let standing = Standing::new(lab, SLEEP);
    fs::write(standing.only_group().join("cgroup.freeze"), "1").expect("a group can be frozen");
    standing.killed(lab);
}

fn a_killed_runner_leaves_no_group(lab: &Lab) {
    let standing = Standing::new(lab, SLEEP);
    standing.runner.kill();
    expect_end(&lab.until_over(&standing.id, PATIENCE), "lost", "runner_killed");
    until("its groups are gone", SOON, || of_incarnation(&standing.incarnation).is_empty().then_some(()));
}

/// Until the host kills it.
pub fn a_vmm_killed_for_want_of_memory(lab: &Lab) {
    let standing = Standing::new(lab, SLEEP);
    let eater = starve(&standing.incarnation);
    let view = lab.until_over(&standing.id, PATIENCE);
    if let Some(mut eater) = eater {
        eater.wait().expect("it is our own child");
    }
    expect_end(&view, "lost", "host_out_of_memory");
    let evidence = view.death.expect("there is a death certificate").evidence;
    let counted = |line: &String| line.contains("killed for want of memory");
    assert!(evidence.iter().any(counted), "the count is evidence: {evidence:#?}");
}

/// Lowers the limit of an incarnation's memory from outside; on version 1 another process in the group then takes what
/// is left, and is to be waited for.
pub fn starve(incarnation: &str) -> Option<Child> {
    let groups = of_incarnation(incarnation);
    let with = |file: &str| groups.iter().find(|group| group.join(file).exists());
    match (with("memory.max"), with("memory.limit_in_bytes")) {
        (Some(v2), _) => {
            limit(v2, "memory.max", TOO_LITTLE);
            None
        }
        (None, Some(v1)) => {
            let used = read(&v1.join("memory.usage_in_bytes"));
            let used: u64 = used.trim().parse().expect("a number of bytes");
            limit(v1, "memory.limit_in_bytes", used + LITTLE_MORE);
            Some(Command::new("sh").args(["-c", EAT, "eat"]).arg(v1).spawn().expect("sh can be started"))
        }
        (None, None) => panic!("no group counts memory: {groups:?}"),
    }
}

#[track_caller]
fn limit(group: &Path, file: &str, bytes: u64) {
    // Swap is not there, or not accounted, on most hosts; with it nothing would be killed.
    let _ = fs::write(group.join("memory.swap.max"), "0");
    let path = group.join(file);
    fs::write(&path, bytes.to_string()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
