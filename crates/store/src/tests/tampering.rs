//! An intruder with a connection of their own: everything done to the log is found and called by its name.

use crate::testing::{Scratch, run_through};
use crate::{AuditFinding, AuditReport, Digest, Store, StoreError};

/// A store of 20 events, and the means to harm it.
struct Victim {
    scratch: Scratch,
    store: Store,
}

impl Victim {
    fn new() -> Self {
        let scratch = Scratch::new();
        let store = scratch.open();
        (1..=5).for_each(|number| run_through(&store, number));
        assert_eq!(store.audit_verify().unwrap().count, 20);
        assert!(store.audit_verify().unwrap().is_intact());
        Self { scratch, store }
    }

    /// Does `sql` with nothing in its way, and tells what is found.
    fn suffers(&self, sql: &str) -> Vec<AuditFinding> {
        self.does(sql);
        self.store.audit_verify().unwrap().findings
    }

    fn does(&self, sql: &str) {
        let raw = self.scratch.raw();
        raw.execute_batch(
            "DROP TRIGGER IF EXISTS an_event_is_for_ever; DROP TRIGGER IF EXISTS an_event_stays;",
        )
        .unwrap();
        raw.execute_batch(sql).unwrap();
    }

    /// Writes row `seq` again under the hash that fits it, as somebody would who knows how hashes are made.
    fn forge(&self, seq: i64) {
        let raw = self.scratch.raw();
        let hash = raw
            .query_row("SELECT * FROM events WHERE seq = ?1", [seq], |row| {
                Ok(crate::audit::chain::RawEvent {
                    seq,
                    unix_ns: row.get("unix_ns")?,
                    kind: row.get_ref("kind")?.as_bytes().unwrap(),
                    subject: row.get_ref("subject")?.as_bytes().unwrap(),
                    body: row.get_ref("body")?.as_bytes().unwrap(),
                    previous: row.get_ref("previous")?.as_bytes().unwrap(),
                }
                .hash())
            })
            .unwrap();
        raw.execute("UPDATE events SET hash = ?2 WHERE seq = ?1", (seq, hash.as_bytes())).unwrap();
    }
}

#[test]
fn every_changed_field_is_found() {
    for change in [
        "unix_ns = unix_ns + 1",
        "kind = 'workload.accepted'",
        "subject = 'workload:x'",
        "body = '{}'",
        "previous = zeroblob(32)",
        "hash = zeroblob(32)",
    ] {
        let found = Victim::new().suffers(&format!("UPDATE events SET {change} WHERE seq = 10"));
        assert_eq!(found, [AuditFinding::Changed { seq: 10 }], "{change}");
    }
}

#[test]
fn first_and_last_events_are_covered() {
    assert_eq!(
        Victim::new().suffers("UPDATE events SET body = '' WHERE seq = 1"),
        [AuditFinding::Changed { seq: 1 }]
    );
    assert_eq!(
        Victim::new().suffers("UPDATE events SET body = '' WHERE seq = 20"),
        [AuditFinding::Changed { seq: 20 }]
    );
}

#[test]
fn a_change_with_a_forged_hash_breaks_the_next_link() {
    let victim = Victim::new();
    victim.does("UPDATE events SET body = '{}' WHERE seq = 10");
    victim.forge(10);
    assert_eq!(victim.store.audit_verify().unwrap().findings, [AuditFinding::Unlinked { seq: 11 }]);
    let victim = Victim::new();
    victim.does("UPDATE events SET body = '{}' WHERE seq = 20");
    victim.forge(20);
    assert_eq!(victim.store.audit_verify().unwrap().findings, [AuditFinding::HeadDiffers { seq: 20 }]);
}

#[test]
fn removed_events_are_found_wherever_they_were() {
    let suffers = |sql| Victim::new().suffers(sql);
    assert_eq!(suffers("DELETE FROM events WHERE seq = 1"), [AuditFinding::Removed { first: 1, last: 1 }]);
    assert_eq!(
        suffers("DELETE FROM events WHERE seq IN (5, 6, 9)"),
        [AuditFinding::Removed { first: 5, last: 6 }, AuditFinding::Removed { first: 9, last: 9 }]
    );
    assert_eq!(
        suffers("DELETE FROM events WHERE seq > 17"),
        [AuditFinding::TailRemoved { first: 18, last: 20 }]
    );
    assert_eq!(suffers("DELETE FROM events"), [AuditFinding::TailRemoved { first: 1, last: 20 }]);
}

