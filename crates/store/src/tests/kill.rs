//! Processes killed in the middle of everything: what they were told is written stays written.
//!
//! The test starts itself again as a child (an environment variable tells the child what it is). The child runs
//! workloads and says on a pipe what each commit acknowledged; the parent kills it after a random number of such
//! lines, which is at a random place in the commits behind them. A killed process loses nothing the kernel has,
//! so this judges transactions and locks, not the disk's cache.

use crate::testing::{Scratch, end_with, incarnation_id, new_workload, process, publication, workload_id};
use crate::{Owner, Page, Store};
use outlast_model::{IncarnationState, Outcome};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const CHILD: &str = "OUTLAST_STORE_TEST_CHILD";
const FIRST: &str = "OUTLAST_STORE_TEST_FIRST";
const NAME: &str = "tests::kill::killed_writers_lose_nothing_they_acknowledged";
const ROUNDS: u64 = 12;
const CHILDREN: u64 = 3;
const PER_CHILD: u64 = 1_000_000;

#[test]
fn killed_writers_lose_nothing_they_acknowledged() {
    if let Some(database) = std::env::var_os(CHILD) {
        let first = std::env::var(FIRST).unwrap().parse().unwrap();
        write_until_killed(Path::new(&database), first);
    }
    let scratch = Scratch::empty();
    let mut acknowledged: HashMap<u64, IncarnationState> = HashMap::new();
    for round in 0..ROUNDS {
        let children: Vec<Child> =
            (0..CHILDREN).map(|n| start(&scratch.database(), (round * CHILDREN + n) * PER_CHILD)).collect();
        // All of them write at once until the first is killed; the number of lines is the only randomness needed.
        for (index, child) in (0u64..).zip(children) {
            let lines = 1 + (round * 7919 + index * 104_729) % 97;
            acknowledged.extend(kill_after(child, usize::try_from(lines).unwrap()));
        }
        judge(&scratch, &acknowledged);
    }
    assert!(acknowledged.len() > 50, "the children did work: {}", acknowledged.len());
}

fn start(database: &Path, first: u64) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", NAME, "--nocapture"]).env(CHILD, database).env(FIRST, first.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
}

/// Everything the child said until it died, after it was killed behind its `lines`th line.
fn kill_after(mut child: Child, lines: usize) -> Vec<(u64, IncarnationState)> {
    let mut said = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        // A last line without its end was not written whole, and acknowledges nothing that matters here.
        if let Some((number, state)) = parse(&line) {
            said.push((number, state));
            if said.len() == lines {
                child.kill().unwrap();
            }
        }
    }
    let status = child.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{status}");
    said
}

fn parse(line: &str) -> Option<(u64, IncarnationState)> {
    let (number, state) = line.strip_prefix("ack ")?.strip_suffix(" .")?.split_once(' ')?;
    Some((number.parse().ok()?, IncarnationState::from_name(state)?))
}

fn judge(scratch: &Scratch, acknowledged: &HashMap<u64, IncarnationState>) {
    let store = scratch.open();
    assert_eq!(store.check_integrity().unwrap(), Vec::<String>::new());
    let report = store.audit_verify().unwrap();
    assert!(report.is_intact(), "{report:?}");
    let rank = |s: IncarnationState| IncarnationState::ALL.iter().position(|x| *x == s);
    for (number, state) in acknowledged {
        let row = store.incarnation(incarnation_id(*number)).unwrap().expect("an acknowledged row");
        assert!(rank(row.state) >= rank(*state), "{number}: {} was {}", row.state.name(), state.name());
        let workload = store.workload(workload_id(*number)).unwrap().unwrap();
        assert_eq!(workload.ended_unix_ns.is_some(), row.ended_unix_ns.is_some(), "both or neither");
    }
    // Each workload tells as many events as its state has steps: no half transaction, none twice.
    let rows = store.workloads(&Page { all: true, limit: u32::MAX, before: None }).unwrap();
    let steps = |row: &crate::WorkloadRow| match row.state.name() {
        "pending" => 1,
        "starting" => 2,
        "running" => 3,
        _ => 4,
    };
    assert_eq!(rows.iter().map(steps).sum::<u64>(), report.count);
}

fn write_until_killed(database: &Path, first: u64) -> ! {
    let mut out = std::io::stdout();
    let mut acknowledge = |number: u64, state: IncarnationState| {
        out.write_all(format!("ack {number} {} .\n", state.name()).as_bytes()).unwrap();
        out.flush().unwrap();
    };
    for number in first + 1.. {
        // Opening is killed as well, and so is making the store.
        let store = Store::open(database).unwrap();
        let (new, who) = (new_workload(number, None), process(std::process::id()));
        let _ = store.accept(&new).unwrap();
        acknowledge(number, IncarnationState::Intended);
        store.claim(new.incarnation, &who, 2_000).unwrap();
        acknowledge(number, IncarnationState::Claimed);
        store.publish(new.incarnation, &who, &publication()).unwrap();
        acknowledge(number, IncarnationState::Running);
        let end = end_with(Some(&Outcome::Completed));
        store.end(new.incarnation, &Owner::Runner(&who), &end).unwrap();
        acknowledge(number, IncarnationState::Ended);
    }
    unreachable!("numbers do not run out")
}
