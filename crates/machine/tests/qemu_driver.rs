//! The QEMU driver's contract, kept against a FAKE VMM: a real process behind the real command line, sockets and
//! descriptors, that plays one scenario each. What needs a guest is tested on real VMs, elsewhere.

#![expect(clippy::unwrap_used, reason = "a test")]

use outlast_machine::backend::{
    Backend, BackendError, LaunchError, LaunchPlan, MemoryBacking, VmmEvent, VmmEvents, VmmExit,
};
use outlast_machine::cgroup::VmmCgroup;
use outlast_machine::process::{Process, Sighting};
use outlast_machine::qemu::Qemu;
use outlast_wire::intent::Machine;
use outlast_wire::paths::{Evidence, RunDirectory};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longer than anything here takes, shorter than a person waits.
const PATIENCE: Duration = Duration::from_secs(20);

/// A plan in a directory of its own. The scenario is the VMM's file name.
fn plan(scenario: &str) -> (LaunchPlan, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| {
        let path = directory.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let plan = LaunchPlan {
        machine: Machine {
            backend: "qemu".to_owned(),
            accelerator: "tcg".to_owned(),
            cpu_model: "max".to_owned(),
            vcpus: 1,
            memory: 64 << 20,
            kernel: "/nowhere/kernel".into(),
            initramfs: "/nowhere/initramfs".into(),
            rootfs: None,
            command_line: "quiet".to_owned(),
            vmm_root: "/nowhere".into(),
            vmm_binary: Path::new("/fake").join(scenario),
            vmm_version: "0".to_owned(),
            image: None,
            image_digest: None,
            scratch: None,
        },
        memory: MemoryBacking::Anonymous,
        incoming: None,
        run_directory: RunDirectory::at(place("run")),
        evidence: Evidence::at(place("evidence")),
        vmm_cgroup: VmmCgroup::none(),
        identity: None,
        jail_program: env!("CARGO_BIN_EXE_outlast-fake-vmm").into(),
    };
    (plan, directory)
}

/// A plan to restore from a template.
fn clone_plan(scenario: &str) -> (LaunchPlan, TempDir) {
    let (mut plan, directory) = plan(scenario);
    let state = directory.path().join("state");
    std::fs::write(&state, "device state").unwrap();
    plan.memory = MemoryBacking::PrivateFile(directory.path().join("memory"));
    plan.incoming = Some(state);
    (plan, directory)
}

async fn next(events: &mut VmmEvents) -> Option<VmmEvent> {
    tokio::time::timeout(PATIENCE, events.recv()).await.expect("an event, or the end of events")
}

async fn booted(scenario: &str) -> (Qemu, VmmEvents, TempDir) {
    let (plan, directory) = plan(scenario);
    let (mut qemu, events) = Qemu::launch(&plan).await.unwrap();
    qemu.boot().await.unwrap();
    (qemu, events, directory)
}

#[tokio::test]
async fn a_machine_boots_answers_on_its_port_and_is_asked_to_end() {
    let (mut qemu, mut events, directory) = booted("in-good-health").await;
    for _ in 0..2 {
        // A connection that is dropped makes room for the next.
        let mut agent = qemu.connect_agent().await.unwrap();
        agent.write_all(b"ping").await.unwrap();
        let mut answer = [0; 4];
        agent.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"ping");
    }
    qemu.pause().await.unwrap();
    qemu.resume().await.unwrap();
    let identity = qemu.process().identity().clone();
    assert!(matches!(Process::open(&identity), Sighting::Alive(_)));
    qemu.power_off().await.unwrap();
    assert_eq!(next(&mut events).await, Some(VmmEvent::Exited(VmmExit::Code(0))));
    assert_eq!(next(&mut events).await, None);
    assert!(matches!(Process::open(&identity), Sighting::Dead(_)));
    let console = std::fs::read_to_string(directory.path().join("evidence/console.log")).unwrap();
    assert_eq!(console, "hello from the console\n");
}

#[tokio::test]
async fn sockets_are_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (_qemu, _events, directory) = booted("in-good-health").await;
    for socket in ["qmp.sock", "agent.sock"] {
        let mode = std::fs::metadata(directory.path().join("run").join(socket)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{socket}");
    }
}

#[tokio::test]
async fn a_machine_is_restored_and_runs() {
    let (plan, _directory) = clone_plan("in-good-health");
    let (mut qemu, _events) = Qemu::launch(&plan).await.unwrap();
    assert!(matches!(qemu.boot().await, Err(BackendError::NothingToBoot)));
    qemu.restore().await.unwrap();
    assert!(matches!(qemu.restore().await, Err(BackendError::NothingToRestore)));
}