#[test]
fn a_gap_that_was_closed_is_found() {
    let found = Victim::new().suffers(
        "DELETE FROM events WHERE seq = 10; UPDATE events SET seq = seq - 1 WHERE seq > 10;
         UPDATE audit_head SET count = 19",
    );
    assert_eq!(found.first(), Some(&AuditFinding::Moved { seq: 10, belongs: 11 }), "{found:?}");
    assert_eq!(found.len(), 10, "{found:?}");
}

#[test]
fn exchanged_events_are_found() {
    let found = Victim::new().suffers(
        "UPDATE events SET seq = 99 WHERE seq = 7; UPDATE events SET seq = 7 WHERE seq = 12;
         UPDATE events SET seq = 12 WHERE seq = 99",
    );
    assert_eq!(
        found,
        [AuditFinding::Moved { seq: 7, belongs: 12 }, AuditFinding::Moved { seq: 12, belongs: 7 }]
    );
    let neighbours = Victim::new().suffers(
        "UPDATE events SET seq = 99 WHERE seq = 7; UPDATE events SET seq = 7 WHERE seq = 8;
         UPDATE events SET seq = 8 WHERE seq = 99",
    );
    assert_eq!(
        neighbours,
        [AuditFinding::Moved { seq: 7, belongs: 8 }, AuditFinding::Moved { seq: 8, belongs: 7 }]
    );
}

#[test]
fn a_moved_event_is_found_in_both_places() {
    let found = Victim::new().suffers("UPDATE events SET seq = 21 WHERE seq = 5");
    assert_eq!(
        found,
        [
            AuditFinding::Removed { first: 5, last: 5 },
            AuditFinding::BeyondHead { first: 21, last: 21 },
            AuditFinding::Moved { seq: 21, belongs: 5 }
        ]
    );
}

#[test]
fn copies_are_found() {
    let copy = "INSERT INTO events SELECT 21, unix_ns, kind, subject, body, previous, hash FROM events WHERE seq = 5";
    let found = Victim::new().suffers(copy);
    assert_eq!(
        found,
        [AuditFinding::BeyondHead { first: 21, last: 21 }, AuditFinding::Duplicated { seq: 21, original: 5 }]
    );
    let over = Victim::new().suffers(
        "DELETE FROM events WHERE seq = 9;
         INSERT INTO events SELECT 9, unix_ns, kind, subject, body, previous, hash FROM events WHERE seq = 5",
    );
    assert_eq!(over, [AuditFinding::Duplicated { seq: 9, original: 5 }]);
}

/// Whoever can write may also take the key, the types and the triggers from the table.
#[test]
fn a_table_without_its_rules_is_walked_all_the_same() {
    let lawless =
        "CREATE TABLE e AS SELECT * FROM events; DROP TABLE events; ALTER TABLE e RENAME TO events;";
    let victim = Victim::new();
    assert_eq!(victim.suffers(lawless), []);
    let found = victim.suffers("INSERT INTO events SELECT * FROM events WHERE seq = 5");
    assert_eq!(found, [AuditFinding::Duplicated { seq: 5, original: 5 }]);
    let found = victim.suffers("UPDATE events SET body = CAST(body AS BLOB) WHERE seq = 8; UPDATE events SET seq = -3 WHERE seq = 11");
    assert!(found.contains(&AuditFinding::Unreadable { seq: 8 }), "{found:?}");
    assert!(found.contains(&AuditFinding::Unnumbered { value: -3 }), "{found:?}");
    assert!(found.contains(&AuditFinding::Removed { first: 11, last: 11 }), "{found:?}");
}

