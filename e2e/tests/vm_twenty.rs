//! The twenty behaviours of long-lived VMs, each by its own name.

use outlast_e2e::{Lab, Process, on_lab, until};
use outlast_wire::paths::RunDirectory;
use outlast_wire::vm_live_view::{VmMonitorView, VmPingView};
use outlast_wire::vm_view::{VmStartedView, VmStoppedView};
use rusqlite::Connection;
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SOON: Duration = Duration::from_secs(10);

fn until_dead(process: &Process) {
    until("it is dead", SOON, || process.is_dead().then_some(()));
}

fn run_directory(lab: &Lab, name: &str) -> RunDirectory {
    let incarnation = lab.show_vm(name).summary.incarnation.expect("it was started");
    lab.places().run_directory(incarnation.parse().expect("an id"))
}

fn stop(lab: &Lab, name: &str) -> VmStoppedView {
    lab.outlast(&["vm", "stop", "--json", name]).expect_code(0).json()
}

/// What another command would write: nothing but the wish, which the runner has to see by itself.
fn write_into_the_store(lab: &Lab, change: &str) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_nanos();
    let now = i64::try_from(now).expect("it is earlier than the end of time");
    let store = Connection::open(lab.places().database()).expect("the store can be opened");
    store.busy_timeout(SOON).expect("a timeout can be set");
    assert_eq!(store.execute(change, [now]).expect("the store can be written"), 1);
}

#[test]
fn vm_01_a_runner_spawns() {
    on_lab(|lab| {
        let started = lab.running_vm("web");
        assert!(!started.already);
        let runner = lab.runner();
        let view = lab.show_vm("web");
        assert_eq!(view.summary.state, "running");
        assert_eq!(view.summary.runner_pid, Some(runner.pid()), "as the host sees it, never 1");
        let directory = run_directory(lab, "web");
        let mode =
            |path: &std::path::Path| fs::metadata(path).expect("it lives").permissions().mode() & 0o777;
        assert_eq!((mode(directory.path()), mode(&directory.control_socket())), (0o700, 0o600));
    });
}

#[test]
fn vm_02_the_runner_starts_the_vmm() {
    on_lab(|lab| {
        lab.running_vm("web");
        let (runner, vmm) = lab.processes_of("web");
        assert!(!runner.is_dead() && !vmm.is_dead());
        assert_eq!(
            lab.sh("web", "echo $HOSTNAME; cat /proc/sys/kernel/hostname").expect_code(0).stdout_text(),
            "web\nweb\n"
        );
    });
}

#[test]
fn vm_03_the_runner_survives_the_end_of_the_command() {
    on_lab(|lab| {
        lab.create_vm("web");
        let call = lab.call(&["vm", "start", "web"]).start();
        let runner = lab.runner();
        // Its whole process group, as a terminal does that is closed.
        call.kill();
        lab.until_vm("web", "running");
        assert!(!runner.is_dead());
        lab.outlast(&["vm", "ping", "web"]).expect_code(0);
    });
}

#[test]
fn vm_04_the_runner_leaves_when_the_vmm_dies() {
    on_lab(|lab| {
        lab.running_vm("web");
        let (runner, vmm) = lab.processes_of("web");
        vmm.kill();
        until_dead(&runner);
        let view = lab.show_vm("web");
        let death = view.summary.death.expect("a death certificate");
        assert_eq!(
            (view.summary.state.as_str(), death.cause.as_str(), death.signal),
            ("stopped", "vmm_signalled", Some(9))
        );
        assert_eq!(death.by, "runner");
        let output = lab.outlast(&["vm", "ping", "web"]);
        output.expect_code(4).expect_stderr(&["web is not running (VMM killed by signal 9 at "]);
    });
}

#[test]
fn vm_05_a_monitor_command_goes_through_the_runner() {
    on_lab(|lab| {
        lab.running_vm("web");
        let view: VmMonitorView =
            lab.outlast(&["vm", "monitor", "--json", "web", "query-status"]).expect_code(0).json();
        assert_eq!(
            view.said.pointer("/status").and_then(|status| status.as_str()),
            Some("running"),
            "{view:?}"
        );
        let whole = r#"{"execute": "query-status"}"#;
        let output = lab.outlast(&["vm", "monitor", "web", whole]);
        assert!(output.expect_code(0).stdout_text().contains("running"), "{output}");
        lab.outlast(&["vm", "monitor", "web", "{"]).expect_code(2).expect_stderr(&["not JSON"]);
        lab.outlast(&["vm", "monitor", "web", "dance"]).expect_code(1).expect_stderr(&["dance"]);
    });
}

#[test]
fn vm_06_a_stop_goes_through_the_runner() {
    on_lab(|lab| {
        lab.running_vm("web");
        let (runner, vmm) = lab.processes_of("web");
        let stopped = stop(lab, "web");
        assert_eq!((stopped.already, stopped.rung.as_deref()), (false, Some("agent")), "{stopped:?}");
        assert_eq!(stopped.death.expect("a death certificate").cause, "stopped");
        assert!(runner.is_dead() && vmm.is_dead());
        assert_eq!(lab.show_vm("web").summary.state, "stopped");
    });
}

