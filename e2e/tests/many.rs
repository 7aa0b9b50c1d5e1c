//! Many runs at once, and what two clones of one template may not have in common.

use outlast_e2e::call::Running;
use outlast_e2e::on_lab;
use outlast_wire::journal::{Journal, JournalEntry, StepPhase};
use outlast_wire::view::RunView;
use std::collections::BTreeSet;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// Everything of a guest that must be its own.
const IDENTITY: &str = "import json, os, random, socket, time, uuid\n\
    print(json.dumps({\n\
    'time_ns': time.time_ns(),\n\
    'uuid4': str(uuid.uuid4()),\n\
    'urandom': os.urandom(32).hex(),\n\
    'kernel_uuid': open('/proc/sys/kernel/random/uuid').read().strip(),\n\
    'random': random.random(),\n\
    'hash': hash('outlast'),\n\
    'host': socket.gethostname(),\n\
    'machine': open('/etc/machine-id').read().strip(),\n\
    }))\n";

fn unix_ns() -> i128 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    i128::try_from(now.as_nanos()).expect("it is earlier than the end of time")
}

#[test]
fn clones_of_one_template_differ_in_everything_that_must_be_their_own_and_know_the_time() {
    on_lab(|lab| {
        lab.python("pass", &[]).run().expect_code(0);
        let mut seen: Vec<serde_json::Value> = Vec::new();
        for _ in 0..3 {
            let before = unix_ns();
            let view: RunView = lab.python(IDENTITY, &["--json"]).run().expect_code(0).json();
            let after = unix_ns();
            assert_eq!(view.started_from.as_deref(), Some("clone"), "{:?}", view.fell_back);
            let identity: serde_json::Value =
                serde_json::from_str(&view.stdout).expect("the guest speaks JSON");
            let guest = i128::from(identity["time_ns"].as_u64().expect("a time"));
            let tolerance = 50_000_000;
            assert!(
                guest >= before - tolerance && guest <= after + tolerance,
                "{before} ≤ {guest} ≤ {after}"
            );
            let certificate = view.certificate.expect("a clone is certified");
            assert_eq!(
                identity["host"],
                certificate.host_name.as_str(),
                "the guest is called what its certificate says"
            );
            assert_eq!(identity["machine"], certificate.machine_id.as_str());
            assert_eq!(certificate.machine_id.len(), 32);
            seen.push(identity);
        }
        for field in ["uuid4", "urandom", "kernel_uuid", "random", "hash", "host", "machine"] {
            let values: BTreeSet<String> = seen.iter().map(|identity| identity[field].to_string()).collect();
            assert_eq!(values.len(), seen.len(), "{field} is the same in two clones: {values:?}");
        }
    });
}

#[test]
fn alone_twenty_runs_at_once_all_end_with_their_own_output_and_nothing_is_left() {
    const RUNS: usize = 20;
    on_lab(|lab| {
        lab.python("pass", &[]).run().expect_code(0);
        let code =
            |n: usize| format!("import uuid\nprint({n}, uuid.uuid4())\nimport sys; sys.exit({})", n % 7);
        let running: Vec<Running> = (0..RUNS).map(|n| lab.python(&code(n), &[]).start()).collect();
        let mut uuids = BTreeSet::new();
        for (n, run) in running.into_iter().enumerate() {
            let output = run.wait();
            output.expect_code(i32::try_from(n % 7).unwrap());
            let text = output.stdout_text();
            let (number, uuid) = text.trim().split_once(' ').expect("number and uuid");
            assert_eq!(number, n.to_string(), "the output of another run");
            uuids.insert(uuid.to_owned());
        }
        assert_eq!(uuids.len(), RUNS, "every run has a uuid of its own");
        let all = lab.workloads();
        assert_eq!(all.len(), RUNS + 1);
        assert!(all.iter().all(|view| view.outcome.is_some()));
        let incarnations: BTreeSet<&str> = all.iter().map(|view| view.incarnation.as_str()).collect();
        assert_eq!(incarnations.len(), RUNS + 1);
    });
}

