//! Every place in an incarnation's life that has a name: what its launcher does, the boot steps, and the phases
//! after them.
//!
//! ```text
//!   launcher-cgroup → launcher-runner → launcher-identity → launcher-adopt        the launcher
//!                                              └► claim → … → start-program       the runner's boot steps
//!                                                   → program → outputs* → bury-vmm → outcome → leave
//!                                                                                * when files are handed back
//! ```
//!
//! The boot steps have their own table ([`crate::step`]); the two beside it stand here. Fault points, and with
//! them every generated crash case, are made from these three: a line added to one of them is a case more.

use crate::step::{BootStep, UnknownStep, Walker};
use std::fmt;
use std::str::FromStr;

macro_rules! names {
    ($(#[$type_doc:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$type_doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$doc])* $variant),+ }

        impl $name {
            /// All of them in order.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name used for fault points.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

names! {
    /// What a launcher does, in order.
    LauncherStep {
        /// The incarnation's control group is made.
        Cgroup = "launcher-cgroup",
        /// The runner's process is made, in its namespaces. It has no effect yet.
        Runner = "launcher-runner",
        /// The runner is told who it is. From here on it works by itself.
        Identity = "launcher-identity",
        /// The runner is taken out of the control group of whoever asked for it.
        Adopt = "launcher-adopt",
    }
}

names! {
    /// What a runner does after the boot steps, in order. The last three follow a failed boot, too.
    RunPhase {
        /// The program is watched to its end.
        Program = "program",
        /// The files it left are fetched, when somebody wants them.
        Outputs = "outputs",
        /// The VMM is killed, and its death proved.
        BuryVmm = "bury-vmm",
        /// The output log is synced and the end written down.
        Outcome = "outcome",
        /// Everything that was made is undone.
        Leave = "leave",
    }
}

/// A place in an incarnation's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// In its launcher.
    Launcher(LauncherStep),
    /// A boot step of its runner.
    Boot(BootStep),
    /// After the boot.
    Run(RunPhase),
}

impl Place {
    /// All places, in the order in which a life passes them.
    pub fn all() -> Vec<Self> {
        let launcher = LauncherStep::ALL.iter().copied().map(Self::Launcher);
        let boot = BootStep::ALL.iter().copied().map(Self::Boot);
        launcher.chain(boot).chain(RunPhase::ALL.iter().copied().map(Self::Run)).collect()
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Launcher(step) => step.name(),
            Self::Boot(step) => step.name(),
            Self::Run(phase) => phase.name(),
        }
    }

    /// Whether a life like `walker`'s passes it.
    pub const fn is_passed_by(self, walker: Walker) -> bool {
        match self {
            Self::Boot(step) => step.is_walked_by(walker),
            Self::Launcher(_) | Self::Run(_) => true,
        }
    }

    /// The one that comes next in a life like `walker`'s.
    pub fn next_of(self, walker: Walker) -> Option<Self> {
        Self::all().into_iter().find(|later| *later > self && later.is_passed_by(walker))
    }
}

impl From<BootStep> for Place {
    fn from(step: BootStep) -> Self {
        Self::Boot(step)
    }
}

impl From<RunPhase> for Place {
    fn from(phase: RunPhase) -> Self {
        Self::Run(phase)
    }
}

impl From<LauncherStep> for Place {
    fn from(step: LauncherStep) -> Self {
        Self::Launcher(step)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

impl FromStr for Place {
    type Err = UnknownStep;
    fn from_str(text: &str) -> Result<Self, UnknownStep> {
        let found = Self::all().into_iter().find(|place| place.name() == text);
        found.ok_or_else(|| UnknownStep::new(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_in_order_and_have_names_of_their_own() {
        let all = Place::all();
        assert!(all.is_sorted());
        let names: std::collections::BTreeSet<_> = all.iter().map(|place| place.name()).collect();
        assert_eq!(names.len(), all.len());
        assert!(all.iter().all(|place| place.name().parse() == Ok(*place)));
        assert_eq!(
            Place::from(BootStep::StartProgram).next_of(Walker::Workload),
            Some(RunPhase::Program.into())
        );
        let certified = Place::from(BootStep::Certify);
        assert_eq!(certified.next_of(Walker::Workload), Some(BootStep::Inputs.into()));
        assert_eq!(certified.next_of(Walker::Vm), Some(BootStep::Settle.into()));
        assert_eq!(Place::from(RunPhase::Leave).next_of(Walker::Workload), None);
    }
}
