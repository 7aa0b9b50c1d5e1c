//! Chaos on real VMs: as many kills as OUTLAST_CHAOS_RUNS says (100 unless told), OUTLAST_CHAOS_AT_ONCE runs at a
//! time (4), planned from OUTLAST_CHAOS_SEED (printed; the time unless told). The result goes into the directory
//! OUTLAST_CHAOS_REPORT, if there is one. `tools/chaos` keeps it in `docs/proofs/`.

use outlast_e2e::chaos::{
    Ended, Flavor, Life, Moment, Proof, Report, Run, Seen, Target, host, plan, strike, violations,
};
use outlast_e2e::{Lab, Setup, until};
use outlast_wire::journal::Journal;
use outlast_wire::paths::Evidence;
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
    let (kills, at_once) = (number("OUTLAST_CHAOS_RUNS", 100), number("OUTLAST_CHAOS_AT_ONCE", 4));
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let seed = number("OUTLAST_CHAOS_SEED", now());
    chaos(seed, u32::try_from(kills).unwrap(), usize::try_from(at_once).unwrap(), |report| {
        assert_eq!(
            report.verdict, "pass",
            "seed {seed}: {:#?} {:#?}",
            report.violations, report.proof.doubts
        );
    });
}

/// The same, small, in every check: too few for a verdict of pass, and nothing may be wrong.
#[test]
fn chaos_with_nine_runs_leaves_one_legal_outcome_for_each_and_nothing_else() {
    let seed = number("OUTLAST_CHAOS_SEED", 20);
    chaos(seed, 9, 3, |report| {
        assert!(report.violations.is_empty(), "seed {seed}: {:#?}", report.violations);
        assert!(report.proof.hits > 0, "seed {seed}: no kill hit: nothing is proved");
        assert!(report.proof.fell_back.is_empty(), "seed {seed}: {:?}", report.proof.fell_back);
    });
}

fn number(name: &str, otherwise: u64) -> u64 {
    env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

fn chaos(seed: u64, kills: u32, at_once: usize, judge: impl FnOnce(&Report)) {
    eprintln!("OUTLAST_CHAOS_SEED={seed} OUTLAST_CHAOS_AT_ONCE={at_once} OUTLAST_CHAOS_RUNS={kills}");
    Setup::new().run(|lab| {
        let (began, host) = (Instant::now(), host());
        let mut unharmed = warm_up(lab);
        let (measured, lives) = baseline(lab, at_once, if kills < 27 { 2 } else { 5 });
        unharmed.extend(measured);
        let planned = plan(seed, kills, |flavor| shortest(&lives[&flavor]));
        let (ended, said) = everything(lab, at_once, &planned);
        let mut report = Report::new(seed, at_once, &ended, &said, Proof::of(&planned, &ended, &said));
        report.tell_lives(&lives);
        let all = [ended.as_slice(), &unharmed].concat();
        report.violations = violations(&all, &said);
        judge_host(lab, &mut report);
        negative_controls(lab, &all, &said, &mut report);
        controls_of_the_proof(&planned, &ended, &said, &mut report);
        report.conclude(began.elapsed(), host);
        keep(&report);
        eprintln!("{}", report.markdown());
        judge(&report);
    });
}

/// Runs that nobody harms have numbers from here on.
const UNHARMED: u32 = 90_000;

fn unharmed(number: u32, flavor: Flavor) -> Run {
    Run { number: UNHARMED + number, flavor, target: Target::Runner, moment: Moment::Never }
}

/// Each kind once, alone: the first run may have a template to make.
fn warm_up(lab: &Lab) -> Vec<Ended> {
    (0..).zip(Flavor::ALL).map(|(number, flavor)| strike(lab, &unharmed(number, flavor))).collect()
}

/// How long runs take with as many neighbours as they will have: each kind so often, among others of all kinds that
/// go on until the last of these is over.
fn baseline(lab: &Lab, at_once: usize, samples: u32) -> (Vec<Ended>, BTreeMap<Flavor, Vec<Life>>) {
    let wanted = samples * u32::try_from(Flavor::ALL.len()).expect("five");
    let open = AtomicU32::new(wanted);
    let ended = side_by_side(at_once, |number| {
        let flavor = Flavor::ALL[usize::try_from(number).expect("a few") % Flavor::ALL.len()];
        let one = (open.load(Ordering::SeqCst) > 0).then(|| strike(lab, &unharmed(100 + number, flavor)));
        if number < wanted {
            open.fetch_sub(1, Ordering::SeqCst);
        }
        one
    });
    let mut lives: BTreeMap<Flavor, Vec<Life>> = BTreeMap::new();
    for one in ended.iter().filter(|one| one.run.number < UNHARMED + 100 + wanted) {
        let flavor = one.run.flavor;
        if one.code == Some(if flavor == Flavor::Timeout { 124 } else { 0 }) {
            lives.entry(flavor).or_default().push(Life { command: one.command, whole: one.whole });
        }
    }
    for flavor in Flavor::ALL {
        assert!(lives.contains_key(&flavor), "the baseline of {flavor:?} did not hold: {ended:#?}");
    }
    (ended, lives)
}

fn shortest(lives: &[Life]) -> Life {
    let least = |part: fn(&Life) -> Duration| lives.iter().map(part).min().expect("a life is known");
    Life { command: least(|life| life.command), whole: least(|life| life.whole) }
}

/// So many runs are made before what they left is read: the product keeps the evidence of a thousand.
const AT_A_TIME: usize = 250;

/// The whole plan, and what the product says of it.
fn everything(lab: &Lab, at_once: usize, plan: &[Run]) -> (Vec<Ended>, Seen) {
    let (mut ended, mut seen) = (Vec::new(), Seen::default());
    for part in plan.chunks(AT_A_TIME) {
        ended.extend(side_by_side(at_once, |number| {
            part.get(usize::try_from(number).expect("a few")).map(|run| strike(lab, run))
        }));
        look(lab, &mut seen);
    }
    (ended, seen)
}

/// Calls it with 0, 1, 2 … until it has nothing more, so many at once; what it gave, in order.
fn side_by_side(at_once: usize, one: impl Fn(u32) -> Option<Ended> + Sync) -> Vec<Ended> {
    let (next, ended) = (AtomicU32::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(one) = one(next.fetch_add(1, Ordering::Relaxed)) {
                    ended.lock().expect("nobody panicked").push(one);
                }
            });
        }
    });
    let mut ended = ended.into_inner().expect("nobody panicked");
    ended.sort_by_key(|one| one.run.number);
    ended
}

