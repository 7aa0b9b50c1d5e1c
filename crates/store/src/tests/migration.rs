//! Migrations: every older version there ever was is opened, by the list as it is and as it will grow.

use crate::connection;
use crate::schema::{self, MIGRATIONS, version_of};
use crate::testing::{Scratch, new_workload, run_through};
use crate::{Store, StoreError};
use outlast_model::StoreId;
use rusqlite::Connection;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

/// What the next version could look like: it only adds.
const NEXT: &str = "CREATE TABLE pools (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
                    ALTER TABLE incarnations ADD COLUMN pool INTEGER REFERENCES pools (number);
                    CREATE INDEX incarnations_by_pool ON incarnations (pool) WHERE pool IS NOT NULL;";

/// A store as the outlast of version `version` left it: the first migrations of the list, step by step.
fn store_of_version(scratch: &Scratch, version: usize) {
    fs::create_dir(scratch.home()).unwrap();
    fs::set_permissions(scratch.home(), Permissions::from_mode(0o700)).unwrap();
    let connection = Connection::open(scratch.database()).unwrap();
    connection.execute_batch("PRAGMA journal_mode = WAL").unwrap();
    schema::found(&connection, StoreId::from_parts(1, 1), &MIGRATIONS[..version]).unwrap();
}

fn version(scratch: &Scratch) -> i64 {
    scratch.raw().query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap()
}

#[test]
fn every_older_version_is_brought_up_to_date() {
    for older in 1..=MIGRATIONS.len() {
        let scratch = Scratch::empty();
        store_of_version(&scratch, older);
        assert_eq!(version(&scratch), i64::try_from(older).unwrap());
        let store = scratch.open();
        assert_eq!(version(&scratch), version_of(MIGRATIONS));
        run_through(&store, 1);
        assert!(store.audit_verify().unwrap().is_intact());
        assert_eq!(store.check_integrity().unwrap(), Vec::<String>::new());
    }
}

#[test]
fn step_by_step_and_at_once_lead_to_the_same_schema() {
    let schema_of = |scratch: &Scratch| -> Vec<String> {
        let raw = scratch.raw();
        let mut statement =
            raw.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    let (stepped, whole) = (Scratch::empty(), Scratch::new());
    store_of_version(&stepped, 1);
    stepped.open();
    assert_eq!(schema_of(&stepped), schema_of(&whole));
}

#[test]
fn the_next_version_keeps_what_there_is_and_is_refused_by_this_one() {
    let scratch = Scratch::new();
    let this = scratch.open();
    run_through(&this, 1);
    let next: Vec<&str> = MIGRATIONS.iter().copied().chain([NEXT]).collect();
    let upgraded = Store::open_with(&scratch.database(), &next).unwrap();
    assert_eq!(version(&scratch), version_of(&next));
    assert_eq!(upgraded.id(), this.id());
    assert_eq!(upgraded.workloads(&crate::Page { all: true, limit: 9, before: None }).unwrap().len(), 1);
    // A runner of this version that had the store open goes on.
    run_through(&this, 2);
    assert!(upgraded.audit_verify().unwrap().is_intact());
    let refused = Store::open(&scratch.database()).unwrap_err();
    assert!(matches!(refused, StoreError::Newer { .. }), "{refused:?}");
}

#[test]
fn a_migration_that_fails_changes_nothing() {
    let scratch = Scratch::new();
    let broken: Vec<&str> =
        MIGRATIONS.iter().copied().chain(["CREATE TABLE half (x) STRICT; nonsense;"]).collect();
    assert!(matches!(Store::open_with(&scratch.database(), &broken), Err(StoreError::Sql { .. })));
    assert_eq!(version(&scratch), version_of(MIGRATIONS));
    run_through(&scratch.open(), 1);
}

/// Several commands find an older store at once; one migrates it, the others find it done.
#[test]
fn many_may_migrate_at_once() {
    let scratch = Scratch::new();
    let next: Vec<&str> = MIGRATIONS.iter().copied().chain([NEXT]).collect();
    std::thread::scope(|scope| {
        for number in 1..=8 {
            let (database, next) = (scratch.database(), &next);
            scope.spawn(move || {
                let store = Store::open_with(&database, next).unwrap();
                let _ = store.accept(&new_workload(number, None)).unwrap();
            });
        }
    });
    assert_eq!(version(&scratch), version_of(&next));
    let connection = connection::open(&scratch.database()).unwrap();
    let count: i64 = connection.query_row("SELECT count(*) FROM workloads", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 8);
}
