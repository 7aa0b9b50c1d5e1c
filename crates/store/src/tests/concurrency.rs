//! Many writers on one file, each with its own connection.

use crate::testing::{Scratch, new_workload, process, publication, run_through};
use crate::{Acceptance, ClaimError, Page, Store};
use outlast_model::StoreId;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};

const THREADS: u64 = 8;
const RUNS: u64 = 25;

/// No writer sees BUSY, nothing is lost, the chain is whole; the store itself is made by all of them at once.
#[test]
fn writers_wait_for_each_other() {
    let scratch = Scratch::empty();
    let start = Barrier::new(8);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (database, start) = (scratch.database(), &start);
            scope.spawn(move || {
                start.wait();
                let store = Store::open(&database).unwrap();
                for run in 0..RUNS {
                    run_through(&store, thread * 1_000 + run + 1);
                }
            });
        }
    });
    let store = scratch.open();
    let report = store.audit_verify().unwrap();
    assert!(report.is_intact(), "{report:?}");
    assert_eq!(report.count, THREADS * RUNS * 4);
    let rows = store.workloads(&Page { all: true, limit: 10_000, before: None }).unwrap();
    assert_eq!(u64::try_from(rows.len()).unwrap(), THREADS * RUNS);
    assert_eq!(store.check_integrity().unwrap(), Vec::<String>::new());
}

#[test]
fn of_many_who_make_the_store_one_does() {
    for _ in 0..10 {
        let (scratch, start) = (Scratch::empty(), Barrier::new(16));
        let ids: Vec<StoreId> = std::thread::scope(|scope| {
            let make = || {
                start.wait();
                Store::open(&scratch.database()).unwrap().id()
            };
            let makers: Vec<_> = (0..16).map(|_| scope.spawn(make)).collect();
            makers.into_iter().map(|maker| maker.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        let names = std::fs::read_dir(scratch.home()).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(names.into_iter().all(|name| !name.to_string_lossy().contains(".new-")));
    }
}

/// Opening, writing and closing all the time, so that the log's index is rebuilt and locked again and again.
#[test]
fn short_lived_connections_never_fail() {
    let scratch = Scratch::new();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let database = scratch.database();
            scope.spawn(move || {
                for run in 0..RUNS {
                    let store = Store::open(&database).unwrap();
                    let _ = store.accept(&new_workload(thread * 1_000 + run + 1, None)).unwrap();
                }
            });
        }
    });
    assert_eq!(scratch.open().audit_verify().unwrap().count, THREADS * RUNS);
}

#[test]
fn of_many_claims_one_wins() {
    let scratch = Scratch::new();
    let new = new_workload(1, None);
    let _ = scratch.open().accept(&new).unwrap();
    let (wins, start) = (AtomicU32::new(0), Barrier::new(8));
    std::thread::scope(|scope| {
        for pid in 2..10 {
            let (store, new, wins, start) = (scratch.open(), &new, &wins, &start);
            scope.spawn(move || {
                start.wait();
                match store.claim(new.incarnation, &process(pid), 2) {
                    Ok(_) => {
                        wins.fetch_add(1, Ordering::Relaxed);
                        store.publish(new.incarnation, &process(pid), &publication()).unwrap();
                    }
                    Err(ClaimError::Taken { runner: Some(_), .. }) => {}
                    Err(error) => panic!("{error:?}"),
                }
            });
        }
    });
    assert_eq!(wins.into_inner(), 1);
}

#[test]
fn of_many_equal_keys_one_is_new() {
    let scratch = Scratch::new();
    let (news, start) = (AtomicU32::new(0), Barrier::new(8));
    std::thread::scope(|scope| {
        for number in 1..=THREADS {
            let (store, news, start) = (scratch.open(), &news, &start);
            scope.spawn(move || {
                start.wait();
                if store.accept(&new_workload(number, Some("one"))).unwrap() == Acceptance::New {
                    news.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(news.into_inner(), 1);
    assert_eq!(scratch.open().living().unwrap().len(), 1);
}

/// An audit reads one moment while others go on writing.
#[test]
fn an_audit_beside_writers_finds_nothing() {
    let scratch = Scratch::new();
    std::thread::scope(|scope| {
        let writer = scratch.open();
        let writing = scope.spawn(move || (1..=100).for_each(|number| run_through(&writer, number)));
        let auditor = scratch.open();
        while !writing.is_finished() {
            let report = auditor.audit_verify().unwrap();
            assert!(report.is_intact(), "{report:?}");
        }
    });
}
