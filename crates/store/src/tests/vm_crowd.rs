//! Many who start, stop and remove the same VMs at once: threads with connections of their own, and processes that are
//! killed in the middle of it. And what many VMs cost.

use crate::testing::{Scratch, end_with, new_vm, new_vm_start, process, publication, run_vm, vm_id};
use crate::{
    OfDisks, OfLiving, Owner, RemovalEnd, RemovalNote, StartNote, StopNote, Store, StoreError, VmPage,
};
use outlast_model::VmState;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

const THREADS: u64 = 20;

#[test]
fn of_many_starts_one_is_new() {
    let scratch = Scratch::new();
    scratch.open().create_vm(&new_vm(1)).unwrap();
    for round in 0..5 {
        let (news, start) = (AtomicU32::new(0), Barrier::new(20));
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (store, news, start) = (scratch.open(), &news, &start);
                scope.spawn(move || {
                    start.wait();
                    match store.start_vm(&new_vm_start(1, 100 + round * 100 + thread)).unwrap() {
                        StartNote::New => {
                            news.fetch_add(1, Ordering::Relaxed);
                        }
                        StartNote::AlreadyLiving { state: VmState::Starting, .. } => {}
                        note @ StartNote::AlreadyLiving { .. } => panic!("{note:?}"),
                    }
                });
            }
        });
        assert_eq!(news.into_inner(), 1);
        let store = scratch.open();
        let living = store.living().unwrap();
        assert_eq!(living.len(), 1);
        let who = process(7);
        store.claim(living[0].id, &who, 2_000).unwrap();
        store.publish(living[0].id, &who, &publication()).unwrap();
        store.end(living[0].id, &Owner::Runner(&who), &end_with(None)).unwrap();
    }
    assert_eq!(scratch.open().incarnations_of(vm_id(1), 99).unwrap().len(), 5);
}

/// A start and a removal of one VM at the same time: whoever is first decides, and nothing is left of the other.
#[test]
fn a_start_and_a_removal_at_once_have_one_winner() {
    let (mut starts, mut removals) = (0, 0);
    for _ in 0..20 {
        let scratch = Scratch::new();
        scratch.open().create_vm(&new_vm(1)).unwrap();
        let barrier = Barrier::new(2);
        let (started, removed) = std::thread::scope(|scope| {
            let starter = scope.spawn(|| {
                let store = scratch.open();
                barrier.wait();
                store.start_vm(&new_vm_start(1, 10))
            });
            let store = scratch.open();
            barrier.wait();
            let removed = store.request_removal(vm_id(1), OfLiving::Refuse, OfDisks::Remove, 5).unwrap();
            (starter.join().unwrap(), removed)
        });
        match (started, removed) {
            (Ok(StartNote::New), RemovalNote::Living { .. }) => starts += 1,
            (Err(StoreError::VmBeingRemoved { .. }), RemovalNote::Noted) => {
                removals += 1;
                assert_eq!(scratch.open().finish_removal(vm_id(1), 6).unwrap(), RemovalEnd::Removed);
            }
            both => panic!("{both:?}"),
        }
    }
    assert_eq!(starts + removals, 20);
}

const CHILD: &str = "OUTLAST_STORE_TEST_VM_CHILD";
const NUMBER: &str = "OUTLAST_STORE_TEST_VM_NUMBER";
const NAME: &str = "tests::vm_crowd::killed_keepers_of_vms_leave_no_half";
const CHILDREN: u64 = 3;
const ROUNDS: u64 = 8;

/// As in `kill`: the child says what was acknowledged, the parent kills it at a random place among its commits. All
/// children work on the same two VMs, so what one leaves behind another finds, and ends as a reconciler would.
#[test]
fn killed_keepers_of_vms_leave_no_half() {
    if let Some(database) = std::env::var_os(CHILD) {
        let number = std::env::var(NUMBER).unwrap().parse().unwrap();
        keep_until_killed(Path::new(&database), number);
    }
    let scratch = Scratch::new();
    for vm in [1, 2] {
        scratch.open().create_vm(&new_vm(vm)).unwrap();
    }
    let mut acknowledged = 0;
    for round in 0..ROUNDS {
        let children: Vec<Child> =
            (0..CHILDREN).map(|n| spawn(&scratch.database(), (round * CHILDREN + n + 1) * 100_000)).collect();
        for (index, child) in (0u64..).zip(children) {
            let lines = 1 + (round * 7919 + index * 104_729) % 61;
            acknowledged += kill_after(child, usize::try_from(lines).unwrap());
        }
        judge(&scratch);
    }
    assert!(acknowledged > 100, "the children did work: {acknowledged}");
    let report = scratch.open().audit_verify().unwrap();
    assert!(report.count >= acknowledged, "an acknowledged change is told: {acknowledged} {report:?}");
}

fn spawn(database: &Path, number: u64) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", NAME, "--nocapture"]).env(CHILD, database).env(NUMBER, number.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
}

