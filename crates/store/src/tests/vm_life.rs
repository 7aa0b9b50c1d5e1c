//! The life of VMs' rows, one rule at a time.

use crate::testing::{
    Scratch, end_with, failed_end, incarnation_id, new_canary, new_vm, new_vm_start, not_started, process,
    publication, run_vm, vm_id, vm_name,
};
use crate::{
    EventKind, NewIncarnation, OfDisks, OfLiving, Owner, Publication, RemovalEnd, RemovalNote, StartNote,
    StartedFrom, StopNote, Store, StoreError, Subject, VmPage, VmRow,
};
use outlast_model::{IncarnationState, VmState};
use outlast_wire::record::FailedStart;

const ALL: VmPage = VmPage { limit: 100, after: None };

fn row(store: &Store, number: u64) -> VmRow {
    store.vm(vm_id(number)).unwrap().unwrap()
}

fn started(scratch: &Scratch) -> Store {
    let store = scratch.open();
    store.create_vm(&new_vm(1)).unwrap();
    assert_eq!(store.start_vm(&new_vm_start(1, 10)).unwrap(), StartNote::New);
    store
}

#[test]
fn a_vm_leaves_everything_it_was_told() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let new = new_vm(1);
    store.create_vm(&new).unwrap();
    let created = row(&store, 1);
    assert_eq!((created.id, &created.name, &created.spec), (new.id, &new.name, &new.spec));
    assert_eq!((created.state, &created.origins), (VmState::Created, &new.origins));
    assert_eq!((created.created_unix_ns, created.changed_unix_ns), (1_001, 1_001));
    assert_eq!((created.incarnation, created.death), (None, None));
    let start = new_vm_start(1, 10);
    assert_eq!(store.start_vm(&start).unwrap(), StartNote::New);
    assert_eq!(
        (row(&store, 1).state, row(&store, 1).incarnation),
        (VmState::Starting, Some(start.incarnation))
    );
    assert_eq!(store.living().unwrap()[0].vm, Some(new.id));
    let who = process(5);
    assert_eq!(store.claim(start.incarnation, &who, 2_000).unwrap(), start.intent);
    store.publish(start.incarnation, &who, &publication()).unwrap();
    let running = row(&store, 1);
    assert_eq!(
        (running.state, running.changed_unix_ns, running.runner),
        (VmState::Running, 3_000, Some(who.clone()))
    );
    store.end(start.incarnation, &Owner::Runner(&who), &end_with(None)).unwrap();
    let stopped = row(&store, 1);
    assert_eq!((stopped.state, stopped.changed_unix_ns), (VmState::Stopped, 4_000));
    assert_eq!((stopped.death, stopped.failed_start), (Some(end_with(None).death), None));
    assert_eq!(store.vm_by_name(&new.name).unwrap().unwrap(), row(&store, 1));
}

#[test]
fn a_name_belongs_to_one_vm_until_that_is_removed() {
    let scratch = Scratch::new();
    let store = scratch.open();
    store.create_vm(&new_vm(1)).unwrap();
    let mut second = new_vm(2);
    second.name = vm_name(1);
    assert!(matches!(store.create_vm(&second), Err(StoreError::VmExists { name }) if name == "vm-1"));
    let mut same_id = new_vm(1);
    same_id.name = vm_name(3);
    assert!(matches!(store.create_vm(&same_id), Err(StoreError::Exists { row }) if row.starts_with("VM ")));
    assert_eq!(
        store.request_removal(vm_id(1), OfLiving::Refuse, OfDisks::Remove, 7).unwrap(),
        RemovalNote::Noted
    );
    assert!(matches!(store.create_vm(&second), Err(StoreError::VmExists { .. })), "not yet");
    assert_eq!(store.finish_removal(vm_id(1), 8).unwrap(), RemovalEnd::Removed);
    store.create_vm(&second).unwrap();
    assert_eq!(store.vm_by_name(&vm_name(1)).unwrap().unwrap().id, vm_id(2));
    let removed = store.removed_vms(&vm_name(1), 9).unwrap();
    assert_eq!(
        removed.iter().map(|row| (row.id, row.removed_unix_ns)).collect::<Vec<_>>(),
        [(vm_id(1), Some(8))]
    );
}

