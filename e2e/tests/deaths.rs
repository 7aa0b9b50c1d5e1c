//! Everything that can die while code runs is killed, one by one: each time the right outcome, with its
//! cause, and nothing left.

use outlast_e2e::call::Running;
use outlast_e2e::{Lab, Process, Setup, on_lab, until};
use outlast_prove::FaultPoint;
use outlast_wire::view::WorkloadView;
use rustix::process::Signal;
use std::time::{Duration, SystemTime};

const SOON: Duration = Duration::from_secs(10);
/// Runs for longer than any test.
const LONG: &str = "import time\nprint('up')\ntime.sleep(600)\nprint('never')\n";

/// Starts a long program in the foreground and waits until it has printed its first line.
fn foreground(lab: &Lab) -> (Running, WorkloadView, Process) {
    let mut running = lab.python(LONG, &["--timeout", "700s"]).start();
    assert_eq!(running.line(0, Duration::from_secs(250)).text, "up");
    let runner = lab.runner();
    (running, lab.only_workload(), runner)
}

/// Starts a long program detached and waits until it has printed its first line.
fn detached(lab: &Lab) -> (String, Process) {
    let id = lab.python(LONG, &["--timeout", "700s", "--detach"]).run().expect_code(0).stdout_text();
    let id = id.trim().to_owned();
    until("the program prints", Duration::from_secs(60), || {
        (lab.outlast(&["logs", &id]).stdout == b"up\n").then_some(())
    });
    (id, lab.runner())
}

#[track_caller]
fn expect_end(view: &WorkloadView, kind: &str, death: &str) {
    let outcome = view.outcome.as_ref().expect("it is over");
    assert_eq!(outcome.kind, kind, "{view:#?}");
    assert_eq!(view.state, kind);
    let certificate = view.death.as_ref().expect("there is a death certificate");
    assert_eq!(certificate.cause, death, "{view:#?}");
}

#[test]
fn killing_the_client_of_a_foreground_run_kills_the_run_and_says_client_gone() {
    on_lab(|lab| {
        let (running, view, runner) = foreground(lab);
        assert_eq!(running.kill().signal(), Some(9));
        let view = lab.until_over(&view.id, SOON);
        expect_end(&view, "killed", "stopped");
        assert_eq!(view.outcome.unwrap().by.as_deref(), Some("client gone"));
        until("the runner is gone", SOON, || runner.is_dead().then_some(()));
    });
}

#[test]
fn killing_the_client_kills_a_run_with_an_idempotency_key_too() {
    on_lab(|lab| {
        let mut running = lab.python(LONG, &["--timeout", "700s", "--idempotency-key", "k"]).start();
        running.line(0, Duration::from_secs(250));
        let id = lab.only_workload().id;
        running.kill();
        assert_eq!(lab.until_over(&id, SOON).outcome.unwrap().by.as_deref(), Some("client gone"));
    });
}

#[test]
fn interrupting_a_foreground_run_as_a_terminal_does_kills_it() {
    on_lab(|lab| {
        let (running, view, _) = foreground(lab);
        running.signal(Signal::INT);
        let output = running.wait();
        assert_eq!(output.code(), Some(137), "{output}");
        let view = lab.until_over(&view.id, SOON);
        expect_end(&view, "killed", "stopped");
        assert_eq!(output.stdout_text(), "up\n");
    });
}

#[test]
fn a_terminal_that_goes_away_kills_a_foreground_run() {
    on_lab(|lab| {
        let (running, view, _) = foreground(lab);
        running.signal(Signal::HUP);
        drop(running.wait());
        expect_end(&lab.until_over(&view.id, SOON), "killed", "stopped");
    });
}

/// A client and this test are of one session: what ends that whole session must not reach the runner.
#[track_caller]
fn expect_own_session(runner: &Process) {
    // As our namespace numbers it; 0 is a session that began outside of it, as the test's own does.
    let outermost = |ids: Option<String>| ids?.split_whitespace().next()?.parse::<u32>().ok();
    let its = outermost(runner.status("NSsid")).expect("a living process is in a session");
    let status = std::fs::read_to_string("/proc/self/status").expect("our own status can be read");
    let ours = status.lines().find_map(|line| line.strip_prefix("NSsid:")).map(str::to_owned);
    assert!(!runner.is_dead(), "the signal missed it, and what was read is its own");
    assert!(its != 0 && Some(its) != outermost(ours), "the runner is in a session of its own, not in {its}");
}

#[test]
fn a_detached_run_outlives_its_client_and_completes() {
    Setup::new().marked_for_proofs().run(|lab| {
        let code = "import time\nprint('up')\ntime.sleep(3)\nprint('done')\n";
        lab.python("pass", &[]).run().expect_code(0);
        let mut running = lab.python(code, &["--detach"]).env("OUTLAST_HOLD", "certify:before").start();
        let evidence = lab.until_held(FaultPoint::named("certify:before").unwrap());
        let id = running.line(0, SOON).text;
        until("the client leaves by itself", SOON, || (!running.is_running()).then_some(()));
        // Whatever it left in its process group dies here, long before the program is started.
        running.kill().expect_code(0);
        expect_own_session(&lab.runner());
        assert!(evidence.hold().exists() && lab.show(&id).outcome.is_none(), "the runner is still held");
        std::fs::remove_file(evidence.hold()).unwrap();
        let view = lab.until_over(&id, Duration::from_secs(120));
        expect_end(&view, "completed", "stopped");
        lab.outlast(&["logs", &id]).expect_code(0).expect_stdout("up\ndone\n");
    });
}

