//! A thousand VMs: what a look at all of them costs.

use outlast_e2e::{Lab, on_lab};
use rusqlite::{Connection, params};
use std::time::{Duration, Instant};

/// The published limit of `vm ls` with 1,000 VMs that are stopped and 20 that run.
const LIMIT: Duration = Duration::from_millis(100);
const STOPPED: u64 = 1000;
const RUNNING: u64 = 20;
/// The middle of so many looks counts: one of them may be put off by whatever else the host does.
const LOOKS: usize = 11;

/// Makes copies of a VM that has stopped, and of how it ended: by hand, because a disk for each would take minutes.
fn copies(lab: &Lab, name: &str) {
    let mut store = Connection::open(lab.places().database()).expect("the store can be opened");
    store.busy_timeout(Duration::from_secs(10)).expect("a timeout can be set");
    let change = store.transaction().expect("a transaction");
    let columns = |table: &str, own: &[&str]| -> String {
        let query = format!("SELECT name FROM pragma_table_info('{table}')");
        let mut rows = change.prepare(&query).expect("a table of the store");
        let names = rows.query_map([], |row| row.get::<_, String>(0)).expect("its columns");
        let others = names.flatten().filter(|name| !own.contains(&name.as_str()));
        others.collect::<Vec<_>>().join(", ")
    };
    let vm = columns("vms", &["number", "id", "name", "state", "incarnation"]);
    let incarnation = columns("incarnations", &["number", "id", "vm"]);
    let find = "SELECT number, incarnation FROM vms WHERE name = ?1 AND removed_unix_ns IS NULL";
    let (of_vm, of_incarnation): (i64, i64) = change
        .query_row(find, [name], |row| Ok((row.get(0)?, row.get(1)?)))
        .expect("the VM is there and has run");
    for index in 0..STOPPED {
        let id = |kind: u64| format!("{:026}", kind * 1_000_000 + index);
        let made = format!(
            "INSERT INTO vms (id, name, state, {vm}) SELECT ?1, ?2, 'created', {vm} FROM vms WHERE number = ?3"
        );
        change.execute(&made, params![id(1), format!("copy-{index:04}"), of_vm]).expect("a VM");
        let number = change.last_insert_rowid();
        let ran = format!(
            "INSERT INTO incarnations (id, vm, {incarnation}) SELECT ?1, ?2, {incarnation} FROM incarnations \
             WHERE number = ?3"
        );
        change.execute(&ran, params![id(2), number, of_incarnation]).expect("an incarnation");
        let stopped = "UPDATE vms SET state = 'stopped', incarnation = ?1 WHERE number = ?2";
        change.execute(stopped, params![change.last_insert_rowid(), number]).expect("a VM that has run");
    }
    change.commit().expect("the store can be written");
}

#[test]
fn alone_a_look_at_a_thousand_stopped_and_twenty_running_vms_takes_no_longer_than_100_ms() {
    on_lab(|lab| {
        lab.running_vm("once");
        lab.outlast(&["vm", "stop", "--force", "once"]).expect_code(0);
        copies(lab, "once");
        let name = |index: u64| format!("runs-{index:02}");
        (0..RUNNING).for_each(|index| drop(lab.create_vm(&name(index))));
        let starts: Vec<_> =
            (0..RUNNING).map(|index| lab.call(&["vm", "start", &name(index)]).start()).collect();
        for start in starts {
            start.wait().expect_code(0);
        }
        let mut took = Vec::new();
        for _ in 0..LOOKS {
            let began = Instant::now();
            let output = lab.outlast(&["vm", "ls"]);
            took.push(began.elapsed());
            let lines = output.expect_code(0).stdout_text();
            assert_eq!(lines.lines().filter(|line| line.contains("running")).count(), 20, "{lines}");
        }
        took.sort_unstable();
        println!("vm ls: {took:?}");
        let vms = lab.vms();
        let in_state = |state: &str| vms.iter().filter(|vm| vm.state == state).count();
        assert_eq!((in_state("stopped"), in_state("running")), (1001, 20));
        assert!(took[LOOKS / 2] <= LIMIT, "the middle one of {took:?}");
        // Nobody shall have to stop and remove a thousand of them one after the other.
        let store = Connection::open(lab.places().database()).expect("the store can be opened");
        store.busy_timeout(Duration::from_secs(10)).expect("a timeout can be set");
        let gone =
            "UPDATE vms SET removal_requested_unix_ns = 1, removed_unix_ns = 1 WHERE name LIKE 'copy-%'";
        assert_eq!(store.execute(gone, []).expect("the store can be written"), 1000);
    });
}
