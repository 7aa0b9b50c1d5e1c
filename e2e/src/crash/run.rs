//! Runs one case and judges it: the one right outcome, written once, nothing left, and the next run works.

use super::cause::{Cause, Scene};
use super::ends::{expect_ends, incarnation, release};
use super::plan::{Expected, Plan, plan};
use super::{Case, Fault, Start};
use crate::call::{Output, Running};
use crate::deadline::until;
use crate::lab::Lab;
use crate::setup::Setup;
use crate::{cgroups, freezer, skip};
use outlast_prove::{BootStep, Edge, Place, RunPhase};
use outlast_wire::journal::{Journal, JournalEntry, StepPhase};
use outlast_wire::paths::Evidence;
use outlast_wire::view::WorkloadView;
use rustix::process::Signal;
use std::fs;
use std::time::Duration;

const SHORT: &str = "print('held')\n";
/// Runs for longer than any case.
const LONG: &str = "import time\nprint('held')\ntime.sleep(600)\n";
const SOON: Duration = Duration::from_secs(20);
/// Longer than a boot's deadline and everything that may follow.
const AT_LAST: Duration = Duration::from_secs(180);

/// Runs a case in a lab of its own.
///
/// # Panics
/// When it does not end as it must; that is how a test says no.
pub fn run(case: Case) {
    let Plan::Do { cause, expected } = plan(case) else { panic!("{} makes no sense", case.name()) };
    if cause == Some(Cause::VmmFrozen) && !freezer::is_there() {
        skip::say(
            "a VMM that does not die",
            "there is no freezer of cgroup v1, and SIGKILL gets through in v2",
        );
        return;
    }
    let setup = cause.map_or_else(Setup::new, Cause::setup);
    setup.marked_for_proofs().run(|lab| Trial { lab, case, cause, expected }.run());
}

/// A case in its lab.
struct Trial<'a> {
    lab: &'a Lab,
    case: Case,
    cause: Option<Cause>,
    expected: Expected,
}

