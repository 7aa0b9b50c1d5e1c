//! Real stores and real processes; the processes only play runners.

use super::*;
use crate::testing::{Stage, accept, identity_of_child, sleeper};
use outlast_model::workload::WorkloadEvent;
use outlast_model::{Killer, WorkloadState};
use outlast_wire::journal::{JournalEntry, JournalLine, StepPhase};
use std::time::Duration;

fn outcome_of(stage: &Stage) -> Outcome {
    match stage.site.store().unwrap().workload(stage.workload).unwrap().unwrap().state {
        WorkloadState::Over(outcome) => outcome,
        other => panic!("not over: {}", other.name()),
    }
}

fn cause_of(row: &IncarnationRow) -> &str {
    &row.death.as_ref().unwrap().cause
}

#[test]
fn an_intent_that_nobody_claims_is_left_alone_while_it_is_young() {
    let stage = accept(Duration::ZERO);
    assert!(matches!(reconcile(&stage.site, stage.incarnation), Ok(Standing::Lives(_))));
}

#[test]
fn an_old_intent_that_nobody_claimed_never_started() {
    let stage = accept(Duration::from_secs(60));
    std::fs::create_dir_all(stage.site.places().evidence(stage.incarnation).input_files()).unwrap();
    let Ok(Standing::Over(row)) = reconcile(&stage.site, stage.incarnation) else { panic!() };
    assert_eq!(cause_of(&row), "never_claimed");
    assert!(matches!(outcome_of(&stage), Outcome::NotStarted { step: outlast_model::BootStep::Claim, .. }));
    let evidence = stage.site.places().evidence(stage.incarnation);
    assert!(!evidence.input().exists() && evidence.path().exists(), "input goes, evidence stays");
    // Once more finds it as it is.
    assert!(matches!(reconcile(&stage.site, stage.incarnation), Ok(Standing::Over(_))));
}

#[test]
fn a_runner_that_is_gone_before_it_claimed_is_quoted_and_not_waited_for() {
    let stage = accept(Duration::ZERO);
    let log = stage.site.places().evidence(stage.incarnation).runner_log();
    std::fs::write(log, "no cgroups here\n").unwrap();
    let row = settle(&stage.site, stage.incarnation).unwrap();
    assert_eq!(cause_of(&row), "never_claimed");
    assert!(outcome_of(&stage).to_string().contains("no cgroups here"));
}

#[test]
fn an_interrupted_preparation_is_cleared_away_and_nothing_else() {
    let stage = accept(Duration::ZERO);
    let places = stage.site.places();
    let made = || {
        let id = crate::incarnation::new_id().unwrap();
        let preparation = crate::incarnation::make_evidence(&stage.site, id).unwrap();
        std::fs::create_dir(places.evidence(id).input()).unwrap();
        (places.evidence(id), preparation)
    };
    let ((left, dead), (busy, _alive), (kept, over)) = (made(), made(), made());
    std::fs::write(kept.runner_log(), "of a store that is gone").unwrap();
    drop((dead, over));
    assert!(reconcile_all(&stage.site).unwrap().is_empty());
    assert!(!left.path().exists() && busy.path().exists() && kept.path().exists());
    assert!(places.evidence(stage.incarnation).path().exists(), "it has a row");
}

#[test]
fn a_preparation_that_never_got_its_name_is_cleared_away_once_it_is_old() {
    let stage = accept(Duration::ZERO);
    let directory = |age: Duration| {
        let name = format!("{}{}", crate::incarnation::PREPARING, crate::incarnation::new_id().unwrap());
        let path = stage.site.places().incarnations().join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::File::open(&path).unwrap().set_modified(std::time::SystemTime::now() - age).unwrap();
        path
    };
    let hour = Duration::from_secs(3600);
    let (young, old, locked) = (directory(Duration::ZERO), directory(24 * hour), directory(hour));
    let _alive = crate::incarnation::take_over(&locked).unwrap();
    assert!(reconcile_all(&stage.site).unwrap().is_empty());
    assert!(young.exists() && locked.exists(), "somebody may be at work");
    assert!(!old.exists());
}

#[test]
fn the_age_of_an_intent_does_not_depend_on_the_wall_clock() {
    let boot_id = outlast_machine::process::boot_id().unwrap();
    let now = u64::try_from(clock::since_boot().as_nanos()).unwrap();
    let accepted = |boot_id: &str, ago| {
        let change = |intent: &mut outlast_wire::intent::Intent| {
            intent.requested_boot_id = Some(boot_id.to_owned());
            intent.requested_monotonic_ns = Some(now);
        };
        crate::testing::accept_changed(ago, change)
    };
    let stepped = accepted(&boot_id, Duration::from_secs(3600));
    assert!(matches!(reconcile(&stepped.site, stepped.incarnation), Ok(Standing::Lives(_))));
    let rebooted = accepted("another boot", Duration::ZERO);
    let Ok(Standing::Over(row)) = reconcile(&rebooted.site, rebooted.incarnation) else { panic!() };
    assert_eq!(cause_of(&row), "never_claimed");
    assert!(outcome_of(&rebooted).to_string().contains("booted again"));
}

#[test]
fn a_launcher_that_failed_is_the_cause() {
    let stage = accept(Duration::ZERO);
    abandon(&stage.site, stage.incarnation, "no cgroups here").unwrap();
    assert!(outcome_of(&stage).to_string().contains("no cgroups here"));
}

