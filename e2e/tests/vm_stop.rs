//! The stop of a VM, with every rung of its ladder made to fail, and with whatever else is asked at the same time: it is
//! bounded, the result names what worked, nothing is left, and every answer is a defined one.

use outlast_e2e::call::Running;
use outlast_e2e::{Lab, Setup, hostile, on_lab, until};
use outlast_prove::FaultPoint;
use outlast_wire::vm_live_view::VmStateView;
use outlast_wire::vm_view::{VmStartedView, VmStoppedView};
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// A stop that is given four seconds is over by then, whatever stands still, and with what a runner needs beside its
/// rungs on a busy host.
const BOUNDED: Duration = Duration::from_secs(20);
/// Without a runner that answers it is as long as a silent heart is waited for, and the usual rungs.
const WITHOUT_RUNNER: Duration = Duration::from_secs(40);
const SOON: Duration = Duration::from_secs(20);

/// Stops the VM and checks that it took no longer, that it is gone, and by which rung.
#[track_caller]
fn stop(lab: &Lab, words: &[&str], within: Duration) -> VmStoppedView {
    let (runner, vmm) = lab.processes_of("web");
    let began = Instant::now();
    let line = [&["vm", "stop", "--json", "web"], words].concat();
    let stopped: VmStoppedView = lab.outlast(&line).expect_code(0).json();
    assert!(began.elapsed() < within, "it took {:?}", began.elapsed());
    assert!(runner.is_dead() && vmm.is_dead());
    assert_eq!(lab.show_vm("web").summary.state, "stopped");
    stopped
}

/// A VM whose vCPUs stand still without its runner knowing: its agent answers nothing.
fn with_a_guest_that_stands_still(lab: &Lab) {
    lab.running_vm("web");
    lab.outlast(&["vm", "monitor", "web", "stop"]).expect_code(0);
}

/// A stop that takes a while, for the guest it asks does not answer.
fn slow_stop(lab: &Lab, timeout: &str) -> Running {
    let running = lab.call(&["vm", "stop", "--json", "--timeout", timeout, "web"]).start();
    until("the stop is under way", SOON, || (lab.show_vm("web").summary.state == "stopping").then_some(()));
    running
}

fn expect_death(lab: &Lab, cause: &str) {
    let death = lab.show_vm("web").summary.death.expect("a death certificate");
    assert_eq!(death.cause, cause, "{death:?}");
}

#[test]
fn an_agent_that_ignores_the_power_off_is_followed_by_the_vmm() {
    Setup::new().library_with_only(&["images", "kernels", "vmm", "canary"]).run(|lab| {
        let libexec = hostile::arm(lab.binaries(), &lab.path("hostile"), "never/nothing");
        lab.create_vm("web");
        let line = ["vm", "start", "--cold", "--accel", "tcg", "web"];
        lab.call(&line).env("OUTLAST_LIBEXEC", libexec).run().expect_code(0);
        let stopped = stop(lab, &["--timeout", "4s"], BOUNDED);
        assert_eq!(stopped.rung.as_deref(), Some("vmm"), "{stopped:?}");
        expect_death(lab, "stopped");
    });
}

#[test]
fn a_guest_that_stands_still_is_followed_by_the_vmm() {
    on_lab(|lab| {
        with_a_guest_that_stands_still(lab);
        let stopped = stop(lab, &["--timeout", "4s"], BOUNDED);
        assert_eq!(stopped.rung.as_deref(), Some("vmm"), "{stopped:?}");
        expect_death(lab, "stopped");
        lab.start_vm("web");
    });
}

#[test]
fn a_vmm_that_stands_still_takes_no_word_and_no_sigterm_and_is_killed() {
    on_lab(|lab| {
        lab.running_vm("web");
        let (_, vmm) = lab.processes_of("web");
        vmm.signal(Signal::STOP);
        let stopped = stop(lab, &["--timeout", "4s"], BOUNDED);
        assert_eq!(stopped.rung.as_deref(), Some("kill"), "{stopped:?}");
        expect_death(lab, "stopped");
        // With force nobody is asked at all.
        lab.start_vm("web");
        lab.processes_of("web").1.signal(Signal::STOP);
        let stopped = stop(lab, &["--force", "--timeout", "60s"], BOUNDED);
        assert_eq!(stopped.rung.as_deref(), Some("kill"), "{stopped:?}");
    });
}

