//! The life of rows, one rule at a time.

use crate::testing::{
    SECRET, Scratch, end_with, incarnation_id, intent, new_canary, new_workload, not_started, process,
    program, publication, run_through, workload_id,
};
use crate::{
    Acceptance, ClaimError, EventKind, Found, KillNote, NewIncarnation, Owner, Page, StartedFrom, StoreError,
};
use outlast_model::{IncarnationState, Killer, Outcome, WorkloadState};
use outlast_wire::intent::Purpose;

const ALL: Page = Page { all: true, limit: 100, before: None };
const OPEN: Page = Page { all: false, limit: 100, before: None };

#[test]
fn a_run_leaves_everything_it_was_told() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let (new, who) = (new_workload(1, Some("key")), process(5));
    assert_eq!(store.accept(&new).unwrap(), Acceptance::New);
    assert_eq!(store.living().unwrap().len(), 1);
    assert_eq!(store.claim(new.incarnation, &who, 2_000).unwrap(), new.intent);
    store.record_vmm(new.incarnation, &who, &process(76), 2_500).unwrap();
    store.publish(new.incarnation, &who, &publication()).unwrap();
    let exited = Outcome::Exited { code: 3 };
    store.end(new.incarnation, &Owner::Runner(&who), &end_with(Some(&exited))).unwrap();

    let workload = store.workload(new.id).unwrap().unwrap();
    assert_eq!(workload.spec, new.spec);
    assert_eq!(workload.state, WorkloadState::Over(exited));
    assert_eq!(store.workload_by_key("key").unwrap(), Some(new.id));
    assert_eq!(store.workload_by_key("another").unwrap(), None);
    assert_eq!((workload.incarnation, workload.idempotency_key.as_deref()), (new.incarnation, Some("key")));
    assert_eq!((workload.created_unix_ns, workload.ended_unix_ns), (1_001, Some(4_000)));
    let row = store.incarnation(new.incarnation).unwrap().unwrap();
    assert_eq!((row.state, row.workload), (IncarnationState::Ended, Some(new.id)));
    assert_eq!((row.runner, row.vmm), (Some(who), Some(process(77))));
    assert_eq!((row.started_from, row.certificate), (Some(StartedFrom::Clone), publication().certificate));
    assert_eq!((row.timings.ready, row.timings.exec, row.timings.total), (Some(55.5), Some(1.5), Some(60.0)));
    assert_eq!(
        (row.claimed_unix_ns, row.running_unix_ns, row.ended_unix_ns),
        (Some(2_000), Some(3_000), Some(4_000))
    );
    assert_eq!((row.output_log_bytes, row.death), (123, Some(end_with(None).death)));
    assert!(store.living().unwrap().is_empty());
}

#[test]
fn every_change_is_told_and_no_secret_is() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let new = new_workload(1, None);
    run_through(&store, 1);
    store.intend(&new_canary(2)).unwrap();
    let events = store.events(0, 100).unwrap();
    let kinds: Vec<EventKind> = events.iter().map(|event| event.kind).collect();
    assert_eq!(
        kinds,
        [
            EventKind::WorkloadAccepted,
            EventKind::IncarnationClaimed,
            EventKind::IncarnationRunning,
            EventKind::IncarnationEnded,
            EventKind::IncarnationIntended
        ]
    );
    assert_eq!(store.events(2, 2).unwrap(), events[2..4]);
    let row = store.incarnation(new.incarnation).unwrap().unwrap();
    let shown = format!("{events:?} {new:?} {row:?} {:?} {store:?}", store.workload(new.id).unwrap());
    assert!(!shown.contains(SECRET), "{shown}");
    assert!(store.audit_verify().unwrap().is_intact());
}

#[test]
fn a_key_used_again_answers_with_the_first_workload() {
    let scratch = Scratch::new();
    let store = scratch.open();
    assert_eq!(store.accept(&new_workload(1, Some("k"))).unwrap(), Acceptance::New);
    assert_eq!(store.accept(&new_workload(2, Some("k"))).unwrap(), Acceptance::Existing(workload_id(1)));
    assert_eq!(store.accept(&new_workload(1, Some("k"))).unwrap(), Acceptance::Existing(workload_id(1)));
    assert_eq!(store.accept(&new_workload(3, Some("K"))).unwrap(), Acceptance::New);
    assert_eq!(store.workloads(&ALL).unwrap().len(), 2);
    assert_eq!(store.audit_verify().unwrap().count, 2);
}