#[test]
fn a_start_that_failed_says_where_and_the_next_one_works() {
    let scratch = Scratch::new();
    let store = started(&scratch);
    let (id, who) = (incarnation_id(10), process(5));
    store.claim(id, &who, 2_000).unwrap();
    let silent = store.end(id, &Owner::Runner(&who), &end_with(None));
    assert!(matches!(silent, Err(StoreError::FailedStartMissing { .. })), "{silent:?}");
    let mut rubbish = failed_end();
    rubbish.failed_start = Some(FailedStart { step: "dance".to_owned(), cause: String::new() });
    let rubbish = store.end(id, &Owner::Runner(&who), &rubbish);
    assert!(matches!(rubbish, Err(StoreError::BadFailedStart { .. })), "{rubbish:?}");
    store.end(id, &Owner::Runner(&who), &failed_end()).unwrap();
    let failed = row(&store, 1);
    assert_eq!((failed.state, failed.failed_start), (VmState::Failed, failed_end().failed_start));
    assert_eq!(store.start_vm(&new_vm_start(1, 11)).unwrap(), StartNote::New);
    assert_eq!((row(&store, 1).state, row(&store, 1).failed_start), (VmState::Starting, None));
    let newest_first: Vec<_> = store.incarnations_of(vm_id(1), 9).unwrap().iter().map(|row| row.id).collect();
    assert_eq!(newest_first, [incarnation_id(11), incarnation_id(10)]);
    assert_eq!(store.incarnations_of(vm_id(1), 1).unwrap().len(), 1);
}

/// The disk is the one it had until the restored machine runs, and the restored one from the same commit on.
#[test]
fn a_restored_disk_is_the_vms_from_its_publication_on_and_not_before() {
    let scratch = Scratch::new();
    let store = started(&scratch);
    let restored = || Publication { started_from: StartedFrom::Restore, ..publication() };
    let who = process(5);
    store.claim(incarnation_id(10), &who, 2_000).unwrap();
    store.end(incarnation_id(10), &Owner::Runner(&who), &failed_end()).unwrap();
    assert_eq!(row(&store, 1).disk_of, None, "a restore that failed has changed nothing");
    for (incarnation, publication, disk_of) in [
        (11, restored(), Some(incarnation_id(11))),
        (12, publication(), Some(incarnation_id(11))),
        (13, restored(), Some(incarnation_id(13))),
    ] {
        let id = incarnation_id(incarnation);
        assert_eq!(store.start_vm(&new_vm_start(1, incarnation)).unwrap(), StartNote::New);
        store.claim(id, &who, 2_000).unwrap();
        store.publish(id, &who, &publication).unwrap();
        assert_eq!(row(&store, 1).disk_of, disk_of, "incarnation {incarnation}");
        assert_eq!(store.incarnation(id).unwrap().unwrap().started_from, Some(publication.started_from));
        store.end(id, &Owner::Runner(&who), &end_with(None)).unwrap();
    }
    assert_eq!(row(&store, 1).disk_of, Some(incarnation_id(13)), "and it stays");
}

/// A start that nobody came for is ended by whoever looks, and is a failed start like any other.
#[test]
fn a_start_that_nobody_claimed_fails() {
    let scratch = Scratch::new();
    let store = started(&scratch);
    let owner = Owner::Reconciler { expected: IncarnationState::Intended, runner: None };
    store.end(incarnation_id(10), &owner, &failed_end()).unwrap();
    assert_eq!(row(&store, 1).state, VmState::Failed);
}