#[test]
fn vm_07_a_missing_socket_is_a_clear_error() {
    on_lab(|lab| {
        lab.running_vm("web");
        fs::remove_file(run_directory(lab, "web").control_socket()).unwrap();
        let output = lab.outlast(&["vm", "ping", "web"]);
        output.expect_code(1).expect_stderr(&["runner of web", "control.sock"]);
        // It is stopped all the same: its runner looks at the store.
        assert!(!stop(lab, "web").already);
    });
}

#[test]
fn vm_08_ping() {
    on_lab(|lab| {
        let started = lab.running_vm("web");
        let view: VmPingView = lab.outlast(&["vm", "ping", "--json", "web"]).expect_code(0).json();
        assert_eq!((view.name.as_str(), view.state.as_str()), ("web", "running"));
        assert_eq!(view.incarnation, started.incarnation);
        assert!(view.guest_us.is_some(), "the agent in the guest was asked");
    });
}

#[test]
fn vm_09_dead_processes_are_cleaned_up_when_any_command_starts() {
    on_lab(|lab| {
        lab.running_vm("web");
        let directory = run_directory(lab, "web");
        let (runner, vmm) = lab.processes_of("web");
        runner.kill();
        until_dead(&vmm);
        assert!(directory.path().exists(), "nobody has looked yet");
        let vms = lab.vms();
        assert_eq!((vms[0].state.as_str(), vms[0].runner_pid), ("stopped", None));
        assert_eq!(vms[0].death.as_ref().expect("a death certificate").cause, "runner_killed");
        assert!(!directory.path().exists());
    });
}

#[test]
fn vm_10_the_runner_sees_a_stop_that_is_written_in_the_store() {
    on_lab(|lab| {
        lab.running_vm("web");
        let (runner, _) = lab.processes_of("web");
        write_into_the_store(
            lab,
            "UPDATE vms SET state = 'stopping', stop_requested_unix_ns = ?1 WHERE name = 'web'",
        );
        until_dead(&runner);
        let view = lab.show_vm("web");
        assert_eq!(
            (view.summary.state.as_str(), view.summary.death.unwrap().by.as_str()),
            ("stopped", "runner")
        );
    });
}

#[test]
fn vm_11_the_runner_sees_that_its_vm_is_to_be_removed() {
    on_lab(|lab| {
        lab.running_vm("web");
        let (runner, _) = lab.processes_of("web");
        write_into_the_store(lab, "UPDATE vms SET removal_requested_unix_ns = ?1 WHERE name = 'web'");
        until_dead(&runner);
        lab.outlast(&["vm", "start", "web"]).expect_code(4).expect_stderr(&["being removed"]);
        lab.outlast(&["vm", "rm", "web"]).expect_code(0);
        lab.outlast(&["vm", "ping", "web"]).expect_code(3).expect_stderr(&["there is no VM 'web'"]);
    });
}

#[test]
fn vm_12_a_start_of_a_running_vm_changes_nothing() {
    on_lab(|lab| {
        let first = lab.running_vm("web");
        let (runner, vmm) = lab.processes_of("web");
        let output = lab.outlast(&["vm", "start", "web"]);
        output.expect_code(0).expect_stdout("web is already running\n");
        let again = lab.start_vm("web");
        assert!(again.already);
        assert_eq!(again.incarnation, first.incarnation);
        assert!(!runner.is_dead() && !vmm.is_dead());
    });
}

#[test]
fn vm_13_a_stale_running_is_recovered() {
    on_lab(|lab| {
        let first = lab.running_vm("web");
        let (runner, _) = lab.processes_of("web");
        runner.kill();
        // The row says `running`; the next command finds out.
        let second = lab.start_vm("web");
        assert!(!second.already);
        assert_ne!(second.incarnation, first.incarnation);
        lab.outlast(&["vm", "ping", "web"]).expect_code(0);
        let view = lab.show_vm("web");
        let causes: Vec<_> =
            view.incarnations.iter().map(|i| i.death.as_ref().map(|d| d.cause.clone())).collect();
        assert_eq!(causes, [None, Some("runner_killed".to_owned())], "newest first");
    });
}

#[test]
fn vm_14_a_stop_of_a_stopped_vm_changes_nothing() {
    on_lab(|lab| {
        lab.create_vm("web");
        assert!(stop(lab, "web").already, "it was never started");
        lab.start_vm("web");
        assert!(!stop(lab, "web").already);
        let view = lab.show_vm("web");
        assert!(stop(lab, "web").already);
        lab.outlast(&["vm", "stop", "web"]).expect_code(0).expect_stdout("web is already stopped\n");
        assert_eq!(lab.show_vm("web"), view);
    });
}

