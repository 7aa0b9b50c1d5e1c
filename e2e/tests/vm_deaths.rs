//! Everything a VM can die of, by name: the death certificate says what it was, whoever looks for it in whatever form finds
//! it, the next start works, and all certificates outlive the VM.

use outlast_e2e::guest_lab::cases::cgroup::starve;
use outlast_e2e::{Lab, Setup, hostile, on_lab, until};
use outlast_prove::FaultPoint;
use outlast_wire::vm_view::VmView;
use rusqlite::Connection;
use rustix::process::Signal;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

/// Waits for the end and looks at its certificate in every form that there is.
#[track_caller]
fn expect_death(lab: &Lab, cause: &str) -> VmView {
    let ended = || {
        Some(lab.show_vm("web")).filter(|view| ["stopped", "failed"].contains(&view.summary.state.as_str()))
    };
    let view = until("it has ended", SOON, ended);
    let death = view.summary.death.clone().expect("a death certificate");
    assert_eq!(death.cause, cause, "{view:#?}");
    assert!(!death.evidence.is_empty(), "{view:#?}");
    assert_eq!(view.incarnations[0].death.as_ref(), Some(&death), "of its newest incarnation");
    assert_eq!(lab.vms()[0].death.as_ref(), Some(&death), "in the list");
    let words = cause.replace('_', " ");
    let shown = lab.outlast(&["vm", "show", "web"]).expect_code(0).stdout_text();
    assert!(shown.to_lowercase().contains(&words) || shown.contains(cause), "{cause} is not in\n{shown}");
    if cause != "stopped" && view.summary.state == "stopped" {
        let listed = lab.outlast(&["vm", "ls"]).expect_code(0).stdout_text();
        assert!(listed.contains(&format!("stopped({words})")), "{listed}");
        let refused = lab.outlast(&["vm", "ping", "web"]);
        refused.expect_code(4).expect_stderr(&["web is not running ("]);
    }
    view
}

/// What a program in the guest does to the guest.
fn in_guest(lab: &Lab, line: &str) {
    // However its program is cut off, it is never a success.
    let output = lab.sh("web", line);
    assert_ne!(output.code(), Some(0), "{output}");
}