#[test]
fn what_failed_is_told_of_failed_starts_of_vms_alone() {
    let scratch = Scratch::new();
    let store = started(&scratch);
    let (id, who) = (incarnation_id(10), process(5));
    store.claim(id, &who, 2_000).unwrap();
    store.publish(id, &who, &publication()).unwrap();
    let published = store.end(id, &Owner::Runner(&who), &failed_end());
    assert!(matches!(published, Err(StoreError::FailedStartUnexpected { .. })), "{published:?}");
    store.intend(&new_canary(3)).unwrap();
    let owner = Owner::Reconciler { expected: IncarnationState::Intended, runner: None };
    let canary = store.end(incarnation_id(3), &owner, &failed_end());
    assert!(matches!(canary, Err(StoreError::FailedStartUnexpected { .. })), "{canary:?}");
    let with_outcome = store.end(id, &Owner::Runner(&who), &end_with(Some(&not_started())));
    assert!(matches!(with_outcome, Err(StoreError::OutcomeUnexpected { .. })), "{with_outcome:?}");
    assert_eq!(row(&store, 1).state, VmState::Running, "what was refused changed nothing");
}

#[test]
fn while_it_lives_nothing_else_of_it_is_started() {
    let scratch = Scratch::new();
    let store = started(&scratch);
    let (id, who) = (incarnation_id(10), process(5));
    let again = |state| {
        let note = store.start_vm(&new_vm_start(1, 11)).unwrap();
        assert_eq!(note, StartNote::AlreadyLiving { incarnation: id, state });
    };
    again(VmState::Starting);
    store.claim(id, &who, 2_000).unwrap();
    again(VmState::Starting);
    store.publish(id, &who, &publication()).unwrap();
    again(VmState::Running);
    store.pause_vm(id, &who, true, 3_100).unwrap();
    again(VmState::Paused);
    assert_eq!(store.request_stop(vm_id(1), 3_200).unwrap(), StopNote::Noted { incarnation: id });
    again(VmState::Stopping);
    store.mark_dying(id, &who, &["D state".to_owned()], 3_300).unwrap();
    again(VmState::Stopping);
    store.end(id, &Owner::Runner(&who), &end_with(None)).unwrap();
    assert_eq!(store.start_vm(&new_vm_start(1, 11)).unwrap(), StartNote::New);
    assert_eq!(row(&store, 1).stop_requested_unix_ns, None, "the wish was the last incarnation's");
}

/// The second net: were the code's check gone, the database would still refuse a second living incarnation.
#[test]
fn the_database_itself_refuses_a_second_living_incarnation() {
    let scratch = Scratch::new();
    let _store = started(&scratch);
    let raw = scratch.raw();
    let second = raw.execute(
        "INSERT INTO incarnations (id, vm, state, created_unix_ns) VALUES ('x', 1, 'intended', 1)",
        [],
    );
    assert!(second.unwrap_err().to_string().contains("incarnations.vm"));
    let changes = [
        "UPDATE vms SET spec = '{}'",
        "UPDATE incarnations SET vm = NULL",
        "UPDATE vms SET state = 'created'",
        "UPDATE vms SET removed_unix_ns = 1",
    ];
    for change in changes {
        assert!(raw.execute(change, []).is_err(), "{change}");
    }
}

#[test]
fn a_stop_during_a_start_is_no_failure() {
    let scratch = Scratch::new();
    let store = started(&scratch);
    let (id, who) = (incarnation_id(10), process(5));
    assert_eq!(store.request_stop(vm_id(1), 1_500).unwrap(), StopNote::Noted { incarnation: id });
    assert_eq!(store.request_stop(vm_id(1), 1_600).unwrap(), StopNote::AlreadyNoted { incarnation: id });
    assert_eq!(row(&store, 1).stop_requested_unix_ns, Some(1_500), "the first wish counts");
    store.claim(id, &who, 2_000).unwrap();
    // Its runner was past looking; what it says is true, and changes nothing of what is wanted.
    store.publish(id, &who, &publication()).unwrap();
    assert_eq!((row(&store, 1).state, row(&store, 1).changed_unix_ns), (VmState::Stopping, 1_500));
    store.end(id, &Owner::Runner(&who), &end_with(None)).unwrap();
    assert_eq!(row(&store, 1).state, VmState::Stopped);
    assert_eq!(store.request_stop(vm_id(1), 5_000).unwrap(), StopNote::NotLiving(VmState::Stopped));
}