impl Trial<'_> {
    fn run(&self) {
        // The baseline holds, and there is a template.
        self.call("print('before')\n", &[]).run().expect_code(0).expect_stdout("before\n");
        let running = self.start();
        let evidence = self.lab.until_held(self.case.point);
        let output = match self.case.fault {
            Fault::Error | Fault::Timeout => self.cause_and_wait(running, &evidence),
            Fault::Runner | Fault::Vmm | Fault::Both | Fault::Launcher => {
                self.kill_and_wait(running, &evidence)
            }
        };
        self.judge(&output, &evidence);
        self.lab.expect_nothing_left();
        self.call("print('after')\n", &[]).run().expect_code(0).expect_stdout("after\n");
    }

    fn call(&self, code: &str, further: &[&str]) -> crate::call::Call<'_> {
        let file = self.lab.file("code.py", code).display().to_string();
        let mut words = vec!["run", "--runtime", "python"];
        if self.case.start == Start::Cold {
            words.push("--cold");
        }
        words.extend(further);
        words.push(&file);
        self.lab.call(&words)
    }

    fn start(&self) -> Running {
        let stdin = self.lab.file("stdin", "some input\n").display().to_string();
        let outputs = self.lab.path("outputs").display().to_string();
        let mut further = vec!["--stdin", &stdin];
        if self.wants_files() {
            further.extend(["--output-dir", &outputs]);
        }
        let long = self.cause.is_some_and(Cause::needs_a_long_program);
        // A host with much to do must not be taken for a program that takes too long.
        further.extend(["--timeout", if self.cause == Some(Cause::ProgramDeadline) { "2s" } else { "10m" }]);
        let code = if long { LONG } else { SHORT };
        self.call(code, &further).env("OUTLAST_HOLD", self.case.point.name()).start()
    }

    /// Without somebody who wants the files back there is no such phase, and the next one is the VMM's end.
    fn wants_files(&self) -> bool {
        self.case.point.place() == Place::Run(RunPhase::Outputs)
            || self.cause == Some(Cause::OutputsInTheWay)
            || (self.cause == Some(Cause::VmmStopped)
                && self.case.point.upcoming() == Some(Place::Run(RunPhase::Outputs)))
    }

    /// Whether somebody wants files that had not been fetched when the fault came.
    fn misses_files(&self) -> bool {
        let fetched =
            self.case.point.place() == Place::Run(RunPhase::Outputs) && self.case.point.edge() == Edge::After;
        self.wants_files() && !fetched
    }

    fn kill_and_wait(&self, running: Running, evidence: &Evidence) -> Output {
        match self.case.fault {
            Fault::Launcher => self.lab.launcher().kill(),
            Fault::Runner => self.lab.runner().kill(),
            Fault::Vmm => self.kill_vmm(),
            Fault::Both => {
                let runner = self.lab.runner();
                self.kill_vmm();
                runner.kill();
            }
            Fault::Error | Fault::Timeout => {}
        }
        // A launcher stands behind its runner's death; a runner is let go after its VMM's.
        if self.case.fault == Fault::Vmm
            || (self.case.fault == Fault::Runner && self.case.point.is_launchers())
        {
            release(evidence);
        }
        running.wait()
    }

    /// Kills the VMM and waits until its runner has seen it.
    fn kill_vmm(&self) {
        let vmm = self.lab.vmm(&self.lab.runner());
        vmm.kill();
        until("the runner has looked at how its VMM ended", SOON, || vmm.is_gone().then_some(()));
    }

    fn cause_and_wait(&self, running: Running, evidence: &Evidence) -> Output {
        let cause = self.cause.expect("an error or a timeout has a cause");
        let scene = Scene { lab: self.lab, evidence, clone: self.case.start == Start::Clone };
        let heal = cause.make(&scene);
        if cause.releases() {
            release(evidence);
        }
        if cause == Cause::VmmFrozen {
            self.expect_dying(evidence);
            heal();
            return running.wait();
        }
        let output = running.wait();
        if cause.leaves_something() {
            self.expect_leak_told(evidence);
        }
        if cause == Cause::StrangerInItsCgroup {
            expect_leaving_took_too_long(evidence);
        }
        heal();
        output
    }

    /// It is shown as dying, with evidence, and has no outcome.
    fn expect_dying(&self, evidence: &Evidence) {
        let view =
            until("it is dying", SOON, || Some(self.view(evidence)).filter(|view| view.dying.is_some()));
        assert!(view.outcome.is_none(), "nobody may say that it is over: {view:#?}");
        let seen = view.dying.unwrap_or_default().join("\n");
        assert!(seen.contains("refrigerator"), "state, wait channel and stack are told: {seen}");
    }

    /// What cannot be removed is no secret.
    fn expect_leak_told(&self, evidence: &Evidence) {
        let leaks = self.lab.doctor().leaks;
        let name = incarnation(evidence);
        assert!(leaks.iter().any(|leak| leak.kind == "cgroup" && leak.name.contains(&name)), "{leaks:#?}");
    }

    fn view(&self, evidence: &Evidence) -> WorkloadView {
        let name = incarnation(evidence);
        let all = self.lab.workloads();
        all.into_iter().find(|view| view.incarnation == name).expect("its workload")
    }

    fn judge(&self, output: &Output, evidence: &Evidence) {
        let id = self.view(evidence).id;
        let view = self.lab.until_over(&id, AT_LAST);
        let outcome = view.outcome.clone().expect("it is over");
        let kind =
            self.expected.kind().unwrap_or(if view.certificate.is_some() { "lost" } else { "not_started" });
        assert_eq!(
            outcome.kind, kind,
            "{view:#?}
{output}"
        );
        if let Expected::NotStarted(step) = self.expected {
            assert_eq!(outcome.step.as_deref(), Some(step.name()), "{view:#?}");
        }
        if outcome.kind != "completed" && outcome.kind != "timed_out" {
            assert!(outcome.cause.as_ref().is_some_and(|cause| !cause.is_empty()), "{view:#?}");
        }
        let fell_back = self.expected == Expected::CompletedCold;
        assert_eq!(view.fell_back.is_some(), fell_back, "{view:#?}");
        self.judge_death(&view);
        self.judge_client(output);
        expect_ends(self.lab, &view.incarnation, 1);
        if self.cause.is_some_and(Cause::leaves_something) {
            self.lab.outlast(&["doctor", "--fix"]);
        }
    }

    /// The product's own record says that what was done to it has happened.
    fn judge_death(&self, view: &WorkloadView) {
        let death = view.death.as_ref().expect("a death certificate");
        let over = view.state == "completed";
        let (cause, by) = match self.case.fault {
            _ if over => ("stopped", "runner"),
            Fault::Launcher => ("never_claimed", "reconciler"),
            Fault::Runner | Fault::Both if !self.is_claimed() => ("never_claimed", "reconciler"),
            Fault::Runner | Fault::Both => ("runner_killed", "reconciler"),
            Fault::Vmm => ("vmm_signalled", "runner"),
            // As many causes as there are errors; the outcome says in which step.
            Fault::Error | Fault::Timeout => (death.cause.as_str(), death.by.as_str()),
        };
        assert_eq!((death.cause.as_str(), death.by.as_str()), (cause, by), "{view:#?}");
        if cause == "vmm_signalled" {
            assert_eq!(death.signal, Some(Signal::KILL.as_raw()), "{view:#?}");
        }
    }

    fn is_claimed(&self) -> bool {
        let claims_next = self.case.point.upcoming() == Some(Place::Boot(BootStep::Claim));
        !self.case.point.is_launchers() && !claims_next
    }

    fn judge_client(&self, output: &Output) {
        let code = match self.expected {
            _ if self.cause.is_some_and(Cause::silences_the_client) => 125,
            // A run whose files could not be handed back is a success that has not done what was asked for.
            Expected::Completed | Expected::CompletedCold => i32::from(self.misses_files()) * 125,
            Expected::NotStarted(_) | Expected::Lost | Expected::AsFarAsItGot => 125,
            Expected::TimedOut => 124,
        };
        output.expect_code(code);
        if matches!(self.expected, Expected::Completed | Expected::CompletedCold) {
            assert_eq!(output.stdout_text(), "held\n", "{output}");
        }
    }
}

/// The runner, which does not see the stranger from within its namespaces, gave up waiting for its control group to
/// empty. A group that can be killed as one (version 2) takes the stranger along at once.
#[track_caller]
fn expect_leaving_took_too_long(evidence: &Evidence) {
    if cgroups::can_be_killed_as_one() {
        return;
    }
    let journal = Journal::parse(&fs::read(evidence.journal()).expect("the journal of a runner"));
    let is_failed_undo = |entry: &JournalEntry| matches!(entry, JournalEntry::Step { phase: StepPhase::UndoFailed, step, .. } if step == BootStep::Claim.name());
    assert!(journal.lines.iter().any(|line| is_failed_undo(&line.entry)), "{journal:#?}");
}