/// A way to die, and what the certificate says.
type Way = (fn(&Lab), &'static str);

const WAYS: [Way; 11] = [
    (stopped, "stopped"),
    (|lab| in_guest(lab, "echo o > /proc/sysrq-trigger; sleep 60"), "guest_shutdown"),
    (|lab| in_guest(lab, "echo b > /proc/sysrq-trigger; sleep 60"), "guest_shutdown"),
    (|lab| in_guest(lab, "echo c > /proc/sysrq-trigger; sleep 60"), "guest_panic"),
    (
        |lab| in_guest(lab, "echo 2 > /proc/sys/vm/panic_on_oom; tail /dev/zero; sleep 60"),
        "guest_out_of_memory",
    ),
    (|lab| lab.processes_of("web").1.kill(), "vmm_signalled"),
    (|lab| lab.processes_of("web").1.signal(Signal::ABORT), "vmm_signalled"),
    (|lab| lab.processes_of("web").1.signal(Signal::SYS), "vmm_blocked"),
    (|lab| drop(lab.outlast(&["vm", "monitor", "web", "quit"])), "vmm_exited"),
    (|lab| lab.processes_of("web").0.kill(), "runner_killed"),
    (host_rebooted, "host_rebooted"),
];

fn stopped(lab: &Lab) {
    lab.outlast(&["vm", "stop", "web"]).expect_code(0);
}

/// What is found after the host was booted again: nobody is there, and the row is of another boot.
fn host_rebooted(lab: &Lab) {
    lab.processes_of("web").0.kill();
    let store = Connection::open(lab.places().database()).expect("the store can be opened");
    store.busy_timeout(SOON).expect("a timeout can be set");
    let before = "11111111-2222-3333-4444-555555555555";
    let forged = store.execute(
        "UPDATE incarnations SET runner_boot_id = ?1, vmm_boot_id = ?1 WHERE state <> 'ended'",
        [before],
    );
    assert_eq!(forged.expect("the store can be written"), 1);
}

#[test]
fn whatever_a_vm_dies_of_is_on_its_certificate_and_outlives_it() {
    on_lab(|lab| {
        lab.create_vm("web");
        for (die, cause) in WAYS {
            assert!(!lab.start_vm("web").already, "before {cause}");
            die(lab);
            expect_death(lab, cause);
        }
        let id = lab.show_vm("web").summary.id;
        lab.outlast(&["vm", "rm", "web"]).expect_code(0);
        // Another one of that name has nothing to do with it.
        lab.create_vm("web");
        let kept = lab.show_vm(&id);
        assert!(kept.removed_unix_ns.is_some());
        let mut causes: Vec<_> =
            kept.incarnations.iter().map(|i| i.death.as_ref().expect("all").cause.as_str()).collect();
        causes.reverse();
        assert_eq!(causes, WAYS.map(|(_, cause)| cause));
        let signals = kept.incarnations.iter().filter_map(|i| i.death.as_ref()?.signal).collect::<Vec<_>>();
        assert_eq!(signals, [6, 9], "newest first");
    });
}

#[test]
fn a_vm_that_the_host_kills_for_want_of_memory_says_so() {
    on_lab(|lab| {
        let started = lab.running_vm("web");
        let eater = starve(&started.incarnation);
        // Its guest wants more than there is.
        let want = lab.call(&[
            "vm",
            "exec",
            "web",
            "--",
            "sh",
            "-c",
            "cat /dev/zero | head -c 40M > /tmp/x; sleep 60",
        ]);
        let want = want.start();
        let view = expect_death(lab, "host_out_of_memory");
        if let Some(mut eater) = eater {
            eater.wait().expect("it is our own child");
        }
        assert_ne!(want.wait().code(), Some(0));
        let evidence = view.summary.death.expect("a death certificate").evidence.join("; ");
        assert!(evidence.contains("killed for want of memory"), "{evidence}");
        lab.start_vm("web");
    });
}

#[test]
fn long_a_start_that_takes_no_end_has_timed_out() {
    Setup::new().marked_for_proofs().run(|lab| {
        lab.create_vm("web");
        let start = lab.call(&["vm", "start", "web"]).env("OUTLAST_HOLD", "launch-vmm:before").start();
        let evidence = lab.until_held(FaultPoint::named("launch-vmm:before").expect("a fault point"));
        let deadline = Duration::from_secs(62);
        outlast_e2e::deadline::within::<()>(deadline, || None);
        std::fs::remove_file(evidence.hold()).expect("it is held");
        start.wait().expect_code(1).expect_stderr(&["web did not start", "deadline"]);
        let view = expect_death(lab, "timed_out");
        assert_eq!(view.summary.state, "failed");
        lab.start_vm("web");
    });
}

/// Somebody lies in the agent's place, and is found out when the guest goes on after a pause.
fn found_out(lie: &str, cause: &str) {
    Setup::new().library_with_only(&["images", "kernels", "vmm", "canary"]).run(|lab| {
        let libexec = hostile::arm(lab.binaries(), &lab.path("hostile"), lie);
        lab.create_vm("web");
        lab.call(&["vm", "start", "--cold", "--accel", "tcg", "web"])
            .env("OUTLAST_LIBEXEC", libexec)
            .run()
            .expect_code(0);
        lab.outlast(&["vm", "pause", "web"]).expect_code(0);
        let words = format!("web is not running ({}", cause.replace('_', " "));
        lab.outlast(&["vm", "resume", "web"]).expect_code(4).expect_stderr(&[words.as_str()]);
        let evidence = expect_death(lab, cause).summary.death.expect("a death certificate").evidence;
        let said = "could not be certified after it was resumed";
        assert!(evidence.iter().any(|sentence| sentence.contains(said)), "{evidence:?}");
    });
}

#[test]
fn a_guest_that_cannot_be_certified_after_a_pause_is_not_said_to_have_timed_out() {
    found_out("resume/refuse", "not_certified");
}

#[test]
fn a_guest_that_breaks_the_protocol_after_a_pause_is_said_to_have() {
    found_out("resume/malformed", "guest_protocol");
}
