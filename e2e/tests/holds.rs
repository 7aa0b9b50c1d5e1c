//! The runner is killed at every fault point, before and after each step: never a leak, never a false
//! success, and the next run works.

use outlast_e2e::{Setup, on_lab};
use outlast_prove::FaultPoint;
use outlast_wire::journal::{Journal, JournalEntry};
use std::fs;
use std::time::Duration;

#[track_caller]
fn killed_at(name: &str) {
    let point = FaultPoint::named(name).expect("a fault point");
    Setup::new().marked_for_proofs().run(|lab| {
        // Baseline: it works, and the template exists, so that the held runner is the workload's own.
        lab.python("print('before')", &[]).run().expect_code(0);
        let running = lab.python("print('held')", &["--json"]).env("OUTLAST_HOLD", name).start();
        let evidence = lab.until_held(point);
        // Its pidfd is closed at once: it would be a file left open by this test.
        lab.runner().kill();
        let output = running.wait();
        output.expect_code(125);
        let id = output.json::<serde_json::Value>()["id"].as_str().expect("an id").to_owned();
        let view = lab.show(&id);
        assert!(evidence.path().ends_with(&view.incarnation));
        let outcome = view.outcome.clone().expect("it is over");
        if point.is_published() {
            assert_eq!(outcome.kind, "lost", "it may have run: {view:#?}");
            assert_eq!(view.death.expect("a death certificate").cause, "runner_killed");
        } else {
            assert_eq!(outcome.kind, "not_started", "it never ran: {view:#?}");
            let step = outcome.step.expect("the step");
            assert!(step == point.step() || Some(step.as_str()) == point.next_step(), "{step} at {name}");
        }
        assert!(outcome.cause.is_some_and(|cause| !cause.is_empty()));
        lab.expect_nothing_left();
        lab.python("print('after')", &[]).run().expect_code(0).expect_stdout("after\n");
    });
}

macro_rules! killed_at {
    ($($test:ident = $point:literal),+ $(,)?) => {
        $(#[test] fn $test() { killed_at($point); })+
        const POINTS: &[&str] = &[$($point),+];
    };
}

killed_at! {
    runner_killed_before_claim_leaves_nothing = "claim:before",
    runner_killed_after_claim_leaves_nothing = "claim:after",
    runner_killed_before_run_directory_leaves_nothing = "run-directory:before",
    runner_killed_after_run_directory_leaves_nothing = "run-directory:after",
    runner_killed_before_disks_leaves_nothing = "disks:before",
    runner_killed_after_disks_leaves_nothing = "disks:after",
    runner_killed_before_launch_vmm_leaves_nothing = "launch-vmm:before",
    runner_killed_after_launch_vmm_leaves_nothing = "launch-vmm:after",
    runner_killed_before_start_guest_leaves_nothing = "start-guest:before",
    runner_killed_after_start_guest_leaves_nothing = "start-guest:after",
    runner_killed_before_agent_hello_leaves_nothing = "agent-hello:before",
    runner_killed_after_agent_hello_leaves_nothing = "agent-hello:after",
    runner_killed_before_certify_leaves_nothing = "certify:before",
    runner_killed_after_certify_leaves_nothing = "certify:after",
    runner_killed_before_inputs_leaves_nothing = "inputs:before",
    runner_killed_after_inputs_leaves_nothing = "inputs:after",
    runner_killed_before_publish_leaves_nothing = "publish:before",
    runner_killed_after_publish_leaves_nothing = "publish:after",
    runner_killed_before_start_program_leaves_nothing = "start-program:before",
    runner_killed_after_start_program_leaves_nothing = "start-program:after",
}

#[test]
fn every_fault_point_has_a_test() {
    let all: Vec<String> = FaultPoint::all().into_iter().map(FaultPoint::name).collect();
    assert_eq!(POINTS, all, "the list above is the table of steps, in its order");
}

#[test]
fn a_held_run_goes_on_as_if_nothing_had_been_when_it_is_released() {
    Setup::new().marked_for_proofs().run(|lab| {
        lab.python("pass", &[]).run().expect_code(0);
        let running = lab.python("print('released')", &[]).env("OUTLAST_HOLD", "launch-vmm:after").start();
        let evidence = lab.until_held(FaultPoint::named("launch-vmm:after").unwrap());
        fs::remove_file(evidence.hold()).unwrap();
        running.wait().expect_code(0).expect_stdout("released\n");
        let journal = Journal::parse(&fs::read(evidence.journal()).unwrap());
        let released =
            |line: &outlast_wire::journal::JournalLine| matches!(line.entry, JournalEntry::Released { .. });
        assert!(journal.lines.iter().any(released));
    });
}

#[test]
fn a_home_that_is_not_marked_ignores_holds() {
    on_lab(|lab| {
        let running = lab.python("print('not held')", &[]).env("OUTLAST_HOLD", "claim:before");
        running.run().expect_code(0).expect_stdout("not held\n");
        for evidence in lab.incarnations() {
            let journal = Journal::parse(&fs::read(evidence.journal()).unwrap());
            assert!(!journal.lines.iter().any(|line| matches!(line.entry, JournalEntry::Held { .. })));
        }
    });
}

#[test]
fn a_hold_that_names_no_fault_point_is_bad_input() {
    Setup::new().marked_for_proofs().run(|lab| {
        let output = lab.python("pass", &[]).env("OUTLAST_HOLD", "lunch:before").run();
        output.expect_code(125).expect_stderr(&["lunch", "certify"]);
        assert!(lab.workloads().is_empty());
    });
}

#[test]
fn a_client_that_is_killed_while_its_runner_is_held_ends_the_run_once_it_is_released() {
    Setup::new().marked_for_proofs().run(|lab| {
        lab.python("pass", &[]).run().expect_code(0);
        let running = lab.python("print('x')", &[]).env("OUTLAST_HOLD", "certify:before").start();
        let evidence = lab.until_held(FaultPoint::named("certify:before").unwrap());
        running.kill();
        let _ = fs::remove_file(evidence.hold());
        let id = lab.workloads().remove(0).id;
        let outcome = lab.until_over(&id, Duration::from_secs(30)).outcome.unwrap();
        assert_eq!((outcome.kind.as_str(), outcome.by.as_deref()), ("killed", Some("client gone")));
    });
}

#[test]
fn the_journal_of_a_run_has_every_step_begun_and_done_in_order() {
    on_lab(|lab| {
        lab.python("pass", &[]).run().expect_code(0);
        let evidence = lab.incarnations().pop().unwrap();
        let journal = Journal::parse(&fs::read(evidence.journal()).unwrap());
        assert_eq!(journal.torn_at, None);
        let steps: Vec<String> = journal
            .lines
            .iter()
            .filter_map(|line| match &line.entry {
                JournalEntry::Step { step, phase, error: None } => Some(format!("{step}:{phase:?}")),
                _ => None,
            })
            .collect();
        let mut expected = Vec::new();
        for point in FaultPoint::all() {
            let phase = if point.name().ends_with(":before") { "Begin" } else { "Done" };
            expected.push(format!("{}:{phase}", point.step()));
        }
        let boot: Vec<String> = steps.into_iter().filter(|step| expected.contains(step)).collect();
        assert_eq!(boot, expected);
        let times: Vec<u64> = journal.lines.iter().map(|line| line.monotonic_ns).collect();
        assert!(times.is_sorted(), "time does not run backwards: {times:?}");
    });
}
