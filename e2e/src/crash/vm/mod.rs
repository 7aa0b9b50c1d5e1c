//! Every way in which the beginning of a VM's incarnation can be cut off: the cases, generated from the table of steps.
//!
//! ```text
//!   ways to begin × fault points of a VM's boot × {error, timeout, runner, VMM, client}
//!     each is either planned (what is done, what must come of it) or makes no sense, and says why      plan
//!     planned ones are run one by one on a lab of their own, with a VM whose disk holds something      run
//! ```
//!
//! A step added to the table has its cases of dying here at once; for its error and its timeout the compiler asks for a
//! real cause. A further way to begin is a line in [`Way`], how it is prepared and asked for, and what must come of it.

mod plan;
mod run;

pub use plan::{Expected, Plan, plan};
pub use run::run;

use super::ends::edge;
use outlast_prove::{BootStep, FaultPoint, Place};
use std::fmt;

/// How an incarnation of a VM begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Started, from a template.
    Start,
    /// Started without one, from its kernel.
    Cold,
    /// Restored from a snapshot.
    Restore,
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
    /// SIGKILL to whoever asked for it.
    Client,
}

impl Way {
    const ALL: [Self; 3] = [Self::Start, Self::Cold, Self::Restore];
}

impl Fault {
    const ALL: [Self; 5] = [Self::Error, Self::Timeout, Self::Runner, Self::Vmm, Self::Client];
}

/// One case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// How it begins.
    pub way: Way,
    /// Where it is held.
    pub point: FaultPoint,
    /// What its runner does next: a step, or, behind the last, staying.
    pub upcoming: Option<BootStep>,
    /// What happens there.
    pub fault: Fault,
}

impl Case {
    /// All combinations, sensible or not.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for way in Way::ALL {
            for (point, upcoming) in FaultPoint::of_a_vms_start() {
                all.extend(Fault::ALL.map(|fault| Self { way, point, upcoming, fault }));
            }
        }
        all
    }

    /// Those that make sense.
    pub fn sensible() -> Vec<Self> {
        Self::all().into_iter().filter(|case| matches!(plan(*case), Plan::Do { .. })).collect()
    }

    /// One for each step of a start and of a restore, of those that need no deadline to pass; the kinds take turns, so
    /// that together they are of every kind.
    pub fn representatives() -> Vec<Self> {
        [Way::Start, Way::Restore].into_iter().flat_map(Self::representatives_of).collect()
    }

    fn representatives_of(way: Way) -> Vec<Self> {
        let quick = |case: &Self| case.way == way && case.fault != Fault::Timeout;
        let quick: Vec<Self> = Self::sensible().into_iter().filter(quick).collect();
        let mut chosen: Vec<Self> = Vec::new();
        for place in Place::all() {
            let here = quick.iter().copied().filter(|case| case.point.place() == place);
            // The kind that was chosen least often so far; of several the first.
            let used = |fault| chosen.iter().filter(|case| case.fault == fault).count();
            let best = here.min_by_key(|case| used(case.fault));
            chosen.extend(best);
        }
        chosen
    }

    /// Its name, fit for a test.
    pub fn name(self) -> String {
        let (edge, step) = (edge(self.point), self.point.step().replace('-', "_"));
        format!("{}_{edge}_{step}_of_{}", self.fault, self.way)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Start => "start",
            Self::Cold => "cold_start",
            Self::Restore => "restore",
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
            Self::Client => "client_killed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn house_every_case_of_a_vms_beginning_has_a_name_of_its_own_and_every_step_a_representative() {
        let all = Case::all();
        let names: BTreeSet<String> = all.iter().map(|case| case.name()).collect();
        assert_eq!(names.len(), all.len());
        assert_eq!(all.len(), Way::ALL.len() * FaultPoint::of_a_vms_start().len() * Fault::ALL.len());
        let short = Case::representatives();
        for (point, _) in FaultPoint::of_a_vms_start() {
            assert!(
                short.iter().any(|case| case.point.place() == point.place()),
                "{} has none",
                point.step()
            );
        }
        for fault in Fault::ALL.into_iter().filter(|fault| *fault != Fault::Timeout) {
            assert!(short.iter().any(|case| case.fault == fault), "{fault} has none");
        }
    }

    #[test]
    fn house_every_case_of_a_vms_beginning_is_planned_or_says_why_it_makes_no_sense() {
        let planned = Case::sensible();
        for case in Case::all() {
            if let Plan::Senseless(reason) = plan(case) {
                assert!(reason.len() > 10, "{}: {reason}", case.name());
                println!("{}: {reason}", case.name());
            }
        }
        println!("{} cases of {}", planned.len(), Case::all().len());
        assert!(planned.len() > 120, "{}", planned.len());
        // Whoever walks there can die there, at every point.
        for (point, _) in FaultPoint::of_a_vms_start() {
            for way in Way::ALL {
                let dies =
                    |case: &Case| case.way == way && case.point == point && case.fault == Fault::Runner;
                assert!(planned.iter().any(dies), "{} of {way}", point.name());
            }
        }
    }
}
