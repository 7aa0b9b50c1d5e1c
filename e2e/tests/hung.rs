//! A guest whose CPUs hang with interrupts off, under the kernel that outlast builds: every deadline is met by the
//! host alone, with the right outcome and cause. That it hangs so is told by what the CPU itself said before it
//! did, and by the host, on which it burns.

use outlast_e2e::call::Running;
use outlast_e2e::control::Control;
use outlast_e2e::hostile::{self, hang};
use outlast_e2e::{Lab, Process, Setup, deadline, library, until};
use outlast_wire::control::{Answer, Request};
use outlast_wire::paths::Evidence;
use outlast_wire::view::{RunView, WorkloadView};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a boot may take, as published, and what comes after it.
const BOOT: Duration = Duration::from_secs(60 + 15);
/// So much of a CPU's time a hung one uses soon, and one that waits never.
const BURNT: Duration = Duration::from_secs(1);

/// A library whose image `trap` is the root file system of `base` with the kernel that has the trap.
fn on_lab_with_trap(body: impl FnOnce(&Lab)) {
    Setup::new().library_with_only(&["vmm", "canary"]).run(|lab| {
        let lean = library::shared().join("lean/kernel/vmlinux");
        let lean = fs::read(lean).expect("the lean kernel is built (outlast image build kernel)");
        let kernel = lab.file("vmlinux", hang::trapped(lean));
        let root_fs = library::shared().join("images/base/rootfs.squashfs");
        let text = |path: &'_ Path| path.to_str().expect("a path of the lab is text").to_owned();
        let (kernel, root_fs) = (text(&kernel), text(&root_fs));
        // It is tried by a boot of its own: the trap harms nobody who does not walk into it.
        lab.outlast(&["image", "add", "trap", "--kernel", &kernel, "--rootfs", &root_fs]).expect_code(0);
        body(lab);
    });
}

fn begin(lab: &Lab, attack: &str, arguments: &[&str]) -> Running {
    let libexec = hostile::arm(lab.binaries(), &lab.path(&attack.replace('/', "-")), attack);
    let mut line = vec!["run", "--json", "--cold", "--accel", "tcg", "--image", "trap"];
    line.extend(arguments);
    line.extend(["--", "true"]);
    lab.call(&line).env("OUTLAST_LIBEXEC", libexec).within(Duration::from_secs(300)).start()
}

/// The workload that is not over, once it is in that state.
fn living(lab: &Lab, state: &str) -> WorkloadView {
    until("it lives", BOOT, || lab.workloads().into_iter().find(|view| view.state == state))
}

fn console(lab: &Lab, view: &WorkloadView) -> String {
    let evidence = Evidence::at(lab.places().incarnations().join(&view.incarnation));
    String::from_utf8_lossy(&fs::read(evidence.console_log()).unwrap_or_default()).into_owned()
}

#[track_caller]
fn until_all_have_said_it(lab: &Lab, view: &WorkloadView, cpus: usize) {
    until("every CPU says that its interrupts are off", BOOT, || {
        // Two that speak at the same time mix their words.
        let text = console(lab, view);
        let sign = hang::SAYS.chars().next_back().expect("it says something");
        (text.chars().filter(|c| *c == sign).count() >= cpus).then_some(())
    });
}

/// What each of the VMM's threads has used of the host's CPUs. Each of its guest's CPUs is one of them.
fn used(vmm: &Process) -> BTreeMap<OsString, Duration> {
    let threads = fs::read_dir(format!("/proc/{}/task", vmm.pid())).into_iter().flatten().flatten();
    let used = |thread: fs::DirEntry| {
        let stat = fs::read_to_string(thread.path().join("stat")).ok()?;
        // The fields behind the name, which may hold anything: state is the first, the two times are 11 further.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        Some((thread.file_name(), Duration::from_millis(10 * ticks)))
    };
    threads.filter_map(used).collect()
}

/// How many of its threads burn [`BURNT`] within that time; as soon as so many do as are wanted.
fn burning(vmm: &Process, wanted: usize, within: Duration) -> usize {
    let before = used(vmm);
    let mut burning = 0;
    let _ = deadline::within(within, || {
        let now = used(vmm);
        let burns = |(thread, before): (&OsString, &Duration)| now.get(thread) >= Some(&(*before + BURNT));
        burning = before.iter().filter(|thread| burns(*thread)).count();
        (burning >= wanted).then_some(())
    });
    burning
}