#[test]
fn a_runner_that_stands_still_is_killed_when_its_heart_has_stopped_and_the_certificate_says_so() {
    on_lab(|lab| {
        lab.running_vm("web");
        let (runner, vmm) = lab.processes_of("web");
        runner.signal(Signal::STOP);
        // As bad as it gets: neither of them does anything.
        vmm.signal(Signal::STOP);
        let stopped = stop(lab, &["--timeout", "4s"], WITHOUT_RUNNER);
        assert_eq!(stopped.rung, None, "no rung of the ladder was gone down: {stopped:?}");
        expect_death(lab, "runner_killed");
        lab.start_vm("web");
    });
}

#[test]
fn a_second_stop_waits_for_the_first_and_one_with_force_ends_both() {
    on_lab(|lab| {
        with_a_guest_that_stands_still(lab);
        let first = slow_stop(lab, "6s");
        let second: VmStoppedView = lab.outlast(&["vm", "stop", "--json", "web"]).expect_code(0).json();
        let first: VmStoppedView = first.wait().expect_code(0).json();
        assert_eq!((first.rung.as_deref(), &first), (Some("vmm"), &second), "they saw the same end");
        lab.start_vm("web");
        lab.outlast(&["vm", "monitor", "web", "stop"]).expect_code(0);
        let first = slow_stop(lab, "300s");
        let began = Instant::now();
        lab.outlast(&["vm", "stop", "--force", "web"]).expect_code(0);
        let first: VmStoppedView = first.wait().expect_code(0).json();
        assert_eq!(first.rung.as_deref(), Some("kill"), "{first:?}");
        assert!(began.elapsed() < BOUNDED, "{:?}", began.elapsed());
    });
}

#[test]
fn a_start_during_a_stop_is_refused_and_works_afterwards() {
    on_lab(|lab| {
        with_a_guest_that_stands_still(lab);
        let stopping = slow_stop(lab, "6s");
        lab.outlast(&["vm", "start", "web"])
            .expect_code(4)
            .expect_stderr(&["web is stopping", "once it is stopped"]);
        for words in [&["vm", "pause", "web"][..], &["vm", "resume", "web"], &["vm", "ping", "web"]] {
            lab.outlast(words).expect_code(4).expect_stderr(&["web is stopping"]);
        }
        lab.sh("web", "true").expect_code(125).expect_stderr(&["web is stopping"]);
        lab.outlast(&["vm", "rm", "web"]).expect_code(4).expect_stderr(&["web is stopping"]);
        stopping.wait().expect_code(0);
        assert!(!lab.start_vm("web").already);
    });
}

/// A start that is held where it has done everything but to say so.
fn held_start(lab: &Lab) -> Running {
    let start = lab.call(&["vm", "start", "--json", "web"]).env("OUTLAST_HOLD", "publish:before").start();
    lab.until_held(FaultPoint::named("publish:before").expect("a fault point"));
    start
}

#[test]
fn whatever_is_asked_during_a_start_has_its_answer() {
    Setup::new().marked_for_proofs().run(|lab| {
        lab.create_vm("web");
        let start = held_start(lab);
        lab.outlast(&["vm", "rm", "web"]).expect_code(4).expect_stderr(&["web is starting", "--force"]);
        lab.outlast(&["vm", "pause", "web"]).expect_code(4).expect_stderr(&["web is starting"]);
        // A second start waits for the same machine, and hears the same.
        let second = lab.call(&["vm", "start", "web"]).start();
        let began = Instant::now();
        let stopped: VmStoppedView = lab.outlast(&["vm", "stop", "--json", "web"]).expect_code(0).json();
        assert!(began.elapsed() < BOUNDED, "one that starts is given up at once: {:?}", began.elapsed());
        assert!(!stopped.already);
        for start in [start, second] {
            start.wait().expect_code(4).expect_stderr(&["web was started and has ended"]);
        }
        let view = lab.show_vm("web");
        assert_eq!((view.summary.state.as_str(), view.incarnations.len()), ("stopped", 1));
        expect_death(lab, "stopped");
        assert!(!lab.start_vm("web").already);
    });
}

