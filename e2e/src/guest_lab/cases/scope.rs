//! Under systemd: every run is in a scope of its own, which outlives who started it and is gone after it; ordinary users
//! with a manager have limits; a manager that does not answer is done without.

use super::cgroup::a_vmm_killed_for_want_of_memory;
use super::{PATIENCE, SOON, detached, expect_end, shell};
use crate::cgroups::{of_incarnation, scopes};
use crate::guest_lab::suite::Case;
use crate::systemd::USER;
use crate::{Lab, Process, Setup, process, until};
use outlast_wire::view::CheckView;
use rustix::process::Signal;
use std::fs;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;

/// In this order: the first makes the template.
pub const CASES: &[Case] = &[
    Case { name: "a_run_of_root_is_in_a_scope_of_its_own_and_gone_with_it", run: the_first_scope },
    Case { name: "a_run_outlives_the_service_that_started_it", run: a_run_outlives_its_service },
    Case { name: "a_killed_runner_leaves_no_scope", run: a_killed_runner_leaves_no_scope },
    Case { name: "what_else_is_in_the_scope_is_killed_with_it", run: what_else_is_in_the_scope_is_killed },
    Case {
        name: "a_vmm_that_the_host_kills_for_want_of_memory_is_named_so_with_the_count",
        run: a_vmm_killed_for_want_of_memory,
    },
    Case { name: "an_ordinary_user_has_limits", run: |_| as_user(a_scope_of_its_own) },
    Case {
        name: "a_killed_runner_of_a_user_leaves_no_scope",
        run: |_| as_user(a_killed_runner_leaves_no_scope),
    },
    Case { name: "a_systemd_that_does_not_answer_is_done_without", run: |_| as_user(a_silent_systemd) },
];

/// How often KVM is tried.
const CANARIES: u32 = 4;
const SLEEP: &str = "echo up; sleep 600";
/// In the words of the manager: the one of the host, or of a user.
const SCOPES: &str = "outlast-*.scope";

fn as_user(body: impl FnOnce(&Lab)) {
    let prepared = |lab: &Lab| {
        prefer_kvm(lab);
        body(lab);
    };
    if let Err(panic) = Setup::new().as_user(USER).verdict(prepared) {
        resume_unwind(panic);
    }
}

/// Guests of an emulated host that are emulated once more need nearly all the time that a boot may take. It has a KVM,
/// which is emulated, too, and does not bring every guest up: the canary is sent again, as the doctor says.
fn prefer_kvm(lab: &Lab) {
    let works = |check: &CheckView| check.name == "kvm" && check.status == "ok";
    for _ in 0..CANARIES {
        if lab.doctor().checks.iter().any(works) {
            return;
        }
        lab.outlast(&["doctor", "--fix"]);
    }
}

#[track_caller]
fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[track_caller]
fn group_of(process: &Process) -> PathBuf {
    let line = read(Path::new(&format!("/proc/{}/cgroup", process.pid())));
    PathBuf::from(line.trim().strip_prefix("0::/").expect("version 2 alone"))
}

/// The scope of the one run that lives, by its leaf.
#[track_caller]
fn scope_of(lab: &Lab, id: &str) -> PathBuf {
    let groups = of_incarnation(&lab.show(id).incarnation);
    let [vmm] = groups.as_slice() else { panic!("one group, in a scope: {groups:?}") };
    vmm.parent().expect("a leaf is in a scope").to_owned()
}

#[track_caller]
fn until_no_scope() {
    until("no scope is left", SOON, || scopes().is_empty().then_some(()));
    let listed = Command::new("systemctl")
        .args(["list-units", "--all", "--no-legend", "--plain", SCOPES])
        .output()
        .expect("systemctl can be started");
    assert_eq!(String::from_utf8_lossy(&listed.stdout), "", "no unit is left");
    assert!(!Path::new("/sys/fs/cgroup/outlast").exists(), "no group beside systemd's");
}

#[track_caller]
fn kill(lab: &Lab, id: &str) {
    lab.outlast(&["kill", id]).expect_code(0);
    expect_end(&lab.until_over(id, SOON), "killed", "stopped");
}

fn the_first_scope(lab: &Lab) {
    prefer_kvm(lab);
    a_scope_of_its_own(lab);
}

