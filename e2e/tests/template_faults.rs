//! Templates under fire: damaged, replaced and taken away while clones run and while they start, and makers that are
//! killed. Whatever happens, a run has one honest outcome, says how it started, and the next one clones again.

use outlast_e2e::call::Running;
use outlast_e2e::deadline::until;
use outlast_e2e::file::{flip_a_bit, sha256};
use outlast_e2e::process::{self, Process};
use outlast_e2e::{Lab, Setup};
use outlast_prove::FaultPoint;
use outlast_wire::journal::{Journal, JournalEntry, StepPhase};
use outlast_wire::view::RunView;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A program that says when it runs, stays long enough for something to be done to its template, and then uses
/// memory that its guest has not touched since it was cloned.
const BUSY: &str = "import sys, time\n\
    print('up', flush=True)\n\
    time.sleep(5)\n\
    import decimal, email, json, sqlite3, ssl, unittest, xml.dom.minidom\n\
    pages = [bytes([n % 251]) * 4096 for n in range(4096)]\n\
    print(sum(page[7] for page in pages))\n";
/// What it prints at its end.
const BUSY_END: &str = "up\n505160\n";

/// Something that may happen to the files of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Truncated,
    Flipped,
    Replaced,
    Unlinked,
    Evicted,
}

impl Fault {
    fn happen(self, lab: &Lab) {
        let template = template(lab);
        let memory = template.join("memory");
        match self {
            Self::Truncated => writable(&memory).set_len(4096).expect("root may write"),
            Self::Flipped => flip_a_bit(&memory),
            Self::Replaced => {
                let other = template.join("other");
                fs::write(&other, vec![0xa5; 1 << 20]).expect("root may write");
                fs::rename(other, memory).expect("root may write");
            }
            Self::Unlinked => fs::remove_file(memory).expect("root may write"),
            Self::Evicted => drop(lab.outlast(&["template", "rm", &key(&template)]).expect_code(0)),
        }
    }

    /// Whether a clone that mapped the file before still has all of it.
    const fn spares_running_clones(self) -> bool {
        matches!(self, Self::Replaced | Self::Unlinked | Self::Evicted)
    }
}

fn writable(path: &Path) -> fs::File {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("root may change modes");
    OpenOptions::new().write(true).open(path).expect("root may write")
}

fn key(template: &Path) -> String {
    template.file_name().and_then(|name| name.to_str()).expect("a key is text").to_owned()
}

/// The directory of the one template there is.
#[track_caller]
fn template(lab: &Lab) -> PathBuf {
    match lab.templates().as_slice() {
        [one] => one.clone(),
        others => panic!("one template is there, not {others:?}"),
    }
}

#[track_caller]
fn clone_again(lab: &Lab) {
    // The first of them may have to boot, having found the damage; the template is made again by the second.
    lab.python("print('next')", &[]).run().expect_code(0).expect_stdout("next\n");
    let view: RunView = lab.python("print('next')", &["--json"]).run().expect_code(0).json();
    assert_eq!((view.started_from.as_deref(), view.fell_back), (Some("clone"), None));
    assert_eq!(view.stdout, "next\n");
}

#[track_caller]
fn while_a_clone_runs(fault: Fault) {
    Setup::new().own_library().run(|lab| {
        lab.python("pass", &[]).run().expect_code(0);
        let mut running = lab.python(BUSY, &[]).start();
        assert_eq!(running.line(0, Duration::from_secs(60)).text, "up");
        assert!(running.is_running(), "the fault comes while the clone runs");
        fault.happen(lab);
        // Of the others the guest may have touched what is gone by now.
        assert!(running.is_running() || !fault.spares_running_clones(), "and it came in time");
        let output = running.wait();
        let view = lab.workloads().remove(0);
        assert_eq!(view.started_from.as_deref(), Some("clone"));
        if fault.spares_running_clones() {
            output.expect_code(0).expect_stdout(BUSY_END);
        } else {
            // Memory that is not there is the end of the VMM; memory that is wrong may be anything to the guest.
            // What it may not be is another outcome than what its code, its kernel or its VMM really came to.
            let outcome = view.outcome.expect("it is over");
            let kinds = ["completed", "failed", "lost", "timed_out", "out_of_memory"];
            assert!(kinds.contains(&outcome.kind.as_str()), "{outcome:?}");
        }
        if fault == Fault::Truncated {
            output.expect_code(125);
            let death = lab.show(&view.id).death.expect("a death certificate");
            assert_eq!((death.cause.as_str(), death.signal), ("vmm_signalled", Some(7)), "SIGBUS: {death:?}");
        }
        clone_again(lab);
    });
}

