//! The boot steps, in the order the runner walks them.
//!
//! ```text
//!   claim → run directory → disks → launch VMM → start guest → agent hello → certify
//!         → settle° → inputs* → publish → start program*       * workloads only     ° VMs only
//! ```
//!
//! This table is the only place that knows the order. Each step has a `do`, an `undo` and a `probe` in
//! `runner/src/boot/`; a step added here is covered there by the compiler and by every generated fault case.
//! Network and volumes get their steps, between disks and launch, together with what they do.

use crate::place::Place;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

macro_rules! steps {
    ($($(#[$doc:meta])* $variant:ident = $name:literal),+ $(,)?) => {
        /// A step of a boot.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum BootStep { $($(#[$doc])* $variant),+ }

        impl BootStep {
            /// All steps in order.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name used in journals, outcomes and fault points.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

steps! {
    /// The runner writes its identity to its row: its first effect.
    Claim = "claim",
    /// The run directory and the sockets in it are made.
    RunDirectory = "run-directory",
    /// Every file the VMM will read is there, whole and leased.
    Disks = "disks",
    /// The VMM process exists, confined, and answers its monitor.
    LaunchVmm = "launch-vmm",
    /// The guest is booted or restored and its vCPUs run.
    StartGuest = "start-guest",
    /// The agent answered a hello with this connection's nonce.
    AgentHello = "agent-hello",
    /// Clock, randomness and identity are what they must be.
    Certify = "certify",
    /// The guest's own disk is mounted and is its root.
    Settle = "settle",
    /// Everything the program is given is in the guest.
    Inputs = "inputs",
    /// The store says `running`, durably. From here on the program may have run.
    Publish = "publish",
    /// The agent accepted the program.
    StartProgram = "start-program",
}

impl BootStep {
    /// Whether only incarnations that run a workload walk this step.
    pub const fn is_for_workloads_only(self) -> bool {
        matches!(self, Self::Inputs | Self::StartProgram)
    }

    /// Whether only incarnations of VMs walk this step.
    pub const fn is_for_vms_only(self) -> bool {
        matches!(self, Self::Settle)
    }

    /// Whether `walker` walks this step.
    pub const fn is_walked_by(self, walker: Walker) -> bool {
        match walker {
            Walker::Workload => !self.is_for_vms_only(),
            Walker::Vm => !self.is_for_workloads_only(),
            Walker::Bare => !self.is_for_vms_only() && !self.is_for_workloads_only(),
        }
    }

    /// The step that `walker` walks after this one.
    pub fn next_of(self, walker: Walker) -> Option<Self> {
        Self::ALL.iter().copied().find(|later| *later > self && later.is_walked_by(walker))
    }
}

/// Whose boot it is: which of the steps are walked depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Walker {
    /// A workload's incarnation.
    Workload,
    /// A VM's.
    Vm,
    /// One that only boots: a template's maker, a canary.
    Bare,
}

impl Walker {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Workload, Self::Vm, Self::Bare];
}

/// A text names no step.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{text}' is not a step (one of: {})", names())]
pub struct UnknownStep {
    text: String,
}

impl UnknownStep {
    /// That `text` is none; as much of it as a person reads is kept.
    pub(crate) fn new(text: &str) -> Self {
        Self { text: text.chars().take(40).collect() }
    }
}

fn names() -> String {
    Place::all().iter().map(|place| place.name()).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for BootStep {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

impl FromStr for BootStep {
    type Err = UnknownStep;
    fn from_str(text: &str) -> Result<Self, UnknownStep> {
        let found = Self::ALL.iter().find(|step| step.name() == text);
        found.copied().ok_or_else(|| UnknownStep::new(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everybody walks in the same order; what one leaves out, no `next_of` leads to.
    #[test]
    fn every_walk_is_the_table_without_what_is_not_for_it() {
        for &walker in Walker::ALL {
            let mut walk = vec![BootStep::Claim];
            while let Some(next) = walk.last().and_then(|last| last.next_of(walker)) {
                walk.push(next);
            }
            let kept: Vec<_> =
                BootStep::ALL.iter().copied().filter(|step| step.is_walked_by(walker)).collect();
            assert_eq!(walk, kept);
            assert_eq!(walk.contains(&BootStep::StartProgram), walker == Walker::Workload);
            assert_eq!(walk.contains(&BootStep::Settle), walker == Walker::Vm);
            assert!(walk.contains(&BootStep::Publish));
        }
    }
}
