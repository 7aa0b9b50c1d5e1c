//! Holds themselves: where a runner stands still, and what it does when it is let go. What is done to it there is
//! in `crash_points`.

use outlast_e2e::crash::{Case, Fault};
use outlast_e2e::{Setup, on_lab};
use outlast_prove::{FaultPoint, Place, Walker};
use outlast_wire::journal::{Journal, JournalEntry};
use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

/// The cases themselves are tests of `crash_points`, each with its own name.
#[test]
fn every_fault_point_has_a_test() {
    // Those that only VMs pass are tried in `crash_points`, too.
    let of_vms: Vec<_> = FaultPoint::of_a_vms_start().into_iter().map(|(point, _)| point).collect();
    let (of_workloads, others): (Vec<_>, Vec<_>) =
        FaultPoint::all().into_iter().partition(|point| point.is_a_workloads());
    assert!(others.iter().all(|point| of_vms.contains(point)), "{others:?}");
    for point in of_workloads {
        let of_it = || Case::sensible().into_iter().filter(|case| case.point == point);
        let is_long = |case: &Case| case.fault == Fault::Runner || case.fault == Fault::Launcher;
        assert!(of_it().any(|case| is_long(&case)), "somebody dies at {}", point.name());
    }
    let places: BTreeSet<Place> = Case::representatives().iter().map(|case| case.point.place()).collect();
    let of_workloads = Place::all().into_iter().filter(|place| place.is_passed_by(Walker::Workload));
    assert!(places.into_iter().eq(of_workloads), "one of each place is part of every check");
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
        for point in FaultPoint::of_boot().into_iter().filter(|point| point.is_a_workloads()) {
            let phase = if point.name().ends_with(":before") { "Begin" } else { "Done" };
            expected.push(format!("{}:{phase}", point.step()));
        }
        let boot: Vec<String> = steps.into_iter().filter(|step| expected.contains(step)).collect();
        assert_eq!(boot, expected);
        let times: Vec<u64> = journal.lines.iter().map(|line| line.monotonic_ns).collect();
        assert!(times.is_sorted(), "time does not run backwards: {times:?}");
    });
}
