//! Real children, and a /proc that is not there.

use super::*;
use std::process::{Child, Command, Stdio};

/// A child that lives until it is killed, and is killed when the test ends.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        Self(Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn alive(sighting: Sighting) -> Process {
    match sighting {
        Sighting::Alive(process) => process,
        Sighting::Dead(why) => panic!("dead: {why}"),
        Sighting::Undecided(why) => panic!("undecided: {why}"),
    }
}

#[test]
fn a_living_child_is_found_killed_and_proven_dead() {
    let mut child = Sleeper::start();
    let identity = identity_of(child.0.id()).unwrap();
    let process = alive(Process::open(&identity));
    assert!(!process.is_dead().unwrap());
    assert!(!process.wait_dead(Duration::from_millis(1)).unwrap());

    process.signal(Signal::KILL).unwrap();
    assert!(process.wait_dead(Duration::from_secs(5)).unwrap());
    // Nobody has waited for it: it is a zombie, and that is dead.
    assert!(matches!(Process::open(&identity), Sighting::Dead(DeathProof::Exited)));

    child.0.wait().unwrap();
    assert!(matches!(Process::open(&identity), Sighting::Dead(DeathProof::NoSuchProcess)));
    // A signal to what was held and is gone reaches nobody and is no error.
    process.signal(Signal::KILL).unwrap();
    assert!(process.is_dead().unwrap());
}

#[test]
fn a_process_with_another_start_time_is_not_the_one_and_is_never_signalled() {
    let mut child = Sleeper::start();
    let mut identity = identity_of(child.0.id()).unwrap();
    identity.start_time -= 1;
    // The type gives no way to signal what is not `Alive`; so this is the whole of the promise.
    assert!(matches!(Process::open(&identity), Sighting::Dead(DeathProof::PidReused)));
    assert!(child.0.try_wait().unwrap().is_none());
}

#[test]
fn a_process_of_another_pid_namespace_is_not_the_one() {
    let child = Sleeper::start();
    let mut identity = identity_of(child.0.id()).unwrap();
    identity.pid_namespace += 1;
    assert!(matches!(Process::open(&identity), Sighting::Dead(DeathProof::PidReused)));
}

#[test]
fn nothing_of_an_earlier_boot_lives() {
    let child = Sleeper::start();
    let mut identity = identity_of(child.0.id()).unwrap();
    identity.boot_id = "00000000-0000-0000-0000-000000000000".to_owned();
    assert!(matches!(Process::open(&identity), Sighting::Dead(DeathProof::Rebooted)));
}

#[test]
fn a_pid_recorded_in_another_namespace_proves_nothing() {
    let mut identity = identity_of(std::process::id()).unwrap();
    identity.pid = 4_000_000;
    identity.observer_namespace += 1;
    let sighting = Process::open(&identity);
    assert!(matches!(sighting, Sighting::Undecided(Doubt::OtherNamespace { .. })), "{sighting:?}");
}

#[test]
fn without_proc_it_is_undecided_even_when_nobody_has_the_pid() {
    let empty = tempfile::tempdir().unwrap();
    let mut identity = identity_of(std::process::id()).unwrap();
    identity.pid = 4_000_000;
    let sighting = Process::open_in(&Procfs::at(empty.path().to_owned()), &identity);
    assert!(matches!(sighting, Sighting::Undecided(Doubt::Unreadable(_))), "{sighting:?}");
}

#[test]
fn without_the_process_s_own_files_it_is_undecided() {
    // A /proc that knows the boot and ourselves, and nothing of the process asked for.
    let proc = tempfile::tempdir().unwrap();
    let child = Sleeper::start();
    let identity = identity_of(child.0.id()).unwrap();
    let random = proc.path().join("sys/kernel/random");
    std::fs::create_dir_all(&random).unwrap();
    std::fs::write(random.join("boot_id"), format!("{}\n", identity.boot_id)).unwrap();
    let namespaces = proc.path().join("self/ns");
    std::fs::create_dir_all(&namespaces).unwrap();
    std::os::unix::fs::symlink(format!("pid:[{}]", identity.observer_namespace), namespaces.join("pid"))
        .unwrap();
    let sighting = Process::open_in(&Procfs::at(proc.path().to_owned()), &identity);
    assert!(matches!(sighting, Sighting::Undecided(Doubt::Unreadable(_))), "{sighting:?}");
}

#[test]
fn numbers_that_are_no_pids_are_undecided() {
    for pid in [0, u32::MAX] {
        let mut identity = identity_of(std::process::id()).unwrap();
        identity.pid = pid;
        assert!(matches!(Process::open(&identity), Sighting::Undecided(_)), "{pid}");
    }
}

#[test]
fn evidence_of_a_living_process_names_its_state() {
    let child = Sleeper::start();
    let process = Process::of_child(child.0.id()).unwrap();
    let sentences = process.stack_evidence();
    assert!(sentences[0].starts_with("state "), "{sentences:?}");
    assert_eq!(sentences.len(), 3);
}

#[test]
fn orphans_are_reaped_and_the_spared_child_is_left_to_its_owner() {
    let mut spared = Command::new("true").spawn().unwrap();
    #[expect(clippy::zombie_processes, reason = "it is reaped as PID 1 reaps what others left to it")]
    let orphan = Command::new("sleep").arg("600").spawn().unwrap();
    let process = Process::of_child(orphan.id()).unwrap();
    process.signal(Signal::KILL).unwrap();
    assert!(process.wait_dead(Duration::from_secs(5)).unwrap());
    // Other tests of this process may have children of their own: everything but the orphan is spared.
    let everyone_else: Vec<u32> =
        Procfs::system().pids().unwrap().into_iter().filter(|&pid| pid != orphan.id()).collect();
    assert_eq!(reap_orphans(&everyone_else).unwrap(), 1);
    assert!(spared.wait().unwrap().success());
}