#[tokio::test]
async fn a_machine_is_saved_through_a_descriptor() {
    let (mut plan, directory) = plan("in-good-health");
    let memory = directory.path().join("memory");
    plan.memory = MemoryBacking::SharedFile(memory.clone());
    let (mut qemu, _events) = Qemu::launch(&plan).await.unwrap();
    qemu.boot().await.unwrap();
    qemu.pause().await.unwrap();
    let state = directory.path().join("state");
    qemu.save(&state).await.unwrap();
    assert_eq!(std::fs::read(&state).unwrap(), b"device state");
    assert_eq!(std::fs::metadata(&memory).unwrap().len(), plan.machine.memory);
}

#[tokio::test]
async fn a_machine_is_saved_whole_as_often_as_one_likes_and_restored() {
    let (mut qemu, _events, directory) = booted("in-good-health").await;
    qemu.pause().await.unwrap();
    let state = directory.path().join("machine");
    for _ in 0..2 {
        let file = std::fs::File::create(&state).unwrap();
        assert_eq!(qemu.save_whole(file, PATIENCE).await.unwrap(), 3 << 20);
        assert_eq!(std::fs::metadata(&state).unwrap().len(), 3 << 20);
    }
    qemu.resume().await.unwrap();
    let (mut plan, _directory) = plan("in-good-health");
    plan.incoming = Some(state);
    let (mut restored, _events) = Qemu::launch(&plan).await.unwrap();
    restored.restore().await.unwrap();
}

#[tokio::test]
async fn a_state_that_could_not_be_written_is_told_with_its_reason_and_the_machine_goes_on() {
    let (mut qemu, _events, directory) = booted("state-cannot-be-read").await;
    qemu.pause().await.unwrap();
    let file = std::fs::File::create(directory.path().join("machine")).unwrap();
    let error = qemu.save_whole(file, PATIENCE).await.unwrap_err();
    assert_eq!(error.to_string(), "the machine's state was not saved: the state is from another machine");
    qemu.resume().await.unwrap();
}

#[tokio::test]
async fn a_vmm_that_writes_more_than_a_machine_has_fills_no_disk() {
    let (mut qemu, _events, directory) = booted("never-stops-writing").await;
    qemu.pause().await.unwrap();
    let state = directory.path().join("machine");
    let file = std::fs::File::create(&state).unwrap();
    let error = qemu.save_whole(file, PATIENCE).await.unwrap_err();
    assert!(matches!(error, BackendError::TooMuch { .. }), "{error}");
    assert!(std::fs::metadata(&state).unwrap().len() < 256 << 20);
}

#[tokio::test]
async fn a_machine_whose_memory_would_be_lost_is_not_saved() {
    let (mut qemu, _events, directory) = booted("in-good-health").await;
    let state = directory.path().join("state");
    assert!(matches!(qemu.save(&state).await, Err(BackendError::NotSaveable)));
    assert!(!state.exists());
}

#[tokio::test]
async fn a_state_that_cannot_be_read_is_told_with_its_reason() {
    let (plan, _directory) = clone_plan("state-cannot-be-read");
    let (mut qemu, _events) = Qemu::launch(&plan).await.unwrap();
    let error = qemu.restore().await.unwrap_err();
    assert_eq!(error.to_string(), "the machine's state was not restored: the state is from another machine");
}

#[tokio::test]
async fn a_state_that_is_not_there_is_told_before_anything_starts() {
    let (mut plan, directory) = clone_plan("in-good-health");
    plan.incoming = Some(directory.path().join("absent"));
    assert!(
        matches!(Qemu::launch(&plan).await, Err(LaunchError::Open { path, .. }) if path.ends_with("absent"))
    );
}

#[tokio::test]
async fn a_vmm_that_dies_at_once_is_told_with_its_last_words() {
    let (plan, directory) = plan("dies-before-it-answers");
    let error = Qemu::launch(&plan).await.map(drop).unwrap_err();
    let LaunchError::Exited { exit, last_words } = error else { panic!("{error:?}") };
    assert_eq!(exit, VmmExit::Code(1));
    assert_eq!(last_words.as_deref(), Some("fake-vmm: no such machine type"));
    let log = std::fs::read_to_string(directory.path().join("evidence/vmm.log")).unwrap();
    assert!(log.starts_with("some noise\n"));
}