/// A runner that answers at once, and a guest behind it that does not.
#[track_caller]
fn expect_silence(lab: &Lab, view: &WorkloadView) {
    let control = Control::connect(&lab.places().run().join(&view.incarnation));
    let mut control = control.expect("its runner listens");
    let began = Instant::now();
    let ping = control.ask(&Request::Ping).expect("it answers");
    assert!(matches!(ping, Answer::Pong { .. }), "the runner lives: {ping:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let probe = control.ask(&Request::Probe).expect("it answers");
    assert!(matches!(probe, Answer::Refused { .. }), "the guest does not: {probe:?}");
}

#[track_caller]
fn expect_timed_out(lab: &Lab, running: Running, limit_ms: f64) {
    let view: RunView = running.wait().expect_code(124).json();
    assert_eq!(view.outcome.kind, "timed_out", "{view:#?}");
    let exec = view.timings_ms.exec.expect("it was started");
    assert!((limit_ms..limit_ms + 1000.0).contains(&exec), "{exec} ms");
    assert_eq!(lab.show(&view.id).death.expect("it is dead").cause, "timed_out");
}

#[test]
fn a_guest_that_hangs_with_interrupts_off_meets_the_deadline() {
    on_lab_with_trap(|lab| {
        let running = begin(lab, "started/interrupts", &["--timeout", "30s"]);
        let view = living(lab, "running");
        until_all_have_said_it(lab, &view, 1);
        let said = console(lab, &view);
        assert!(said.ends_with(hang::SAYS), "nothing is said behind it: {said:?}");
        assert_eq!(burning(&lab.vmm(&lab.runner()), 1, Duration::from_secs(20)), 1, "it does not wait");
        expect_silence(lab, &view);
        assert_eq!(console(lab, &view), said, "a CPU that hangs says nothing more");
        expect_timed_out(lab, running, 30_000.0);
    });
}

/// The control of the test above: an agent that is merely silent says nothing of interrupts and burns nothing.
#[test]
fn an_agent_that_is_merely_silent_is_told_from_a_guest_that_hangs() {
    on_lab_with_trap(|lab| {
        let running = begin(lab, "started/silence", &["--timeout", "15s"]);
        let view = living(lab, "running");
        assert_eq!(burning(&lab.vmm(&lab.runner()), 1, Duration::from_secs(8)), 0, "it waits");
        assert!(!console(lab, &view).contains(hang::SAYS));
        expect_timed_out(lab, running, 15_000.0);
    });
}

#[test]
fn a_guest_both_of_whose_cpus_hang_is_killed_on_request() {
    on_lab_with_trap(|lab| {
        let running = begin(lab, "started/interrupts", &["--timeout", "300s", "--vcpus", "2"]);
        let view = living(lab, "running");
        until_all_have_said_it(lab, &view, 2);
        assert_eq!(burning(&lab.vmm(&lab.runner()), 2, Duration::from_secs(120)), 2, "both hang");
        let began = Instant::now();
        lab.outlast(&["kill", &view.id]).expect_code(0);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        let over: RunView = running.wait().expect_code(137).json();
        assert_eq!(over.outcome.kind, "killed", "{over:#?}");
    });
}

#[test]
fn long_a_guest_that_hangs_while_it_boots_is_not_started_at_the_boots_deadline() {
    on_lab_with_trap(|lab| {
        let began = Instant::now();
        let running = begin(lab, "hello/interrupts", &[]);
        let view = living(lab, "starting");
        until_all_have_said_it(lab, &view, 1);
        let over: RunView = running.wait().expect_code(125).json();
        let outcome = &over.outcome;
        assert_eq!((outcome.kind.as_str(), outcome.step.as_deref()), ("not_started", Some("agent-hello")));
        assert!(outcome.cause.as_deref().unwrap_or_default().contains("deadline"), "{outcome:?}");
        assert!(began.elapsed() < BOOT, "{:?}", began.elapsed());
        assert_eq!(lab.show(&over.id).death.expect("it is dead").cause, "timed_out");
    });
}