#[test]
fn vm_15_a_monitor_command_on_a_stopped_vm_is_a_clear_error() {
    on_lab(|lab| {
        lab.create_vm("web");
        let monitor = || lab.outlast(&["vm", "monitor", "web", "query-status"]);
        monitor()
            .expect_code(4)
            .expect_stderr(&["web is not running (it was never started)", "outlast vm start web"]);
        lab.start_vm("web");
        stop(lab, "web");
        monitor().expect_code(4).expect_stderr(&["web is not running (stopped at "]);
        lab.sh("web", "true").expect_code(125).expect_stderr(&["web is not running"]);
    });
}

#[test]
fn vm_16_a_crash_of_the_runner_is_detected() {
    on_lab(|lab| {
        lab.running_vm("web");
        let (runner, vmm) = lab.processes_of("web");
        runner.kill();
        until_dead(&vmm);
        for command in ["ping", "stats", "console", "pause"] {
            let output = lab.outlast(&["vm", command, "web"]);
            output.expect_code(4).expect_stderr(&["web is not running (runner killed at "]);
        }
    });
}

#[test]
fn vm_17_a_strangers_socket_in_our_place_is_not_spoken_to_and_not_removed() {
    on_lab(|lab| {
        lab.running_vm("web");
        let path = run_directory(lab, "web").control_socket();
        fs::rename(&path, path.with_extension("ours")).unwrap();
        let _foreign = UnixListener::bind(&path).unwrap();
        let output = lab.outlast(&["vm", "ping", "web"]);
        output.expect_code(4).expect_stderr(&["another process", "listens at"]);
        assert!(path.exists(), "it is somebody else's");
        assert!(!stop(lab, "web").already, "its runner looks at the store");
        // The next incarnation has a directory of its own: nothing that lies about can be in its way.
        assert!(!lab.start_vm("web").already);
        lab.outlast(&["vm", "ping", "web"]).expect_code(0);
    });
}

#[test]
fn vm_18_several_vms_run_at_once() {
    on_lab(|lab| {
        for name in ["one", "two", "three"] {
            lab.running_vm(name);
        }
        let states: Vec<_> = lab.vms().into_iter().map(|vm| (vm.name, vm.state)).collect();
        let running = |name: &str| (name.to_owned(), "running".to_owned());
        assert_eq!(states, [running("one"), running("three"), running("two")], "by name");
        for name in ["one", "two", "three"] {
            assert_eq!(
                lab.sh(name, "hostname || cat /etc/hostname").expect_code(0).stdout_text().trim(),
                name
            );
        }
    });
}

#[test]
fn vm_19_stopping_one_leaves_the_others_alone() {
    on_lab(|lab| {
        lab.running_vm("stays");
        lab.running_vm("goes");
        let (runner, vmm) = lab.processes_of("stays");
        stop(lab, "goes");
        let (runner_after, vmm_after) = lab.processes_of("stays");
        assert_eq!((runner.pid(), vmm.pid()), (runner_after.pid(), vmm_after.pid()));
        assert!(!runner.is_dead() && !vmm.is_dead());
        lab.outlast(&["vm", "ping", "stays"]).expect_code(0);
    });
}

#[test]
fn vm_20_ten_rapid_cycles_of_start_and_stop() {
    on_lab(|lab| {
        lab.create_vm("web");
        let mut incarnations = Vec::new();
        for cycle in 0..10 {
            let started = lab.start_vm("web");
            assert!(!started.already, "cycle {cycle}");
            incarnations.push(started.incarnation);
            let force: &[&str] = if cycle % 2 == 0 { &[] } else { &["--force"] };
            let line = [&["vm", "stop", "--json", "web"], force].concat();
            let stopped: VmStoppedView = lab.outlast(&line).expect_code(0).json();
            let rung = if cycle % 2 == 0 { "agent" } else { "kill" };
            assert_eq!(stopped.rung.as_deref(), Some(rung), "cycle {cycle}");
        }
        incarnations.dedup();
        assert_eq!(incarnations.len(), 10);
        assert_eq!(lab.show_vm("web").incarnations.len(), 10);
    });
}

#[test]
fn twenty_starts_at_once_make_one_vmm() {
    on_lab(|lab| {
        lab.running_vm("warm");
        lab.create_vm("web");
        let calls: Vec<_> = (0..20).map(|_| lab.call(&["vm", "start", "--json", "web"]).start()).collect();
        let started: Vec<VmStartedView> =
            calls.into_iter().map(|call| call.wait().expect_code(0).json()).collect();
        assert_eq!(started.iter().filter(|view| !view.already).count(), 1, "exactly one did it");
        let (runner, _) = lab.processes_of("web");
        assert!(started.iter().all(|view| view.incarnation == started[0].incarnation));
        runner.signal(Signal::CONT);
        assert_eq!(lab.show_vm("web").incarnations.len(), 1);
    });
}