/// Ten random numbers of every kind a program may draw, from one guest.
const UUIDS: &str = "import os, uuid\n\
    kernel = lambda: open('/proc/sys/kernel/random/uuid').read().strip()\n\
    draw = [lambda: str(uuid.uuid4()), kernel, lambda: os.urandom(16).hex(), lambda: os.getrandom(16).hex()]\n\
    for n in range(10): print(draw[n % 4]())\n";

#[test]
fn alone_a_thousand_uuids_of_a_hundred_clones_are_all_different() {
    const CLONES: usize = 100;
    const AT_ONCE: usize = 4;
    on_lab(|lab| {
        lab.python("pass", &[]).run().expect_code(0);
        let mut all = BTreeSet::new();
        for _ in 0..CLONES / AT_ONCE {
            let runs: Vec<Running> = (0..AT_ONCE).map(|_| lab.python(UUIDS, &["--json"]).start()).collect();
            for run in runs {
                let view: RunView = run.wait().expect_code(0).json();
                assert_eq!(view.started_from.as_deref(), Some("clone"), "{:?}", view.fell_back);
                assert_eq!(view.stdout.lines().count(), 10);
                all.extend(view.stdout.lines().map(str::to_owned));
                assert!(view.certificate.expect("a clone is certified").entropy_bytes >= 32);
            }
        }
        assert_eq!(all.len(), 10 * CLONES, "two guests, or one guest twice, drew the same");
        let journals = lab.incarnations().into_iter().map(|evidence| fs::read(evidence.journal()).unwrap());
        let mut programs = 0;
        for journal in journals.map(|bytes| Journal::parse(&bytes)) {
            let at = |wanted: &dyn Fn(&JournalEntry) -> bool| {
                let line = journal.lines.iter().find(|line| wanted(&line.entry));
                line.map(|line| line.monotonic_ns)
            };
            // A template's maker starts no program of a workload.
            let sent = at(&|entry| matches!(entry, JournalEntry::Program { phase, .. } if phase == "sent"));
            let Some(sent) = sent else { continue };
            programs += 1;
            let certified = at(
                &|entry| matches!(entry, JournalEntry::Step { step, phase: StepPhase::Done, .. } if step == "certify"),
            );
            let certified = certified.expect("a guest that got a program was certified");
            assert!(certified < sent, "the guest was reseeded before any program started");
        }
        assert_eq!(programs, CLONES + 1);
    });
}

#[test]
fn alone_twenty_clones_at_once_know_the_time() {
    const CLONES: usize = 20;
    on_lab(|lab| {
        lab.python("pass", &[]).run().expect_code(0);
        let code = "import time; print(time.time_ns())";
        let began = unix_ns();
        let runs: Vec<Running> = (0..CLONES).map(|_| lab.python(code, &["--json"]).start()).collect();
        let views: Vec<RunView> = runs.into_iter().map(|run| run.wait().expect_code(0).json()).collect();
        let ended = unix_ns();
        for view in views {
            let tolerance = 50_000_000;
            let guest: i128 = view.stdout.trim().parse().expect("a time");
            assert!(guest >= began - tolerance && guest <= ended + tolerance, "{began} ≤ {guest} ≤ {ended}");
            let [low, high] = view.certificate.expect("certified").clock_offset_ns;
            assert!(low <= high && low >= -50_000_000 && high <= 50_000_000, "[{low}, {high}] ns");
        }
    });
}

#[test]
fn alone_two_first_runs_at_once_make_one_template_and_both_run() {
    outlast_e2e::Setup::new().own_library().run(|lab| {
        let runs: Vec<Running> = (0..2).map(|n| lab.python(&format!("print({n})"), &[]).start()).collect();
        for (n, run) in runs.into_iter().enumerate() {
            run.wait().expect_code(0).expect_stdout(&format!("{n}\n"));
        }
        assert_eq!(lab.templates().len(), 1, "one template for one key");
    });
}