#[test]
fn the_head_is_covered_too() {
    let victim = Victim::new();
    assert_eq!(
        victim.suffers("UPDATE audit_head SET head = zeroblob(32)"),
        [AuditFinding::HeadDiffers { seq: 20 }]
    );
    let victim = Victim::new();
    let found = victim.suffers("UPDATE audit_head SET count = 18");
    assert_eq!(found, [AuditFinding::BeyondHead { first: 19, last: 20 }]);
    let victim = Victim::new();
    let report = {
        victim.does("DELETE FROM audit_head");
        victim.store.audit_verify().unwrap()
    };
    assert_eq!((report.findings, report.count), (vec![AuditFinding::HeadMissing], 20));
}

/// Nothing is written on top of a log that contradicts its head.
#[test]
fn a_head_that_was_set_back_stops_every_write() {
    let victim = Victim::new();
    victim.does("UPDATE audit_head SET count = 18");
    let refused = victim.store.accept(&crate::testing::new_workload(9, None));
    assert!(matches!(refused, Err(StoreError::AuditBroken { seq: 19 })), "{refused:?}");
    assert_eq!(victim.store.workload(crate::testing::workload_id(9)).unwrap(), None);
    victim.does("DELETE FROM audit_head");
    let refused = victim.store.accept(&crate::testing::new_workload(9, None));
    assert!(matches!(refused, Err(StoreError::BadRow { .. })), "{refused:?}");
}

/// An emptied log with a fitting head is whole in itself: only what was kept elsewhere shows it.
#[test]
fn a_rewritten_log_is_found_by_who_kept_its_head() {
    let victim = Victim::new();
    let AuditReport { count, head, .. } = victim.store.audit_verify().unwrap();
    run_through(&victim.store, 6);
    assert!(victim.store.audit_verify_since(count, &head).unwrap().is_intact());
    assert!(victim.store.audit_verify_since(0, &genesis(&victim)).unwrap().is_intact());
    assert_eq!(
        victim.store.audit_verify_since(count - 1, &head).unwrap().findings,
        [AuditFinding::NotAsKept { seq: 19 }]
    );
    victim.does("DELETE FROM events");
    victim
        .scratch
        .raw()
        .execute("UPDATE audit_head SET count = 0, head = ?1", [genesis(&victim).as_bytes()])
        .unwrap();
    assert!(victim.store.audit_verify().unwrap().is_intact());
    assert_eq!(
        victim.store.audit_verify_since(count, &head).unwrap().findings,
        [AuditFinding::ShorterThanKept { kept: 20, found: 0 }]
    );
    (7..=12).for_each(|number| run_through(&victim.store, number));
    assert!(victim.store.audit_verify().unwrap().is_intact());
    assert_eq!(
        victim.store.audit_verify_since(count, &head).unwrap().findings,
        [AuditFinding::NotAsKept { seq: 20 }]
    );
}

fn genesis(victim: &Victim) -> Digest {
    crate::audit::chain::genesis(victim.store.id())
}

#[test]
fn an_event_of_another_store_fits_nowhere() {
    let (victim, other) = (Victim::new(), Victim::new());
    let (here, there) = (victim.scratch.database(), other.scratch.database());
    drop(other.store);
    let raw = victim.scratch.raw();
    raw.execute("ATTACH ?1 AS other", [there.to_str().unwrap()]).unwrap();
    raw.execute_batch(
        "DROP TRIGGER an_event_stays; DELETE FROM main.events;
         INSERT INTO main.events SELECT * FROM other.events;
         UPDATE main.audit_head SET head = (SELECT head FROM other.audit_head)",
    )
    .unwrap();
    let found = Store::open(&here).unwrap().audit_verify().unwrap().findings;
    assert_eq!(found, [AuditFinding::Unlinked { seq: 1 }]);
}

#[test]
fn what_is_found_is_bounded() {
    let scratch = Scratch::new();
    let store = scratch.open();
    (1..=300).for_each(|number| run_through(&store, number));
    let victim = Victim { scratch, store };
    victim.does("UPDATE events SET body = '{}'");
    let report = victim.store.audit_verify().unwrap();
    assert_eq!(report.findings.len(), AuditReport::MAX_FINDINGS);
    assert_eq!(report.unlisted, 200);
    assert!(!report.is_intact());
}