#[test]
fn requests_that_cannot_be_are_refused_and_write_nothing() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let long = "x".repeat(256);
    for key in ["", &long] {
        let refused = store.accept(&new_workload(1, Some(key)));
        assert!(matches!(refused, Err(StoreError::IdempotencyKey { .. })), "{refused:?}");
    }
    let mut other = new_workload(1, None);
    other.id = workload_id(2);
    assert!(matches!(store.accept(&other), Err(StoreError::IntentMismatch { .. })));
    let purpose = Purpose::Workload { workload: String::new(), program: program(), outputs: false };
    let stray = NewIncarnation { id: incarnation_id(1), intent: intent(purpose), created_unix_ns: 1 };
    assert!(matches!(store.intend(&stray), Err(StoreError::IntentMismatch { .. })));
    let mut late = new_workload(1, None);
    late.created_unix_ns = u64::MAX;
    assert!(matches!(store.accept(&late), Err(StoreError::NumberTooLarge { .. })));
    assert_eq!(store.audit_verify().unwrap().count, 0);
    assert!(store.workloads(&ALL).unwrap().is_empty() && store.living().unwrap().is_empty());
}

#[test]
fn a_taken_id_is_refused_by_name() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let _ = store.accept(&new_workload(1, None)).unwrap();
    assert!(
        matches!(store.accept(&new_workload(1, None)), Err(StoreError::Exists { row }) if row.starts_with("workload"))
    );
    let mut thief = new_workload(2, None);
    thief.incarnation = incarnation_id(1);
    assert!(
        matches!(store.accept(&thief), Err(StoreError::Exists { row }) if row.starts_with("incarnation"))
    );
    assert!(matches!(store.intend(&new_canary(1)), Err(StoreError::Exists { .. })));
    assert_eq!(store.workloads(&ALL).unwrap().len(), 1, "a refused acceptance leaves no half");
}

#[test]
fn only_the_first_claim_wins() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let new = new_workload(1, None);
    let _ = store.accept(&new).unwrap();
    store.claim(new.incarnation, &process(5), 2).unwrap();
    for who in [process(5), process(6)] {
        let second = store.claim(new.incarnation, &who, 3);
        assert!(
            matches!(&second, Err(ClaimError::Taken { state: IncarnationState::Claimed, runner: Some(r), .. }) if *r == process(5)),
            "{second:?}"
        );
    }
    let nobody = store.claim(incarnation_id(9), &process(5), 2);
    assert!(matches!(nobody, Err(ClaimError::Store(StoreError::NoIncarnation { .. }))));
}

/// A process that got the same pid later, after a reboot, or in another namespace is another process.
#[test]
fn every_part_of_an_identity_counts() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let new = new_workload(1, None);
    let _ = store.accept(&new).unwrap();
    let who = process(5);
    store.claim(new.incarnation, &who, 2).unwrap();
    let mut strangers = [who.clone(), who.clone(), who.clone(), who.clone(), who.clone()];
    strangers[0].pid += 1;
    strangers[1].start_time += 1;
    strangers[2].boot_id.push('x');
    strangers[3].pid_namespace += 1;
    strangers[4].observer_namespace += 1;
    let end = end_with(Some(&not_started()));
    for stranger in &strangers {
        let (id, owner) = (new.incarnation, Owner::Runner(stranger));
        assert!(matches!(store.publish(id, stranger, &publication()), Err(StoreError::NotOwner { .. })));
        assert!(matches!(store.record_vmm(id, stranger, &who, 1), Err(StoreError::NotOwner { .. })));
        assert!(matches!(store.mark_dying(id, stranger, &[], 1), Err(StoreError::NotOwner { .. })));
        assert!(matches!(store.end(id, &owner, &end), Err(StoreError::NotOwner { .. })));
        let expected = IncarnationState::Claimed;
        let reconciler = Owner::Reconciler { expected, runner: Some(stranger.clone()) };
        assert!(matches!(store.end(id, &reconciler, &end), Err(StoreError::NotOwner { .. })));
    }
    assert_eq!(store.audit_verify().unwrap().count, 2);
    store.end(new.incarnation, &Owner::Runner(&who), &end).unwrap();
}

#[test]
fn a_reconciler_must_have_judged_the_row_as_it_is() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let (new, who) = (new_workload(1, None), process(5));
    let id = new.incarnation;
    let _ = store.accept(&new).unwrap();
    store.claim(id, &who, 2).unwrap();
    let early = Owner::Reconciler { expected: IncarnationState::Intended, runner: None };
    assert!(matches!(
        store.end(id, &early, &end_with(Some(&not_started()))),
        Err(StoreError::NotOwner { .. })
    ));
    let judged = Owner::Reconciler { expected: IncarnationState::Claimed, runner: Some(who.clone()) };
    store.publish(id, &who, &publication()).unwrap();
    let lost = Outcome::Lost { cause: "runner killed".to_owned() };
    assert!(matches!(store.end(id, &judged, &end_with(Some(&lost))), Err(StoreError::NotOwner { .. })));
    let judged = Owner::Reconciler { expected: IncarnationState::Running, runner: Some(who.clone()) };
    store.end(id, &judged, &end_with(Some(&lost))).unwrap();
    let again = store.end(id, &Owner::Runner(&who), &end_with(Some(&Outcome::Completed)));
    assert!(matches!(again, Err(StoreError::NotOwner { state: IncarnationState::Ended, .. })), "{again:?}");
    assert_eq!(store.workload(new.id).unwrap().unwrap().state, WorkloadState::Over(lost));
}