#[test]
fn a_template_truncated_under_a_running_clone_costs_that_clone_and_nothing_else() {
    while_a_clone_runs(Fault::Truncated);
}

#[test]
fn a_template_flipped_under_a_running_clone_is_found_by_the_next() {
    while_a_clone_runs(Fault::Flipped);
}

#[test]
fn a_template_replaced_under_a_running_clone_leaves_it_alone_and_is_found_by_the_next() {
    while_a_clone_runs(Fault::Replaced);
}

#[test]
fn a_template_unlinked_under_a_running_clone_leaves_it_alone() {
    while_a_clone_runs(Fault::Unlinked);
}

#[test]
fn a_template_evicted_under_a_running_clone_leaves_it_alone() {
    while_a_clone_runs(Fault::Evicted);
}

/// The template was checked, and then something happens to it before the clone has it.
#[track_caller]
fn while_a_clone_starts(fault: Fault, point: &str) {
    Setup::new().own_library().marked_for_proofs().run(|lab| {
        lab.python("pass", &[]).run().expect_code(0);
        let running = lab.python("print('ran')", &["--json"]).env("OUTLAST_HOLD", point).start();
        let evidence = lab.until_held(FaultPoint::named(point).expect("a fault point"));
        fault.happen(lab);
        fs::remove_file(evidence.hold()).expect("the hold is there");
        let output = running.wait();
        let view: RunView = output.expect_code(0).json();
        assert_eq!(view.stdout, "ran\n");
        assert_eq!(view.started_from.as_deref(), Some("boot"), "{point}: a clone of nothing: {view:?}");
        let because = view.fell_back.expect("the fact is shown");
        assert!(!because.is_empty());
        assert_eq!(lab.show(&view.id).fell_back, Some(because));
        clone_again(lab);
    });
}

#[test]
fn a_template_evicted_before_its_clone_has_it_lets_the_run_boot() {
    while_a_clone_starts(Fault::Evicted, "launch-vmm:before");
}

#[test]
fn a_template_unlinked_before_its_clone_has_it_lets_the_run_boot() {
    while_a_clone_starts(Fault::Unlinked, "launch-vmm:before");
}

#[test]
fn a_template_truncated_before_its_clone_has_it_lets_the_run_boot() {
    while_a_clone_starts(Fault::Truncated, "launch-vmm:before");
}

#[test]
fn a_template_replaced_before_its_clone_has_it_lets_the_run_boot() {
    while_a_clone_starts(Fault::Replaced, "launch-vmm:before");
}

/// Moments in the life of a template's maker, by its journal.
const MOMENTS: [&str; 12] = [
    "claim:begin",
    "claim:done",
    "run-directory:done",
    "disks:done",
    "launch-vmm:begin",
    "launch-vmm:done",
    "start-guest:done",
    "agent-hello:done",
    "publish:done",
    "warmed",
    "quiesced",
    "saved",
];

fn has_come(journal: &Journal, moment: &str) -> bool {
    let is_it = |entry: &JournalEntry| match entry {
        JournalEntry::Template { phase } => phase == moment,
        JournalEntry::Step { step, phase: StepPhase::Begin, .. } => format!("{step}:begin") == moment,
        JournalEntry::Step { step, phase: StepPhase::Done, .. } => format!("{step}:done") == moment,
        _ => false,
    };
    journal.lines.iter().any(|line| is_it(&line.entry))
}

