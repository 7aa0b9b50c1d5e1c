//! Chaos on real VMs: as many runs as OUTLAST_CHAOS_RUNS says (100 unless told), OUTLAST_CHAOS_AT_ONCE at a time
//! (4), planned from OUTLAST_CHAOS_SEED (printed; the time unless told). The result goes into the directory
//! OUTLAST_CHAOS_REPORT, if there is one. `tools/chaos` keeps it in `docs/proofs/`.

use outlast_e2e::chaos::{Ended, Flavor, Report, Run, Seen, Target, strike, violations};
use outlast_e2e::{Lab, Setup, until};
use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

#[test]
fn long_chaos_leaves_one_legal_outcome_for_each_run_and_nothing_else() {
    let (runs, at_once) = (number("OUTLAST_CHAOS_RUNS", 100), number("OUTLAST_CHAOS_AT_ONCE", 4));
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    chaos(
        number("OUTLAST_CHAOS_SEED", now()),
        u32::try_from(runs).unwrap(),
        usize::try_from(at_once).unwrap(),
    );
}

/// The same, small, in every check.
#[test]
fn chaos_with_nine_runs_leaves_one_legal_outcome_for_each_and_nothing_else() {
    chaos(number("OUTLAST_CHAOS_SEED", 20), 9, 3);
}

fn number(name: &str, otherwise: u64) -> u64 {
    env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

fn chaos(seed: u64, runs: u32, at_once: usize) {
    eprintln!("OUTLAST_CHAOS_SEED={seed} OUTLAST_CHAOS_RUNS={runs}");
    Setup::new().run(|lab| {
        let began = Instant::now();
        let (unharmed, lasts) = baseline(lab);
        let ended = everything(lab, at_once, runs, |number| Run::plan(seed, number, |flavor| lasts[&flavor]));
        let said = look(lab);
        let mut report = Report::new(seed, at_once, &ended, &said.workloads, began.elapsed());
        let all = [ended.as_slice(), &unharmed].concat();
        report.violations = violations(&all, &said);
        judge_host(lab, &mut report);
        negative_controls(lab, &all, &said, &mut report);
        keep(&report);
        eprintln!("{}", report.markdown());
        assert!(report.violations.is_empty(), "seed {seed}: {:#?}", report.violations);
        // Of a few runs few kills may hit: their moments are planned from how long a run takes beside others.
        let enough = if ended.len() < 100 { 1 } else { ended.len() / 3 };
        assert!(report.hits >= enough, "{} of {} kills hit: nothing is proved", report.hits, ended.len());
    });
}

/// How often a kind may need to be tried until it works unharmed twice: a host with far more to do than it can
/// exceeds the deadline of a boot, which is an honest end.
const ATTEMPTS: u32 = 8;

/// Runs each kind unharmed, until it has worked twice: the first time may have a template to make, the second
/// tells how long it takes.
fn baseline(lab: &Lab) -> (Vec<Ended>, BTreeMap<Flavor, Duration>) {
    let (mut ended, mut lasts) = (Vec::new(), BTreeMap::new());
    for (kind, flavor) in (0..).zip(Flavor::ALL) {
        let natural = Some(if flavor == Flavor::Timeout { 124 } else { 0 });
        let mut good = 0;
        for attempt in 0..ATTEMPTS {
            let number = 90_000 + 100 * kind + attempt;
            let run = Run { number, flavor, target: Target::Cli, after: Duration::ZERO };
            let one = strike(lab, &run, false);
            good += u32::from(one.code == natural);
            lasts.insert(flavor, one.took.max(Duration::from_millis(300)));
            ended.push(one);
            if good == 2 {
                break;
            }
        }
        assert_eq!(good, 2, "the baseline of {flavor:?}: {ended:#?}");
    }
    // A detached run goes on for about as long as one that is waited for.
    lasts.insert(Flavor::Detached, lasts[&Flavor::Clone]);
    (ended, lasts)
}

fn everything(lab: &Lab, at_once: usize, runs: u32, plan: impl Fn(u32) -> Run + Sync) -> Vec<Ended> {
    let (next, ended) = (AtomicU32::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= runs {
                        return;
                    }
                    let one = strike(lab, &plan(number), true);
                    ended.lock().expect("nobody panicked").push(one);
                }
            });
        }
    });
    let mut ended = ended.into_inner().expect("nobody panicked");
    ended.sort_by_key(|one| one.run.number);
    ended
}