fn kill_after(mut child: Child, lines: usize) -> u64 {
    let mut said = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        if line == "ack" {
            said += 1;
            if said == lines {
                child.kill().unwrap();
            }
        }
    }
    let status = child.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{status}");
    u64::try_from(said).unwrap()
}

/// A VM's state and its incarnations tell the same story, whoever was killed where.
fn judge(scratch: &Scratch) {
    let store = scratch.open();
    assert_eq!(store.check_integrity().unwrap(), Vec::<String>::new());
    let report = store.audit_verify().unwrap();
    assert!(report.is_intact(), "{report:?}");
    let mut events = 0;
    for vm in [1, 2] {
        let row = store.vm(vm_id(vm)).unwrap().unwrap();
        let incarnations = store.incarnations_of(vm_id(vm), u32::MAX).unwrap();
        let living: Vec<_> = incarnations.iter().filter(|row| row.ended_unix_ns.is_none()).collect();
        assert_eq!(living.len(), usize::from(row.state.is_living()), "{row:?}");
        assert!(living.first().is_none_or(|living| Some(living.id) == row.incarnation));
        assert_eq!(row.incarnation, incarnations.first().map(|newest| newest.id), "the newest is the VM's");
        let published = living.first().is_some_and(|living| living.running_unix_ns.is_some());
        match row.state {
            VmState::Starting => assert!(!published && row.stop_requested_unix_ns.is_none()),
            VmState::Running | VmState::Paused => assert!(published && row.stop_requested_unix_ns.is_none()),
            VmState::Stopping => assert!(row.stop_requested_unix_ns.is_some()),
            VmState::Created | VmState::Stopped | VmState::Failed => {}
        }
        // One for the VM, and one for every step of every incarnation; wishes to stop come on top.
        events += 1;
        for incarnation in &incarnations {
            let steps = [incarnation.claimed_unix_ns, incarnation.running_unix_ns, incarnation.ended_unix_ns];
            events += 1 + steps.iter().flatten().count();
        }
    }
    let stops =
        store.events(0, u32::MAX).unwrap().iter().filter(|e| e.kind.name() == "vm.stop-requested").count();
    assert_eq!(u64::try_from(events + stops).unwrap(), report.count, "no half transaction, none told twice");
}

fn keep_until_killed(database: &Path, mut number: u64) -> ! {
    let who = process(std::process::id());
    loop {
        let store = Store::open(database).unwrap();
        number += 1;
        let vm = 1 + number % 2;
        match store.start_vm(&new_vm_start(vm, number)).unwrap() {
            StartNote::New => {
                acknowledge();
                run_on(&store, vm, number, &who);
            }
            StartNote::AlreadyLiving { incarnation, .. } => {
                // Perhaps of one that was killed; whoever reads the row as it is may end it, once.
                if matches!(store.request_stop(vm_id(vm), 9).unwrap(), StopNote::Noted { .. }) {
                    acknowledge();
                }
                let row = store.incarnation(incarnation).unwrap().expect("rows stay");
                if row.ended_unix_ns.is_some() {
                    continue;
                }
                let owner = Owner::Reconciler { expected: row.state, runner: row.runner.clone() };
                match store.end(incarnation, &owner, &end_with(None)) {
                    Ok(()) => acknowledge(),
                    // Somebody else was faster, or it was stopped and started anew meanwhile.
                    Err(StoreError::NotOwner { .. } | StoreError::FailedStartMissing { .. }) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        }
    }
}

/// Runs what was started to its end, unless somebody else ends it first.
fn run_on(store: &Store, vm: u64, number: u64, who: &outlast_wire::identity::ProcessIdentity) {
    let id = new_vm_start(vm, number).incarnation;
    if store.claim(id, who, 2_000).is_err() {
        return;
    }
    acknowledge();
    if store.publish(id, who, &publication()).is_err() {
        return;
    }
    acknowledge();
    if store.end(id, &Owner::Runner(who), &end_with(None)).is_ok() {
        acknowledge();
    }
}

fn acknowledge() {
    let mut out = std::io::stdout();
    out.write_all(b"ack\n").unwrap();
    out.flush().unwrap();
}

/// Not a promise of speed: what a thousand VMs cost is published, and that the list is whole is asserted.
#[test]
fn a_thousand_vms_are_listed_whole() {
    let scratch = Scratch::new();
    let store = scratch.open();
    for number in 1..=1_000 {
        store.create_vm(&new_vm(number)).unwrap();
        if number % 50 == 0 {
            run_vm(&store, number, number);
        }
    }
    let began = Instant::now();
    let rows = store.vms(&VmPage { limit: 2_000, after: None }).unwrap();
    println!("1,000 VMs are listed in {:?}", began.elapsed());
    assert_eq!(rows.len(), 1_000);
    assert!(rows.is_sorted_by_key(|row| row.name.clone()));
    assert_eq!(rows.iter().filter(|row| row.death.is_some()).count(), 20);
    let began = Instant::now();
    assert_eq!(store.vm_names_like("vm-10000", 3).unwrap().len(), 2);
    println!("names like one are found in {:?}", began.elapsed());
}
