//! The boot steps, in the order the runner walks them.
//!
//! ```text
//!   claim → run directory → disks → launch VMM → start guest → agent hello → certify
//!         → inputs* → publish → start program*                            * workloads only
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