#[tokio::test]
async fn a_program_that_is_not_there_is_told() {
    let (mut plan, _directory) = plan("in-good-health");
    plan.jail_program = "/nowhere/outlast-runner".into();
    assert!(matches!(Qemu::launch(&plan).await, Err(LaunchError::Spawn { .. })));
}

// With the clock standing still, every deadline is over as soon as nothing else happens.
#[tokio::test(start_paused = true)]
async fn a_monitor_that_never_answers_is_given_up() {
    let (plan, _directory) = plan("never-answers");
    let error = Qemu::launch(&plan).await.map(drop).unwrap_err();
    assert!(
        matches!(&error, LaunchError::Monitor(BackendError::Timeout { command: "qmp_capabilities", .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_monitor_that_talks_nonsense_is_no_monitor() {
    for scenario in ["talks-nonsense", "never-ends-its-line"] {
        let (plan, _directory) = plan(scenario);
        let error = Qemu::launch(&plan).await.map(drop).unwrap_err();
        // It hung up on us or we on it: either way there is no machine, and the error says so.
        assert!(
            matches!(&error, LaunchError::Monitor(_) | LaunchError::Exited { .. }),
            "{scenario}: {error:?}"
        );
    }
}

#[tokio::test]
async fn a_refusal_carries_the_words_without_control_characters() {
    let (plan, _directory) = plan("refuses-to-run");
    let (mut qemu, _events) = Qemu::launch(&plan).await.unwrap();
    let error = qemu.boot().await.unwrap_err();
    assert_eq!(error.to_string(), "the monitor refused 'cont': no bootable device");
}

#[tokio::test]
async fn a_guest_that_panics_for_ever_is_one_event_and_the_vmm_s_death_the_last() {
    let (_qemu, mut events, _directory) = booted("guest-panics-without-end").await;
    assert_eq!(next(&mut events).await, Some(VmmEvent::GuestPanicked));
    assert_eq!(next(&mut events).await, Some(VmmEvent::Exited(VmmExit::Signal(9))));
    assert_eq!(next(&mut events).await, None);
}

#[tokio::test]
async fn what_a_guest_did_is_told_before_the_exit_it_caused() {
    for (scenario, event) in
        [("guest-shuts-down", VmmEvent::GuestShutdown), ("guest-resets", VmmEvent::GuestReset)]
    {
        let (_qemu, mut events, _directory) = booted(scenario).await;
        assert_eq!(next(&mut events).await, Some(event), "{scenario}");
        assert_eq!(next(&mut events).await, Some(VmmEvent::Exited(VmmExit::Code(0))), "{scenario}");
    }
}

#[tokio::test]
async fn a_monitor_that_hangs_up_is_told_while_the_vmm_lives() {
    let (mut qemu, mut events, _directory) = booted("hangs-up").await;
    assert!(matches!(qemu.pause().await, Err(BackendError::HungUp { command: "stop" })));
    assert_eq!(next(&mut events).await, Some(VmmEvent::MonitorLost));
    qemu.kill().unwrap();
    assert_eq!(next(&mut events).await, Some(VmmEvent::Exited(VmmExit::Signal(9))));
}

#[tokio::test]
async fn what_a_later_qemu_might_say_is_passed_over() {
    let (mut qemu, mut events, _directory) = booted("speaks-of-the-future").await;
    qemu.pause().await.unwrap();
    qemu.kill().unwrap();
    assert_eq!(next(&mut events).await, Some(VmmEvent::Exited(VmmExit::Signal(9))));
}

#[tokio::test]
async fn a_flood_on_the_console_is_drained_and_cut() {
    let (_qemu, _events, directory) = booted("floods-its-console").await;
    let log = std::fs::metadata(directory.path().join("evidence/console.log")).unwrap().len();
    let cap = outlast_model::limit::CONSOLE_BYTES;
    assert!(log >= cap && log < cap + 1000, "{log}");
}

#[tokio::test]
async fn a_driver_that_is_dropped_takes_its_vmm_along() {
    let (qemu, events, _directory) = booted("in-good-health").await;
    let identity = qemu.process().identity().clone();
    drop((qemu, events));
    let gone = async {
        while matches!(Process::open(&identity), Sighting::Alive(_)) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("it dies with its driver");
}

#[tokio::test]
async fn an_attempt_finds_the_sockets_of_the_one_before_it_in_no_way() {
    let (plan, _directory) = plan("in-good-health");
    let (first, _) = Qemu::launch(&plan).await.unwrap();
    drop(first);
    let (mut second, _) = Qemu::launch(&plan).await.unwrap();
    second.boot().await.unwrap();
}
