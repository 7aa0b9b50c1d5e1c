//! Every crash point: the cases, generated from the tables of steps and phases.
//!
//! ```text
//!   places × before/after × {error, timeout, runner, VMM, both, launcher} × {clone, cold}
//!     each is either planned (what is done, what must come of it)       plan
//!     or makes no sense, and says why                                   plan
//!   planned ones are run one by one on a lab of their own               run, cause
//!
//!   the same for the beginning of a VM's incarnation                    vm
//! ```
//!
//! A place added to the tables of `outlast_model` has its cases of dying here at once; for its error and its
//! timeout the compiler asks for a real cause.

mod cause;
mod ends;
mod plan;
mod run;
pub mod vm;

pub use cause::Cause;
pub use plan::{Expected, Plan, plan};
pub use run::run;

use outlast_prove::{BootStep, Edge, FaultPoint};
use std::fmt;

/// How an incarnation comes to life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// From a template.
    Clone,
    /// From its kernel.
    Cold,
}

/// What happens at a fault point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// What comes next fails.
    Error,
    /// What comes next does not end.
    Timeout,
    /// SIGKILL to the runner.
    Runner,
    /// SIGKILL to the VMM.
    Vmm,
    /// SIGKILL to the VMM and then to the runner.
    Both,
    /// SIGKILL to the launcher.
    Launcher,
}

impl Start {
    const ALL: [Self; 2] = [Self::Clone, Self::Cold];
}

impl Fault {
    const ALL: [Self; 6] = [Self::Error, Self::Timeout, Self::Runner, Self::Vmm, Self::Both, Self::Launcher];
}

/// One case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// How it comes to life.
    pub start: Start,
    /// Where it is held.
    pub point: FaultPoint,
    /// What happens there.
    pub fault: Fault,
}

impl Case {
    /// All combinations, sensible or not.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for start in Start::ALL {
            for point in FaultPoint::all() {
                all.extend(Fault::ALL.map(|fault| Self { start, point, fault }));
            }
        }
        all
    }

    /// Those that make sense.
    pub fn sensible() -> Vec<Self> {
        Self::all().into_iter().filter(|case| matches!(plan(*case), Plan::Do { .. })).collect()
    }

    /// One for each place, of those that need no deadline to pass; the kinds take turns, so that together they
    /// are of every kind. And those by which it is told that a runner died beside a program that may run.
    pub fn representatives() -> Vec<Self> {
        let quick: Vec<Self> = Self::sensible()
            .into_iter()
            .filter(|case| case.start == Start::Clone && case.fault != Fault::Timeout)
            .collect();
        let mut chosen: Vec<Self> = Vec::new();
        for place in outlast_prove::Place::all() {
            let here: Vec<Self> = quick.iter().copied().filter(|case| case.point.place() == place).collect();
            // The kind that was chosen least often so far; of several the first.
            let used = |fault| chosen.iter().filter(|case| case.fault == fault).count();
            let best = here.iter().copied().min_by_key(|case| used(case.fault));
            chosen.extend(best);
        }
        let beside = Self::beside_the_program();
        chosen.extend(beside.into_iter().filter(|case| !chosen.contains(case)).collect::<Vec<_>>());
        chosen
    }

    /// The runner is killed where `running` is the last word on its incarnation: just before the program is sent, and
    /// while it runs.
    fn beside_the_program() -> Vec<Self> {
        let killed_at = |step: BootStep| {
            let point = FaultPoint::all()
                .into_iter()
                .find(|point| point.place() == step.into() && point.edge() == Edge::After);
            let point = point.expect("every step has a point behind it");
            Self { start: Start::Clone, point, fault: Fault::Runner }
        };
        [BootStep::Publish, BootStep::StartProgram].map(killed_at).to_vec()
    }

    /// Its name, fit for a test.
    pub fn name(self) -> String {
        let (edge, step) = (ends::edge(self.point), self.point.step().replace('-', "_"));
        format!("{}_{edge}_{step}_of_{}", self.fault, self.start)
    }
}

impl fmt::Display for Start {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Clone => "clone",
            Self::Cold => "cold",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::Runner => "runner_killed",
            Self::Vmm => "vmm_killed",
            Self::Both => "both_killed",
            Self::Launcher => "launcher_killed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn house_every_crash_case_has_a_name_of_its_own_and_every_place_a_representative() {
        let all = Case::all();
        let names: BTreeSet<String> = all.iter().map(|case| case.name()).collect();
        assert_eq!(names.len(), all.len());
        assert_eq!(all.len(), 2 * 2 * 6 * outlast_prove::Place::all().len());
        let short = Case::representatives();
        for place in FaultPoint::all().iter().filter(|point| point.is_a_workloads()).map(|p| p.place()) {
            assert!(short.iter().any(|case| case.point.place() == place), "{place} has none");
        }
        let names: BTreeSet<String> = short.iter().map(|case| case.name()).collect();
        assert_eq!(names.len(), short.len());
        for name in ["runner_killed_after_publish_of_clone", "runner_killed_after_start_program_of_clone"] {
            assert!(names.contains(name), "{names:#?}");
        }
        assert!(short.iter().all(|case| Case::sensible().contains(case)));
    }

    #[test]
    fn house_every_crash_case_is_planned_or_says_why_it_makes_no_sense() {
        let (mut planned, mut senseless) = (0, 0);
        for case in Case::all() {
            match plan(case) {
                Plan::Do { .. } => planned += 1,
                Plan::Senseless(reason) => {
                    senseless += 1;
                    assert!(reason.len() > 10, "{}: {reason}", case.name());
                    println!("{}: {reason}", case.name());
                }
            }
        }
        println!("{planned} cases, {senseless} make no sense");
        assert_eq!(planned + senseless, Case::all().len());
        assert!(planned > 200, "{planned}");
    }
}