/// Kills the only runner there is as soon as its journal says that the moment has come. Tells whether it was killed; one
/// that has finished its work meanwhile was not.
#[track_caller]
fn kill_maker_at(lab: &Lab, moment: &str, running: &Running) -> bool {
    let runner = until("the maker's runner is there", Duration::from_secs(60), || {
        process::runners().iter().find_map(Process::hold)
    });
    until(&format!("the maker is at {moment}"), Duration::from_secs(120), || {
        let come = lab.incarnations().into_iter().next().is_some_and(|evidence| {
            has_come(&Journal::parse(&fs::read(evidence.journal()).unwrap_or_default()), moment)
        });
        (come || runner.is_dead()).then_some(())
    });
    let in_time = !runner.is_dead();
    if in_time {
        runner.kill();
    }
    assert!(running.is_running() || lab.only_workload().outcome.is_some());
    in_time
}

#[track_caller]
fn maker_killed_at(moment: &str) {
    Setup::new().own_library().run(|lab| {
        let running = lab.python("print('ran')", &["--json"]).start();
        let killed = kill_maker_at(lab, moment, &running);
        // After it was saved there is nothing left to do for it, and it may be faster than we are.
        assert!(killed || moment == "saved", "the maker came to its end before it was killed");
        let view: RunView = running.wait().expect_code(0).json();
        assert_eq!(view.stdout, "ran\n", "the run itself goes on");
        match (view.started_from.as_deref(), view.fell_back) {
            (Some("boot"), Some(because)) => {
                assert!(because.contains("runner killed") && because.contains("template"), "{because}");
                assert_eq!(lab.templates(), [] as [PathBuf; 0], "half a template is none");
            }
            // The kill came when everything was saved: then it is whole.
            (Some("clone"), None) if moment == "saved" => assert_eq!(lab.templates().len(), 1),
            other => panic!("killed at {moment}: {other:?}"),
        }
        lab.expect_nothing_left();
        clone_again(lab);
    });
}

#[test]
fn a_maker_killed_while_its_guest_boots_leaves_nothing_and_the_run_boots() {
    maker_killed_at("launch-vmm:done");
}

#[test]
fn a_maker_killed_while_it_warms_up_leaves_nothing_and_the_run_boots() {
    maker_killed_at("publish:done");
}

#[test]
fn long_a_maker_killed_at_every_moment_leaves_nothing_and_the_run_boots() {
    for moment in MOMENTS {
        eprintln!("killed at {moment}");
        maker_killed_at(moment);
    }
}

#[test]
fn two_homes_that_share_a_library_make_one_template() {
    Setup::new().own_library().run(|lab| {
        let second = lab.path("second-home");
        let runs = [
            lab.python("print(1)", &[]).start(),
            lab.python("print(2)", &[]).env("OUTLAST_HOME", &second).start(),
        ];
        for (number, run) in runs.into_iter().enumerate() {
            run.wait().expect_code(0).expect_stdout(&format!("{}\n", number + 1));
        }
        let template = template(lab);
        let before = sha256(&fs::read(template.join("manifest.json")).expect("it is published"));
        for home in [lab.home(), &second] {
            let view: RunView =
                lab.python("pass", &["--json"]).env("OUTLAST_HOME", home).run().expect_code(0).json();
            assert_eq!((view.started_from.as_deref(), view.fell_back), (Some("clone"), None));
        }
        assert_eq!(
            sha256(&fs::read(template.join("manifest.json")).expect("it is published")),
            before,
            "made once"
        );
        let doctor = lab.call(&["doctor", "--json"]).env("OUTLAST_HOME", &second).run();
        let leaks = doctor.json::<serde_json::Value>()["leaks"].clone();
        assert_eq!(leaks, serde_json::json!([]), "{doctor}");
    });
}
