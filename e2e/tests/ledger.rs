//! What is written down: idempotency keys, exactly one outcome, and the audit chain.

use outlast_e2e::{Lab, Setup, on_lab};
use outlast_wire::view::RunView;
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

#[track_caller]
fn tampered(statements: &[&str]) {
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
        let bad = lab.outlast(&["audit", "verify"]);
        bad.expect_code(1);
        let said = bad.stdout_text() + &bad.stderr_text();
        let named =
            |number: i64| said.split(|c: char| !c.is_ascii_digit()).any(|word| word == number.to_string());
        assert!(
            named(middle) || named(middle + 1) || named(last) || named(last - 1),
            "the row ({middle}, or the end {last}) is named:\n{bad}"
        );
        let found = lab.outlast(&["audit", "verify", "--json"]);
        found.expect_code(1);
        found.json::<serde_json::Value>();
    });
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
    tampered(&[&format!("update events set body = replace(body, '{{', '{{ ') || ' ' where seq = {MIDDLE}")]);
}

#[test]
fn a_changed_time_in_the_audit_chain_is_found() {
    tampered(&[&format!("update events set unix_ns = unix_ns + 1 where seq = {MIDDLE}")]);
}

#[test]
fn a_removed_row_of_the_audit_chain_is_found() {
    tampered(&[&format!("delete from events where seq = {MIDDLE}")]);
}

#[test]
fn a_lost_tail_of_the_audit_chain_is_found() {
    tampered(&[&format!("delete from events where seq = {LAST}")]);
}

#[test]
fn two_rows_of_the_audit_chain_in_the_wrong_order_are_found() {
    // What the two rows say is exchanged, hashes and all: every row is genuine, only its place is not.
    let copy =
        format!("create temp table pair as select * from events where seq in ({MIDDLE}, {MIDDLE} + 1)");
    let column = |name: &str| format!("{name} = (select {name} from pair where pair.seq <> events.seq)");
    let columns = ["unix_ns", "kind", "subject", "body", "previous", "hash"].map(column).join(", ");
    let swap = format!("update events set {columns} where seq in (select seq from pair)");
    tampered(&[&copy, &swap]);
}

#[test]
fn all_events_gone_is_found() {
    Setup::new().audit_will_break().run(|lab| {
        lab.python("pass", &[]).run().expect_code(0);
        tamper(lab, &["delete from events"]);
        lab.outlast(&["audit", "verify"]).expect_code(1);
    });
}