#[test]
fn a_runner_that_died_while_booting_says_not_started_with_the_step() {
    let stage = accept(Duration::ZERO);
    let mut child = sleeper();
    stage.claim(&identity_of_child(&child));
    let entry = JournalEntry::Step { step: "launch-vmm".to_owned(), phase: StepPhase::Begin, error: None };
    let line = serde_json::to_string(&JournalLine { unix_ns: 1, monotonic_ns: 1, entry }).unwrap();
    std::fs::write(stage.site.places().evidence(stage.incarnation).journal(), line).unwrap();
    assert!(matches!(reconcile(&stage.site, stage.incarnation), Ok(Standing::Lives(_))), "it lives");
    child.kill().unwrap();
    child.wait().unwrap();
    let row = settle(&stage.site, stage.incarnation).unwrap();
    assert_eq!(cause_of(&row), "runner_killed");
    assert!(matches!(
        outcome_of(&stage),
        Outcome::NotStarted { step: outlast_model::BootStep::LaunchVmm, .. }
    ));
}

#[test]
fn a_runner_that_died_while_running_means_lost() {
    let stage = accept(Duration::ZERO);
    let mut child = sleeper();
    let identity = identity_of_child(&child);
    stage.claim(&identity);
    stage.publish(&identity);
    child.kill().unwrap();
    child.wait().unwrap();
    reconcile(&stage.site, stage.incarnation).unwrap();
    assert!(matches!(outcome_of(&stage), Outcome::Lost { .. }));
}

#[test]
fn a_silent_runner_is_given_a_last_chance_and_then_killed() {
    let stage = accept(Duration::ZERO);
    let mut child = sleeper();
    let identity = identity_of_child(&child);
    stage.claim(&identity);
    stage.publish(&identity);
    let run = stage.site.places().run_directory(stage.incarnation);
    std::fs::create_dir_all(run.path()).unwrap();
    std::fs::write(run.heartbeat(), "00000000000000000001\n").unwrap();
    let Ok(Standing::Over(row)) = reconcile(&stage.site, stage.incarnation) else { panic!() };
    assert_eq!(cause_of(&row), "runner_killed");
    assert!(row.death.unwrap().evidence[0].contains("heart"));
    assert!(!child.wait().unwrap().success());
    assert!(!run.path().exists());
}

#[test]
fn a_runner_whose_heart_beats_is_left_alone() {
    let stage = accept(Duration::ZERO);
    let mut child = sleeper();
    stage.claim(&identity_of_child(&child));
    let run = stage.site.places().run_directory(stage.incarnation);
    std::fs::create_dir_all(run.path()).unwrap();
    std::fs::write(run.heartbeat(), format!("{:020}\n", clock::since_boot().as_nanos())).unwrap();
    assert!(matches!(reconcile(&stage.site, stage.incarnation), Ok(Standing::Lives(_))));
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn of_a_runner_in_another_namespace_nothing_is_said() {
    let stage = accept(Duration::ZERO);
    let mut child = sleeper();
    let mut identity = identity_of_child(&child);
    identity.observer_namespace += 1;
    stage.claim(&identity);
    let refused = reconcile(&stage.site, stage.incarnation).unwrap_err();
    assert!(matches!(refused, Error::Reconcile(ReconcileError::Undecided { .. })), "{refused}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(reconcile(&stage.site, stage.incarnation).is_err(), "not even when it is dead");
}

#[test]
fn after_a_reboot_nothing_of_before_lives() {
    let stage = accept(Duration::ZERO);
    let mut child = sleeper();
    let mut identity = identity_of_child(&child);
    identity.boot_id = "another boot".to_owned();
    stage.claim(&identity);
    let Ok(Standing::Over(row)) = reconcile(&stage.site, stage.incarnation) else { panic!() };
    assert_eq!(cause_of(&row), "host_rebooted");
    assert!(child.try_wait().unwrap().is_none(), "whoever has the pid now is not touched");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_workload_whose_runner_does_not_answer_is_killed_all_the_same() {
    let stage = accept(Duration::ZERO);
    let mut child = sleeper();
    let identity = identity_of_child(&child);
    stage.claim(&identity);
    stage.publish(&identity);
    let (id, outcome) = crate::workload::kill(&stage.site, &stage.workload.to_string()).unwrap();
    assert_eq!((id, outcome), (stage.workload, Outcome::Killed { by: Killer::Request }));
    assert!(!child.wait().unwrap().success());
    let again = crate::workload::kill(&stage.site, &stage.workload.to_string()).unwrap_err();
    assert!(matches!(again, Error::Workload(crate::WorkloadError::Over { .. })));
}

#[test]
fn a_workload_that_nobody_claimed_yet_is_killed_at_once() {
    let stage = accept(Duration::ZERO);
    let (_, outcome) = crate::workload::kill(&stage.site, &stage.workload.to_string()).unwrap();
    assert_eq!(outcome, Outcome::Killed { by: Killer::Request });
    // A runner that comes too late can claim nothing.
    let mut child = sleeper();
    let late = stage.site.store().unwrap().claim(stage.incarnation, &identity_of_child(&child), 1);
    assert!(late.is_err());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn what_the_reconciler_says_is_what_the_model_allows() {
    // The store checks it too; this keeps the two from being wrong together.
    let lost = Outcome::Lost { cause: String::new() };
    assert!(WorkloadState::Running.step(WorkloadEvent::Ended(lost)).is_ok());
}

#[test]
fn what_is_given_up_before_it_was_claimed_was_stopped() {
    let stage = accept(Duration::ZERO);
    assert!(give_up(&stage.site, stage.incarnation, "a stop was requested").unwrap());
    assert!(!give_up(&stage.site, stage.incarnation, "again").unwrap());
    let Ok(Standing::Over(row)) = reconcile(&stage.site, stage.incarnation) else { panic!() };
    let death = row.death.unwrap();
    assert_eq!((death.cause.as_str(), death.evidence[0].as_str()), ("stopped", "a stop was requested"));
}