#[test]
fn a_stop_before_anything_was_published_may_say_how_far_it_came() {
    for end in [end_with(None), failed_end()] {
        let scratch = Scratch::new();
        let store = started(&scratch);
        let _ = store.request_stop(vm_id(1), 1_500).unwrap();
        let owner = Owner::Reconciler { expected: IncarnationState::Intended, runner: None };
        store.end(incarnation_id(10), &owner, &end).unwrap();
        assert_eq!((row(&store, 1).state, row(&store, 1).failed_start), (VmState::Stopped, end.failed_start));
    }
}

#[test]
fn only_its_runner_pauses_a_vm() {
    let scratch = Scratch::new();
    let store = started(&scratch);
    let (id, who) = (incarnation_id(10), process(5));
    store.claim(id, &who, 2_000).unwrap();
    let early = store.pause_vm(id, &who, true, 2_100);
    assert!(matches!(early, Err(StoreError::IllegalVm { .. })), "{early:?}");
    store.publish(id, &who, &publication()).unwrap();
    assert!(matches!(store.pause_vm(id, &process(6), true, 3_100), Err(StoreError::NotOwner { .. })));
    store.pause_vm(id, &who, false, 3_050).unwrap();
    assert_eq!(row(&store, 1).changed_unix_ns, 3_000, "it ran already");
    store.pause_vm(id, &who, true, 3_100).unwrap();
    assert_eq!((row(&store, 1).state, row(&store, 1).changed_unix_ns), (VmState::Paused, 3_100));
    store.pause_vm(id, &who, true, 3_200).unwrap();
    assert_eq!(row(&store, 1).changed_unix_ns, 3_100, "it stood still already");
    store.pause_vm(id, &who, false, 3_300).unwrap();
    assert_eq!(row(&store, 1).state, VmState::Running);
    store.intend(&new_canary(3)).unwrap();
    store.claim(incarnation_id(3), &who, 2_000).unwrap();
    assert!(matches!(store.pause_vm(incarnation_id(3), &who, true, 1), Err(StoreError::NotAVms { .. })));
}

#[test]
fn a_removal_waits_until_nothing_lives_and_forbids_starts() {
    let scratch = Scratch::new();
    let store = started(&scratch);
    let (id, who) = (incarnation_id(10), process(5));
    let living = RemovalNote::Living { incarnation: id, state: VmState::Starting };
    assert_eq!(store.request_removal(vm_id(1), OfLiving::Refuse, OfDisks::Remove, 10).unwrap(), living);
    assert_eq!(row(&store, 1).removal_requested_unix_ns, None);
    assert_eq!(
        store.request_removal(vm_id(1), OfLiving::Stop, OfDisks::Remove, 11).unwrap(),
        RemovalNote::Noted
    );
    assert_eq!(
        store.request_removal(vm_id(1), OfLiving::Stop, OfDisks::Remove, 12).unwrap(),
        RemovalNote::AlreadyNoted { of_disks: OfDisks::Remove }
    );
    assert_eq!((row(&store, 1).state, row(&store, 1).stop_requested_unix_ns), (VmState::Stopping, Some(11)));
    let early = RemovalEnd::Living { incarnation: id, state: VmState::Stopping };
    assert_eq!(store.finish_removal(vm_id(1), 13).unwrap(), early);
    store.claim(id, &who, 2_000).unwrap();
    store.end(id, &Owner::Runner(&who), &end_with(None)).unwrap();
    let start = store.start_vm(&new_vm_start(1, 11));
    assert!(matches!(start, Err(StoreError::VmBeingRemoved { .. })), "{start:?}");
    assert_eq!(store.finish_removal(vm_id(1), 14).unwrap(), RemovalEnd::Removed);
    assert_eq!(store.finish_removal(vm_id(1), 15).unwrap(), RemovalEnd::AlreadyRemoved);
    assert!(store.vms(&ALL).unwrap().is_empty() && store.vm_by_name(&vm_name(1)).unwrap().is_none());
    assert!(matches!(store.start_vm(&new_vm_start(1, 11)), Err(StoreError::VmRemoved { .. })));
    assert!(matches!(store.request_stop(vm_id(1), 1), Err(StoreError::VmRemoved { .. })));
    assert!(matches!(
        store.request_removal(vm_id(1), OfLiving::Stop, OfDisks::Remove, 1),
        Err(StoreError::VmRemoved { .. })
    ));
    let kept = store.incarnations_of(vm_id(1), 9).unwrap();
    assert_eq!(kept[0].death, Some(end_with(None).death), "a death certificate outlives its VM");
}