fn a_scope_of_its_own(lab: &Lab) {
    let id = detached(lab, SLEEP);
    let runner = lab.runner();
    let vmm = lab.vmm(&runner);
    let scope = scope_of(lab, &id);
    let relative = scope.strip_prefix("/sys/fs/cgroup").expect("it is a control group");
    assert_eq!(group_of(&runner), relative.join("runner"));
    assert_eq!(group_of(&vmm), relative.join("vmm"));
    let limits = scope.join("vmm");
    for file in ["memory.max", "pids.max", "cpu.max"] {
        assert!(!read(&limits.join(file)).starts_with("max"), "{file} is set");
    }
    assert_eq!(read(&limits.join("memory.oom.group")).trim(), "1");
    let name = scope.file_name().expect("a scope has a name").to_string_lossy().into_owned();
    assert_eq!(lab.show(&id).limited_by, Some(format!("systemd's {name} with memory, pids, cpu")));
    let doctor = lab.doctor();
    let check = doctor.checks.iter().find(|check| check.name == "cgroup").expect("the doctor looks at it");
    assert!(check.status == "ok" && check.found.contains("a scope of systemd"), "{check:#?}");
    kill(lab, &id);
    until_no_scope();
}

/// Which takes everything along that is still in its group.
fn a_run_outlives_its_service(lab: &Lab) {
    let outlast = lab.binaries().join("outlast").to_string_lossy().into_owned();
    let mut line = vec!["--unit=starter", "--service-type=oneshot", "--remain-after-exit", "--quiet"];
    line.extend(["--setenv=OUTLAST_HOME", "--setenv=OUTLAST_LIBRARY", "--"]);
    line.extend([outlast.as_str(), "run", "--detach", "--image", "base", "--timeout", "600s", "--"]);
    line.extend(["sh", "-c", "echo up; sleep 15"]);
    lab.call_through("systemd-run", &line).within(PATIENCE).run().expect_code(0);
    let id = lab.only_workload().id;
    lab.until_state(&id, "running", PATIENCE);
    lab.call_through("systemctl", &["stop", "starter.service"]).run().expect_code(0);
    assert!(lab.show(&id).outcome.is_none(), "it still runs");
    assert!(!lab.runner().is_dead());
    expect_end(&lab.until_over(&id, PATIENCE), "completed", "stopped");
    until_no_scope();
}

fn a_killed_runner_leaves_no_scope(lab: &Lab) {
    let id = detached(lab, SLEEP);
    assert_eq!(scopes().len(), 1);
    lab.runner().kill();
    expect_end(&lab.until_over(&id, PATIENCE), "lost", "runner_killed");
    until_no_scope();
}

/// It is not of the runner's PID namespace, so nothing but the scope's own end reaches it.
fn what_else_is_in_the_scope_is_killed(lab: &Lab) {
    use std::os::unix::process::ExitStatusExt as _;
    let id = detached(lab, SLEEP);
    let mut planted = Command::new("sleep").arg("600").spawn().expect("sleep can be started");
    let procs = scope_of(lab, &id).join("runner/cgroup.procs");
    fs::write(procs, planted.id().to_string()).expect("it can be put into the scope");
    lab.runner().kill();
    expect_end(&lab.until_over(&id, PATIENCE), "lost", "runner_killed");
    let status = until("the planted process is dead", SOON, || planted.try_wait().expect("it is our child"));
    assert_eq!(status.signal(), Some(9), "{status}");
    until_no_scope();
}

fn a_silent_systemd(lab: &Lab) {
    let user = USER.to_string();
    let is_users = |process: &Process| {
        process.status("Uid").is_some_and(|uids| uids.split_whitespace().next() == Some(user.as_str()))
    };
    let found: Vec<Process> =
        process::named("systemd").iter().filter_map(Process::hold).filter(is_users).collect();
    let [one] = found.as_slice() else { panic!("one manager of the user's: {found:?}") };
    one.signal(Signal::STOP);
    let ran = shell(lab, &["--cold"], "echo hello");
    let check = lab.doctor().checks.into_iter().find(|check| check.name == "cgroup");
    one.signal(Signal::CONT);
    assert_eq!(ran.expect_code(0).stdout_text(), "hello\n");
    let words = format!("rlimits stand in for control groups: none is delegated to uid {USER}");
    assert_eq!(
        lab.only_workload().limited_by.or_else(|| lab.show(&lab.only_workload().id).limited_by),
        Some(format!("{words}; systemd gave no scope"))
    );
    let check = check.expect("the doctor looks at it");
    assert!(check.found.contains("systemd did not answer within"), "{check:#?}");
    until_no_scope();
}