/// Waits until everything is over and asks for all there is to know. What a run left is read once.
fn look(lab: &Lab, seen: &mut Seen) {
    let open = |lab: &Lab| lab.workloads().iter().filter(|view| view.outcome.is_none()).count();
    until("every workload is over", Duration::from_secs(400), || (open(lab) == 0).then_some(()));
    seen.workloads = lab.workloads();
    let journal = |incarnation: &String| {
        let evidence = Evidence::at(lab.places().incarnations().join(incarnation));
        Journal::parse(&fs::read(evidence.journal()).unwrap_or_default())
    };
    for view in &seen.workloads {
        if !seen.journals.contains_key(&view.id) {
            seen.printed.insert(view.id.clone(), lab.outlast(&["logs", &view.id]).stdout_text());
            seen.journals.insert(view.id.clone(), journal(&view.incarnation));
        }
    }
    let events = lab.outlast(&["events", "--json"]).expect_code(0).stdout_text();
    seen.events = events.lines().map(|line| serde_json::from_str(line).expect("an event")).collect();
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
    let mut control = |what: &str, red: bool| tell_control(report, what, red);
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

/// What must leave the verdict unknown.
fn controls_of_the_proof(plan: &[Run], ended: &[Ended], seen: &Seen, report: &mut Report) {
    let before = Proof::of(plan, ended, seen).doubts;
    let mut booted = seen.clone();
    for view in booted.workloads.iter_mut().filter(|view| view.started_from.is_some()) {
        view.started_from = Some("boot".to_owned());
    }
    let doubts = Proof::of(plan, ended, &booted).doubts;
    tell_control(report, "clones that booted", doubts != before);
    let missing = ended.split_last().map_or(ended, |(_, rest)| rest);
    let doubts = Proof::of(plan, missing, seen).doubts;
    tell_control(report, "a run without a record", doubts != before);
}

fn tell_control(report: &mut Report, what: &str, red: bool) {
    let said = if red { "seen, as it must be" } else { "NOT SEEN" };
    report.checks.push((format!("planted: {what}"), said.to_owned()));
    if !red {
        report.violations.push(format!("the judge does not see {what}"));
    }
}

fn keep(report: &Report) {
    let Some(directory) = env::var_os("OUTLAST_CHAOS_REPORT").map(PathBuf::from) else { return };
    fs::create_dir_all(&directory).expect("the result has a place");
    fs::write(directory.join("chaos.md"), report.markdown()).expect("the result can be kept");
    let json = serde_json::to_vec_pretty(report).expect("a report is plain data");
    fs::write(directory.join("chaos.json"), json).expect("the result can be kept");
}