/// Whoever finishes a removal that was cut off has not been told what became of the disk: the store has.
#[test]
fn the_first_wish_to_remove_says_what_becomes_of_the_disk() {
    let (keep, remove) = (OfDisks::Keep, OfDisks::Remove);
    let scratch = Scratch::new();
    let store = scratch.open();
    for (number, first, later) in [(1, keep, remove), (2, remove, keep)] {
        store.create_vm(&new_vm(number)).unwrap();
        let ask = |of_disks| store.request_removal(vm_id(number), OfLiving::Refuse, of_disks, 7).unwrap();
        assert_eq!(ask(first), RemovalNote::Noted);
        assert_eq!(ask(later), RemovalNote::AlreadyNoted { of_disks: first });
        assert_eq!(row(&scratch.open(), number).of_disks, first);
    }
}

#[test]
fn a_removal_nobody_asked_for_is_refused() {
    let scratch = Scratch::new();
    let store = scratch.open();
    store.create_vm(&new_vm(1)).unwrap();
    assert!(matches!(store.finish_removal(vm_id(1), 2), Err(StoreError::RemovalNotAsked { .. })));
    for refused in
        [store.finish_removal(vm_id(2), 2).map(|_| ()), store.request_stop(vm_id(2), 2).map(|_| ())]
    {
        assert!(matches!(refused, Err(StoreError::NoVm { .. })), "{refused:?}");
    }
}

#[test]
fn what_a_runner_must_know_is_one_read() {
    let scratch = Scratch::new();
    let store = started(&scratch);
    let (id, who) = (incarnation_id(10), process(5));
    let look = || store.standing_of_vm(id).unwrap();
    assert_eq!(look().unwrap().current, Some(id));
    store.claim(id, &who, 2_000).unwrap();
    store.record_vmm(id, &who, &process(76), 2_500).unwrap();
    let standing = look().unwrap();
    assert_eq!((standing.runner, standing.vmm), (Some(who.clone()), Some(process(76))));
    assert_eq!((standing.state, standing.stop_requested_unix_ns), (VmState::Starting, None));
    let _ = store.request_removal(vm_id(1), OfLiving::Stop, OfDisks::Remove, 3_000).unwrap();
    let standing = look().unwrap();
    assert_eq!(standing.stop_requested_unix_ns.zip(standing.removal_requested_unix_ns), Some((3_000, 3_000)));
    store.end(id, &Owner::Runner(&who), &end_with(None)).unwrap();
    assert_eq!(look().unwrap().incarnation_state, IncarnationState::Ended);
    let _ = store.finish_removal(vm_id(1), 5_000).unwrap();
    assert_eq!(look(), None, "removed");
    assert_eq!(store.standing_of_vm(incarnation_id(99)).unwrap(), None);
    // Somebody with another program took the row away: there is nothing to stay for.
    store.create_vm(&new_vm(2)).unwrap();
    let _ = store.start_vm(&new_vm_start(2, 20)).unwrap();
    let raw = scratch.raw();
    raw.execute_batch("PRAGMA foreign_keys = OFF; DELETE FROM vms WHERE name = 'vm-2'").unwrap();
    assert_eq!(store.standing_of_vm(incarnation_id(20)).unwrap(), None);
}