/// Waits until everything is over and asks for all there is to know.
fn look(lab: &Lab) -> Seen {
    let open = |lab: &Lab| lab.workloads().iter().filter(|view| view.outcome.is_none()).count();
    until("every workload is over", Duration::from_secs(400), || (open(lab) == 0).then_some(()));
    let workloads = lab.workloads();
    let printed = |id: &String| (id.clone(), lab.outlast(&["logs", id]).stdout_text());
    let printed = workloads.iter().map(|view| printed(&view.id)).collect();
    let events = lab.outlast(&["events", "--json"]).expect_code(0).stdout_text();
    let events = events.lines().map(|line| serde_json::from_str(line).expect("an event")).collect();
    Seen { workloads, events, printed }
}

fn judge_host(lab: &Lab, report: &mut Report) {
    let mut check = |what: &str, check: &dyn Fn()| {
        let fine = catch_unwind(AssertUnwindSafe(check)).is_ok();
        report.checks.push((what.to_owned(), if fine { "pass" } else { "FAIL" }.to_owned()));
        if !fine {
            report.violations.push(format!("{what}: see what the test printed"));
        }
    };
    check("the host's inventory is as before", &|| lab.expect_nothing_left());
    check("doctor finds no leak", &|| assert_eq!(lab.doctor().leaks.len(), 0));
    check("the audit log is intact", &|| drop(lab.outlast(&["audit", "verify"]).expect_code(0).clone()));
    check("the next run works", &|| {
        let again = lab.python("print('run-99999')", &["--timeout", "5m"]).run();
        again.expect_code(0).expect_stdout("run-99999\n");
    });
}

/// Every judge is shown a fault of its kind and must go red.
fn negative_controls(lab: &Lab, ended: &[Ended], seen: &Seen, report: &mut Report) {
    let mut control = |what: &str, red: bool| {
        let said = if red { "red, as it must be" } else { "NOT SEEN" };
        report.checks.push((format!("planted: {what}"), said.to_owned()));
        if !red {
            report.violations.push(format!("the judge does not see {what}"));
        }
    };
    let before = violations(ended, seen).len();
    let is_red = |changed: &Seen| violations(ended, changed).len() > before;
    let planted = lab.places().run().join("planted");
    fs::create_dir(&planted).expect("a leak can be planted");
    control("a run directory left", catch_unwind(AssertUnwindSafe(|| lab.expect_nothing_left())).is_err());
    fs::remove_dir(&planted).expect("and removed again");
    let mut doubled = seen.clone();
    let end = doubled.events.iter().find(|event| event.kind == "incarnation.ended").cloned();
    doubled.events.extend(end);
    control("a second end of an incarnation", is_red(&doubled));
    let mut twice = seen.clone();
    twice.workloads.extend(seen.workloads.first().cloned());
    control("a second workload of a run", is_red(&twice));
    let mut lost = seen.clone();
    lost.workloads[0].outcome = None;
    control("a workload without an outcome", is_red(&lost));
    let mut lie = seen.clone();
    for printed in lie.printed.values_mut() {
        printed.insert_str(0, "what nobody printed\n");
    }
    control("output of a program that never ran", is_red(&lie));
}

fn keep(report: &Report) {
    let Some(directory) = env::var_os("OUTLAST_CHAOS_REPORT").map(PathBuf::from) else { return };
    fs::create_dir_all(&directory).expect("the result has a place");
    fs::write(directory.join("chaos.md"), report.markdown()).expect("the result can be kept");
    let json = serde_json::to_vec_pretty(report).expect("a report is plain data");
    fs::write(directory.join("chaos.json"), json).expect("the result can be kept");
}
