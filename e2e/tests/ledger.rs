//! What is written down: idempotency keys, exactly one outcome, and the audit chain.

use outlast_e2e::{Lab, Setup, on_lab};
use outlast_wire::view::{AuditView, RunView};
use std::process::Command;

#[test]
fn an_idempotency_key_used_twice_runs_once_and_gives_the_first_result() {
    on_lab(|lab| {
        let code = "import uuid, sys\nprint(uuid.uuid4())\nprint('e', file=sys.stderr)\nsys.exit(5)\n";
        let once = || lab.python(code, &["--json", "--idempotency-key", "order-1"]).run();
        let first: RunView = once().expect_code(5).json();
        let second: RunView = once().expect_code(5).json();
        assert_eq!((&second.id, &second.stdout, &second.stderr), (&first.id, &first.stdout, &first.stderr));
        assert_eq!(lab.only_workload().id, first.id);
        let other = lab.python(code, &["--json", "--idempotency-key", "order-2"]).run();
        assert_ne!(other.expect_code(5).json::<RunView>().stdout, first.stdout, "another key is another run");
    });
}

#[test]
fn an_idempotency_key_used_by_two_at_the_same_time_runs_once() {
    on_lab(|lab| {
        lab.python("pass", &[]).run().expect_code(0);
        let code = "import uuid, time\ntime.sleep(1)\nprint(uuid.uuid4())\n";
        let runs: Vec<_> =
            (0..4).map(|_| lab.python(code, &["--json", "--idempotency-key", "k"]).start()).collect();
        let views: Vec<RunView> = runs.into_iter().map(|run| run.wait().expect_code(0).json()).collect();
        assert!(
            views.iter().all(|view| view.id == views[0].id && view.stdout == views[0].stdout),
            "{views:#?}"
        );
        assert_eq!(lab.workloads().len(), 2, "the warm-up and one more");
    });
}

/// Changes the database as somebody with the file in hand would: behind every check the product has in SQL.
fn tamper(lab: &Lab, statements: &[&str]) {
    let script = format!(
        "import sqlite3\n\
         c = sqlite3.connect({database:?}, isolation_level=None, timeout=30)\n\
         for (name,) in c.execute(\"select name from sqlite_master where type = 'trigger'\").fetchall():\n    \
             c.execute('drop trigger \"' + name + '\"')\n\
         before = c.total_changes\n\
         for statement in {statements:?}: c.execute(statement)\n\
         assert c.total_changes > before, 'the statement changed nothing'\n",
        database = lab.places().database().to_str().expect("a short path"),
    );
    let status = Command::new("python3").args(["-c", &script]).status();
    let status = status.expect("python3 is needed to tamper with the store: apt-get install python3");
    assert!(status.success(), "the store could not be tampered with");
}

/// The number of a row in the middle of the chain.
const MIDDLE: &str = "(select seq from events order by seq limit 1 offset (select count(*) / 2 from events))";
const LAST: &str = "(select max(seq) from events)";

/// Tampers, and compares every finding with what is expected, given the number of the middle and of the last row.
#[track_caller]
fn tampered(statements: &[&str], expected: impl Fn(i64, i64) -> Vec<String>) {
    Setup::new().audit_will_break().run(|lab| {
        for code in ["1", "2"] {
            lab.python(code, &[]).run().expect_code(0);
        }
        let good = lab.outlast(&["audit", "verify"]);
        good.expect_code(0);
        let row = query(lab, &format!("select {MIDDLE}, {LAST}, (select count(*) from events)"));
        let (middle, last, count) = (row[0], row[1], row[2]);
        assert!(count >= 6, "two runs leave at least three events each: {count}");
        tamper(lab, statements);
        expect_findings(lab, count, &expected(middle, last));
    });
}

/// That both forms of the verification find exactly this, and that the head still counts `count` events.
#[track_caller]
fn expect_findings(lab: &Lab, count: i64, expected: &[String]) {
    let view: AuditView = lab.outlast(&["audit", "verify", "--json"]).expect_code(1).json();
    assert_eq!(view.findings, expected);
    assert_eq!((view.intact, i64::try_from(view.count), view.unlisted), (false, Ok(count), 0));
    let text = lab.outlast(&["audit", "verify"]).expect_code(1).stdout_text();
    let mut lines = expected.to_vec();
    lines.push(format!("NOT INTACT: {count} events, head {}", view.head));
    assert_eq!(text.lines().collect::<Vec<_>>(), lines);
}

fn query(lab: &Lab, query: &str) -> Vec<i64> {
    let script = format!(
        "import sqlite3, json\nprint(json.dumps(sqlite3.connect({:?}).execute({query:?}).fetchone()))",
        lab.places().database().to_str().expect("a short path")
    );
    let output = Command::new("python3").args(["-c", &script]).output().expect("python3 is needed");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("a row of numbers")
}

#[test]
fn a_changed_row_of_the_audit_chain_is_found() {
    let change = format!("update events set body = replace(body, '{{', '{{ ') || ' ' where seq = {MIDDLE}");
    tampered(&[&change], |middle, _| vec![format!("event {middle} was changed")]);
}

#[test]
fn a_changed_time_in_the_audit_chain_is_found() {
    let change = format!("update events set unix_ns = unix_ns + 1 where seq = {MIDDLE}");
    tampered(&[&change], |middle, _| vec![format!("event {middle} was changed")]);
}

#[test]
fn a_removed_row_of_the_audit_chain_is_found() {
    let removal = format!("delete from events where seq = {MIDDLE}");
    tampered(&[&removal], |middle, _| vec![format!("events {middle} to {middle} were removed")]);
}

#[test]
fn a_lost_tail_of_the_audit_chain_is_found() {
    let removal = format!("delete from events where seq = {LAST}");
    tampered(&[&removal], |_, last| vec![format!("the newest events, {last} to {last}, were removed")]);
}

#[test]
fn two_rows_of_the_audit_chain_in_the_wrong_order_are_found() {
    // What the two rows say is exchanged, hashes and all: every row is genuine, only its place is not.
    let copy =
        format!("create temp table pair as select * from events where seq in ({MIDDLE}, {MIDDLE} + 1)");
    let column = |name: &str| format!("{name} = (select {name} from pair where pair.seq <> events.seq)");
    let columns = ["unix_ns", "kind", "subject", "body", "previous", "hash"].map(column).join(", ");
    let swap = format!("update events set {columns} where seq in (select seq from pair)");
    tampered(&[&copy, &swap], |middle, _| {
        let next = middle + 1;
        vec![
            format!("event {middle} was event {next}: moved"),
            format!("event {next} was event {middle}: moved"),
        ]
    });
}

#[test]
fn all_events_gone_is_found() {
    Setup::new().audit_will_break().run(|lab| {
        lab.python("pass", &[]).run().expect_code(0);
        let count = query(lab, "select count(*), 0 from events")[0];
        tamper(lab, &["delete from events"]);
        expect_findings(lab, count, &[format!("the newest events, 1 to {count}, were removed")]);
    });
}