#[test]
fn a_killed_runner_is_lost_and_everything_of_it_is_gone_at_once() {
    on_lab(|lab| {
        let (running, view, runner) = foreground(lab);
        let vmm = lab.vmm(&runner);
        let killed = SystemTime::now();
        runner.kill();
        until("the kernel has taken the VMM along", Duration::from_millis(500), || {
            vmm.is_dead().then_some(())
        });
        eprintln!("runner and VMM gone after {:?}", killed.elapsed().unwrap());
        // The client notices by itself, and tells.
        let output = running.wait();
        output.expect_code(125).expect_stderr(&["lost"]);
        let view = lab.show(&view.id);
        expect_end(&view, "lost", "runner_killed");
        assert!(view.outcome.unwrap().cause.unwrap().contains("runner"));
        assert_eq!(view.death.unwrap().by, "reconciler");
        assert_eq!(output.stdout_text(), "up\n", "what was printed before is kept");
    });
}

#[test]
fn a_killed_runner_of_a_detached_run_is_found_by_whoever_looks_next() {
    on_lab(|lab| {
        let (id, runner) = detached(lab);
        runner.kill();
        let all = lab.workloads();
        assert_eq!((all.len(), all[0].id.as_str()), (1, id.as_str()));
        expect_end(&all[0], "lost", "runner_killed");
        lab.outlast(&["logs", &id]).expect_code(0).expect_stdout("up\n");
    });
}

#[test]
fn a_killed_vmm_is_lost_with_its_signal_on_the_death_certificate() {
    on_lab(|lab| {
        let (running, view, runner) = foreground(lab);
        lab.vmm(&runner).kill();
        running.wait().expect_code(125).expect_stderr(&["lost"]);
        let view = lab.show(&view.id);
        expect_end(&view, "lost", "vmm_signalled");
        let death = view.death.unwrap();
        assert_eq!((death.signal, death.by.as_str()), (Some(9), "runner"));
        assert!(!death.evidence.is_empty());
        until("the runner leaves after its VMM", SOON, || runner.is_dead().then_some(()));
    });
}

#[test]
fn a_vmm_that_aborts_is_lost_with_that_signal() {
    on_lab(|lab| {
        let (running, view, runner) = foreground(lab);
        lab.vmm(&runner).signal(Signal::ABORT);
        running.wait().expect_code(125);
        let death = lab.show(&view.id).death.unwrap();
        assert_eq!((death.cause.as_str(), death.signal), ("vmm_signalled", Some(6)));
    });
}

#[test]
fn a_kill_request_kills_and_the_client_sees_137() {
    on_lab(|lab| {
        let (running, view, _) = foreground(lab);
        lab.outlast(&["kill", &view.id]).expect_code(0);
        running.wait().expect_code(137);
        let view = lab.show(&view.id);
        expect_end(&view, "killed", "stopped");
        assert_eq!(view.outcome.unwrap().by.as_deref(), Some("request"));
    });
}

#[test]
fn a_runner_told_to_terminate_ends_its_run_as_killed() {
    on_lab(|lab| {
        let (running, view, runner) = foreground(lab);
        runner.signal(Signal::TERM);
        running.wait().expect_code(137);
        let view = lab.show(&view.id);
        expect_end(&view, "killed", "stopped");
        assert_eq!(view.outcome.unwrap().by.as_deref(), Some("host signal"));
    });
}

#[test]
fn a_stopped_runner_that_has_been_silent_for_ten_seconds_is_killed_and_lost() {
    on_lab(|lab| {
        let (id, runner) = detached(lab);
        let incarnation = lab.show(&id).incarnation;
        let heartbeat = lab.places().run().join(incarnation).join("heartbeat");
        runner.signal(Signal::STOP);
        // While it is silent for less than that, nobody touches it.
        assert!(lab.show(&id).outcome.is_none());
        let silent = || {
            let beat = std::fs::metadata(&heartbeat).ok()?.modified().ok()?;
            (beat.elapsed().ok()? > Duration::from_millis(10_500)).then_some(())
        };
        until("it has been silent for ten seconds", Duration::from_secs(20), silent);
        assert!(!runner.is_dead(), "it is stopped and not dead: nobody has looked yet");
        let all = lab.workloads();
        expect_end(&all[0], "lost", "runner_killed");
        assert!(runner.is_dead());
    });
}

#[test]
fn a_stopped_vmm_does_not_hold_up_the_deadline() {
    on_lab(|lab| {
        let mut running = lab.python(LONG, &["--timeout", "5s"]).start();
        running.line(0, Duration::from_secs(250));
        let runner = lab.runner();
        lab.vmm(&runner).signal(Signal::STOP);
        running.wait().expect_code(124);
        expect_end(&lab.only_workload(), "timed_out", "timed_out");
    });
}

#[test]
fn a_workload_cannot_power_off_its_guest() {
    on_lab(|lab| {
        let code = "import ctypes, os\nprint(ctypes.CDLL(None, use_errno=True).reboot(0x4321fedc), os.getuid() != 0)\n";
        lab.python(code, &[]).run().expect_code(0).expect_stdout("-1 True\n");
    });
}

#[test]
fn a_workload_cannot_panic_its_guest() {
    on_lab(|lab| {
        let code = "try:\n    open('/proc/sysrq-trigger', 'w').write('c')\nexcept OSError as error:\n    print('refused')\n";
        lab.python(code, &[]).run().expect_code(0).expect_stdout("refused\n");
    });
}

#[test]
fn killing_the_client_while_the_vm_is_still_starting_leaves_nothing() {
    Setup::new().run(|lab| {
        let running = lab.python(LONG, &["--cold"]).start();
        let runner = lab.runner();
        running.kill();
        until("the runner is gone", SOON, || runner.is_dead().then_some(()));
        let view = lab.only_workload();
        let outcome = view.outcome.expect("it is over");
        assert_eq!((outcome.kind.as_str(), outcome.by.as_deref()), ("killed", Some("client gone")));
    });
}