#[test]
fn lists_are_in_order_and_in_parts() {
    let scratch = Scratch::new();
    let store = scratch.open();
    for number in [3, 1, 2] {
        store.create_vm(&new_vm(number)).unwrap();
    }
    let names = |page: &VmPage| -> Vec<String> {
        store.vms(page).unwrap().iter().map(|row| row.name.to_string()).collect()
    };
    assert_eq!(names(&ALL), ["vm-1", "vm-2", "vm-3"]);
    assert_eq!(names(&VmPage { limit: 2, after: None }), ["vm-1", "vm-2"]);
    assert_eq!(names(&VmPage { limit: 2, after: Some(vm_name(2)) }), ["vm-3"]);
    assert_eq!(store.vm_names_like("mv-1", 1).unwrap(), [vm_name(1)]);
    assert_eq!(store.vm_names_like("VM-2", 1).unwrap(), [vm_name(2)]);
    assert!(store.vm_names_like("database", 3).unwrap().is_empty());
}

#[test]
fn intents_and_vms_belong_together() {
    let scratch = Scratch::new();
    let store = scratch.open();
    store.create_vm(&new_vm(1)).unwrap();
    store.create_vm(&new_vm(2)).unwrap();
    let mut strange = new_vm_start(1, 10);
    strange.vm = vm_id(2);
    assert!(matches!(store.start_vm(&strange), Err(StoreError::IntentMismatch { .. })));
    strange.intent = new_canary(1).intent;
    assert!(matches!(store.start_vm(&strange), Err(StoreError::IntentMismatch { .. })));
    let intent = new_vm_start(1, 10).intent;
    let stray = NewIncarnation { id: incarnation_id(10), intent, created_unix_ns: 1 };
    assert!(matches!(store.intend(&stray), Err(StoreError::IntentMismatch { .. })));
    store.intend(&new_canary(10)).unwrap();
    assert!(matches!(store.start_vm(&new_vm_start(1, 10)), Err(StoreError::Exists { .. })));
    assert_eq!(row(&store, 1).state, VmState::Created, "a refused start leaves no half");
}

#[test]
fn every_change_of_a_vm_is_told() {
    let scratch = Scratch::new();
    let store = scratch.open();
    store.create_vm(&new_vm(1)).unwrap();
    run_vm(&store, 1, 10);
    let _ = store.request_removal(vm_id(1), OfLiving::Refuse, OfDisks::Remove, 9_000).unwrap();
    let _ = store.finish_removal(vm_id(1), 9_001).unwrap();
    let events = store.events(0, 100).unwrap();
    let kinds: Vec<EventKind> = events.iter().map(|event| event.kind).collect();
    assert_eq!(
        kinds,
        [
            EventKind::VmCreated,
            EventKind::VmStartRequested,
            EventKind::IncarnationClaimed,
            EventKind::IncarnationRunning,
            EventKind::VmPaused,
            EventKind::VmResumed,
            EventKind::VmStopRequested,
            EventKind::IncarnationEnded,
            EventKind::VmRemovalRequested,
            EventKind::VmRemoved,
        ]
    );
    assert_eq!(events[1].subject, Subject::Vm(vm_id(1)));
    assert_eq!(events[1].body["incarnation"], incarnation_id(10).to_string());
    assert_eq!(events[7].body["vm"], "vm-1");
    assert!(store.audit_verify().unwrap().is_intact());
}

/// What has no place in a row is refused by name, as everywhere in the store.
#[test]
fn a_row_that_cannot_be_is_told_by_its_column() {
    let scratch = Scratch::new();
    let store = scratch.open();
    store.create_vm(&new_vm(1)).unwrap();
    let raw = scratch.raw();
    raw.execute_batch("DROP TRIGGER a_vm_is_what_it_was_created").unwrap();
    for (column, value) in [("spec", "{\"image\":\"base\"}"), ("origins", "[]"), ("name", "Web")] {
        let before: String =
            raw.query_row(&format!("SELECT {column} FROM vms"), [], |row| row.get(0)).unwrap();
        raw.execute(&format!("UPDATE vms SET {column} = ?1"), [value]).unwrap();
        let read = store.vm(vm_id(1));
        assert!(matches!(&read, Err(StoreError::BadRow { column: bad, .. }) if *bad == column), "{read:?}");
        raw.execute(&format!("UPDATE vms SET {column} = ?1"), [before]).unwrap();
    }
    assert!(store.vm(vm_id(1)).is_ok());
}