#[test]
fn an_intent_nobody_claimed_can_be_ended() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let new = new_workload(1, None);
    let _ = store.accept(&new).unwrap();
    let owner = Owner::Reconciler { expected: IncarnationState::Intended, runner: None };
    store.end(new.incarnation, &owner, &end_with(Some(&not_started()))).unwrap();
    let late = store.claim(new.incarnation, &process(5), 9);
    assert!(matches!(late, Err(ClaimError::Taken { state: IncarnationState::Ended, runner: None, .. })));
}

#[test]
fn a_dying_incarnation_can_only_end() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let (new, who) = (new_workload(1, None), process(5));
    let id = new.incarnation;
    let _ = store.accept(&new).unwrap();
    store.claim(id, &who, 2).unwrap();
    store.mark_dying(id, &who, &["in D state".to_owned()], 3).unwrap();
    store.mark_dying(id, &who, &["still".to_owned()], 4).unwrap();
    assert_eq!(store.audit_verify().unwrap().count, 3, "saying it again writes nothing");
    let published = store.publish(id, &who, &publication());
    assert!(matches!(published, Err(StoreError::IllegalIncarnation { .. })), "{published:?}");
    let row = store.incarnation(id).unwrap().unwrap();
    assert_eq!((row.state, row.dying), (IncarnationState::Dying, Some(vec!["in D state".to_owned()])));
    assert_eq!(store.living().unwrap().len(), 1);
    let owner = Owner::Reconciler { expected: IncarnationState::Dying, runner: Some(who) };
    store.end(id, &owner, &end_with(Some(&not_started()))).unwrap();
}

#[test]
fn outcomes_that_cannot_follow_are_refused_and_write_nothing() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let (new, who) = (new_workload(1, None), process(5));
    let (id, owner) = (new.incarnation, Owner::Runner(&who));
    let _ = store.accept(&new).unwrap();
    store.claim(id, &who, 2).unwrap();
    let completed = store.end(id, &owner, &end_with(Some(&Outcome::Completed)));
    assert!(matches!(completed, Err(StoreError::IllegalWorkload { .. })), "{completed:?}");
    assert!(matches!(store.end(id, &owner, &end_with(None)), Err(StoreError::OutcomeMissing { .. })));
    let mut nonsense = end_with(Some(&Outcome::Completed));
    nonsense.outcome.as_mut().unwrap().kind = "perhaps".to_owned();
    assert!(matches!(store.end(id, &owner, &nonsense), Err(StoreError::BadOutcome { .. })));
    assert_eq!(store.incarnation(id).unwrap().unwrap().state, IncarnationState::Claimed);
    store.publish(id, &who, &publication()).unwrap();
    let twice = store.publish(id, &who, &publication());
    assert!(matches!(twice, Err(StoreError::IllegalIncarnation { .. })), "{twice:?}");
    let unsent = store.end(id, &owner, &end_with(Some(&not_started())));
    assert!(matches!(unsent, Err(StoreError::IllegalWorkload { .. })), "{unsent:?}");
    assert_eq!(store.audit_verify().unwrap().count, 3);
}

#[test]
fn an_incarnation_without_a_workload_has_no_outcome() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let (id, who) = (incarnation_id(1), process(5));
    store.intend(&new_canary(1)).unwrap();
    store.claim(id, &who, 2).unwrap();
    let outcome = store.end(id, &Owner::Runner(&who), &end_with(Some(&not_started())));
    assert!(matches!(outcome, Err(StoreError::OutcomeUnexpected { .. })));
    store.end(id, &Owner::Runner(&who), &end_with(None)).unwrap();
    assert_eq!(store.incarnation(id).unwrap().unwrap().workload, None);
}