#[test]
fn a_removal_with_force_ends_a_start_and_whoever_waits_for_it_is_told() {
    Setup::new().marked_for_proofs().run(|lab| {
        lab.create_vm("web");
        let start = held_start(lab);
        let began = Instant::now();
        lab.outlast(&["vm", "rm", "--force", "web"]).expect_code(0);
        assert!(began.elapsed() < BOUNDED, "{:?}", began.elapsed());
        start.wait().expect_code(4).expect_stderr(&["web was started and has ended"]);
        assert!(lab.vms().is_empty());
        expect_death(lab, "stopped");
    });
}

#[test]
fn a_removal_with_force_ends_a_pause_and_a_program() {
    on_lab(|lab| {
        lab.running_vm("web");
        let paused: VmStateView = lab.outlast(&["vm", "pause", "--json", "web"]).expect_code(0).json();
        assert_eq!(paused.state, "paused");
        lab.outlast(&["vm", "rm", "web"]).expect_code(4).expect_stderr(&["web is paused", "--force"]);
        lab.outlast(&["vm", "rm", "--force", "web"]).expect_code(0);
        lab.running_vm("web");
        let mut program = lab.call(&["vm", "exec", "web", "--", "sh", "-c", "echo up; sleep 600"]).start();
        assert_eq!(program.line(0, SOON).text, "up");
        lab.outlast(&["vm", "rm", "--force", "web"]).expect_code(0);
        // Its program was ended with it, before or together with the guest: never a success.
        let output = program.wait();
        assert!(matches!(output.code(), Some(125 | 129..=255)), "{output}");
        assert!(lab.vms().is_empty());
    });
}

#[test]
fn long_a_removal_does_not_cut_short_a_stop_that_was_given_more_time() {
    on_lab(|lab| {
        with_a_guest_that_stands_still(lab);
        let (_, vmm) = lab.processes_of("web");
        let first = slow_stop(lab, "300s");
        // It waits as long as it would for a stop of its own, and says what it waits for.
        let removal = lab.outlast(&["vm", "rm", "--force", "web"]);
        removal
            .expect_code(4)
            .expect_stderr(&["web was told to stop and has not", "outlast vm stop --force web"]);
        assert!(first.is_running() && !vmm.is_dead(), "the stop has its time");
        lab.outlast(&["vm", "start", "web"]).expect_code(4).expect_stderr(&["web is being removed"]);
        lab.outlast(&["vm", "stop", "--force", "web"]).expect_code(0);
        first.wait().expect_code(0);
        lab.outlast(&["vm", "rm", "web"]).expect_code(0);
    });
}

#[test]
fn two_removals_at_once_and_a_start_beside_them_leave_nothing() {
    on_lab(|lab| {
        lab.running_vm("web");
        let rm = || lab.call(&["vm", "rm", "--force", "web"]).start();
        let calls = [rm(), rm(), lab.call(&["vm", "start", "--json", "web"]).start()];
        let [one, two, start] = calls.map(Running::wait);
        let removed = [&one, &two].into_iter().filter(|output| output.code() == Some(0)).count();
        assert!(removed >= 1, "{one}\n{two}");
        // Who came too late finds nothing.
        for output in [&one, &two] {
            assert!(matches!(output.code(), Some(0 | 3)), "{output}");
        }
        match start.code() {
            Some(0) => assert!(start.json::<VmStartedView>().already, "{start}"),
            Some(3 | 4) => {}
            _ => panic!("{start}"),
        }
        assert!(lab.vms().is_empty());
    });
}