#[test]
fn a_wish_to_kill_is_noted_once_and_never_after_the_end() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let new = new_workload(1, None);
    let _ = store.accept(&new).unwrap();
    assert!(!store.kill_wanted(new.incarnation).unwrap());
    assert_eq!(store.request_kill(new.id, 7).unwrap(), KillNote::Noted);
    assert_eq!(store.request_kill(new.id, 8).unwrap(), KillNote::AlreadyNoted);
    assert!(store.kill_wanted(new.incarnation).unwrap());
    assert_eq!(store.workload(new.id).unwrap().unwrap().kill_requested_unix_ns, Some(7));
    let killed = Outcome::Killed { by: Killer::Request };
    let owner = Owner::Reconciler { expected: IncarnationState::Intended, runner: None };
    store.end(new.incarnation, &owner, &end_with(Some(&killed))).unwrap();
    assert_eq!(store.request_kill(new.id, 9).unwrap(), KillNote::Over(killed));
    assert!(matches!(store.request_kill(workload_id(2), 9), Err(StoreError::NoWorkload { .. })));
    assert!(matches!(store.kill_wanted(incarnation_id(2)), Err(StoreError::NoIncarnation { .. })));
    assert_eq!(store.audit_verify().unwrap().count, 3);
}

#[test]
fn lists_are_newest_first_and_go_on_where_they_ended() {
    let scratch = Scratch::new();
    let store = scratch.open();
    for number in 1..=5 {
        run_through(&store, number);
    }
    let _ = store.accept(&new_workload(6, None)).unwrap();
    let ids = |page: &Page| store.workloads(page).unwrap().iter().map(|row| row.id).collect::<Vec<_>>();
    assert_eq!(ids(&OPEN), [workload_id(6)]);
    assert_eq!(ids(&Page { limit: 2, ..ALL }), [workload_id(6), workload_id(5)]);
    let rest = Page { before: Some(workload_id(5)), ..ALL };
    assert_eq!(ids(&rest), [4, 3, 2, 1].map(workload_id));
    assert!(ids(&Page { before: Some(workload_id(6)), ..OPEN }).is_empty());
}

#[test]
fn a_prefix_finds_one_none_or_several() {
    let scratch = Scratch::new();
    let store = scratch.open();
    for number in [1, 2, 40_000_000_000] {
        let _ = store.accept(&new_workload(number, None)).unwrap();
    }
    let full = workload_id(40_000_000_000).to_string();
    for prefix in [full.as_str(), &full.to_uppercase(), &full[..8]] {
        let found = store.find_workload(prefix).unwrap();
        assert!(matches!(&found, Found::One(row) if row.id == workload_id(40_000_000_000)), "{found:?}");
    }
    let several = store.find_workload(&workload_id(1).to_string()[..9]).unwrap();
    assert_eq!(several, Found::Several(vec![workload_id(1), workload_id(2)]));
    assert_eq!(store.find_workload("zzzz").unwrap(), Found::None);
    for bad in ["01h", "01hé", "01%_", "", &"0".repeat(27)] {
        assert!(matches!(store.find_workload(bad), Err(StoreError::BadPrefix { .. })), "{bad}");
    }
}

#[test]
fn a_row_that_cannot_be_is_named_and_its_contents_are_not_shown() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let new = new_workload(1, None);
    let _ = store.accept(&new).unwrap();
    let broken = |sql: &str| {
        let raw = scratch.raw();
        raw.execute_batch(
            "DROP TRIGGER IF EXISTS a_spec_is_for_ever; DROP TRIGGER IF EXISTS an_intent_is_for_ever;",
        )
        .unwrap();
        raw.execute_batch(sql).unwrap();
        (store.workload(new.id), store.incarnation(new.incarnation))
    };
    let (workload, _) = broken(&format!("UPDATE specs SET env = '[\"{SECRET}\"]'"));
    let error = workload.unwrap_err();
    assert!(
        matches!(&error, StoreError::BadRow { row, column: "env", .. } if row.contains(&new.id.to_string()))
    );
    assert!(!format!("{error} {error:?}").contains(SECRET));
    let (_, incarnation) = broken(&format!("UPDATE intents SET body = '{{\"version\": \"{SECRET}\"}}'"));
    let error = incarnation.unwrap_err();
    assert!(matches!(&error, StoreError::BadRow { column: "intent", .. }), "{error:?}");
    assert!(!format!("{error} {error:?}").contains(SECRET), "{error:?}");
    let (workload, _) = broken("UPDATE workloads SET state = 'asleep'");
    assert!(matches!(workload, Err(StoreError::BadRow { column: "env" | "state", .. })));
}

/// The second net: even a statement that forgot to compare cannot change what is over.
#[test]
fn the_database_itself_keeps_what_is_over() {
    let scratch = Scratch::new();
    let store = scratch.open();
    run_through(&store, 1);
    for sql in [
        "UPDATE workloads SET outcome = '{}'",
        "UPDATE incarnations SET death = '{}'",
        "UPDATE specs SET image = 'x'",
        "UPDATE intents SET body = 'x'",
        "UPDATE events SET body = 'x'",
        "DELETE FROM events",
    ] {
        assert!(scratch.raw().execute_batch(sql).is_err(), "{sql}");
    }
}
