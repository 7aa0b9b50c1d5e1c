//! The life of a VM, as a pure step function.
//!
//! ```text
//!   created ──► starting ──► running ⇄ paused
//!                │  ▲  │        │        │
//!                │  │  └────────┼────────┴──► stopping          each of these four may end:
//!                │  │           │                │
//!                │  └───────────┴────────────────┴──► stopped   it had run, or its end was asked for
//!                └──────────────────────────────────► failed    neither: it did not start
//! ```
//!
//! `stopped` and `failed` are started again like `created`. What a start that ended had reached, and why a VM that ran
//! ended, is told by its incarnations, not here.

use thiserror::Error;

/// Where a VM is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VmState {
    /// Written down; it was never started.
    Created,
    /// An incarnation of it is on its way.
    Starting,
    /// Certified and published.
    Running,
    /// Published, and its virtual CPUs stand still because somebody asked for it.
    Paused,
    /// Its end was asked for and is not proved yet.
    Stopping,
    /// It ran, or its end was asked for; nothing of it lives.
    Stopped,
    /// Its last start did not succeed; nothing of it lives.
    Failed,
}

/// What happens to a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VmEvent {
    /// Somebody asked for a start, and the intent of an incarnation was written.
    StartAsked,
    /// Its incarnation was certified and published.
    Published,
    /// Its runner paused it.
    Paused,
    /// Its runner resumed it.
    Resumed,
    /// Somebody asked for its end.
    StopAsked,
    /// Its incarnation ended.
    Ended {
        /// Whether it had been published.
        started: bool,
        /// Whether its end, or its removal, had been asked for.
        wanted: bool,
    },
}

/// A transition that is not in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a VM that is {} cannot be {}", from.name(), event.name())]
pub struct IllegalVmStep {
    /// The state it is in.
    pub from: VmState,
    /// What was to happen to it.
    pub event: VmEvent,
}

impl VmEvent {
    /// The word for people, as in "cannot be WORD".
    pub const fn name(self) -> &'static str {
        match self {
            Self::StartAsked => "started",
            Self::Published => "published",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::StopAsked => "stopped",
            Self::Ended { .. } => "ended",
        }
    }
}

impl VmState {
    /// All states.
    pub const ALL: &[Self] = &[
        Self::Created,
        Self::Starting,
        Self::Running,
        Self::Paused,
        Self::Stopping,
        Self::Stopped,
        Self::Failed,
    ];

    /// The word stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }

    /// The state of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|state| state.name() == name)
    }

    /// Whether an incarnation of it lives, or is not proved over.
    pub const fn is_living(self) -> bool {
        match self {
            Self::Starting | Self::Running | Self::Paused | Self::Stopping => true,
            Self::Created | Self::Stopped | Self::Failed => false,
        }
    }

    /// The state after `event`.
    ///
    /// # Errors
    /// [`IllegalVmStep`] when the table has no such edge.
    pub const fn step(self, event: VmEvent) -> Result<Self, IllegalVmStep> {
        match (self, event) {
            (Self::Created | Self::Stopped | Self::Failed, VmEvent::StartAsked) => Ok(Self::Starting),
            (Self::Starting, VmEvent::Published) | (Self::Paused, VmEvent::Resumed) => Ok(Self::Running),
            // Its runner published it before it saw that its end is wanted; wanted it stays.
            (Self::Stopping, VmEvent::Published)
            | (Self::Starting | Self::Running | Self::Paused, VmEvent::StopAsked) => Ok(Self::Stopping),
            (Self::Running, VmEvent::Paused) => Ok(Self::Paused),
            (
                Self::Starting | Self::Running | Self::Paused | Self::Stopping,
                VmEvent::Ended { started: false, wanted: false },
            ) => Ok(Self::Failed),
            (Self::Starting | Self::Running | Self::Paused | Self::Stopping, VmEvent::Ended { .. }) => {
                Ok(Self::Stopped)
            }
            (from, event) => Err(IllegalVmStep { from, event }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event() -> impl Strategy<Value = VmEvent> {
        prop_oneof![
            3 => Just(VmEvent::StartAsked),
            3 => Just(VmEvent::Published),
            1 => Just(VmEvent::Paused),
            1 => Just(VmEvent::Resumed),
            1 => Just(VmEvent::StopAsked),
            2 => (any::<bool>(), any::<bool>()).prop_map(|(started, wanted)| VmEvent::Ended { started, wanted }),
        ]
    }

    /// The shadow: what is true of a VM, as separate facts, with no table.
    #[derive(Default)]
    struct Shadow {
        lives: bool,
        published: bool,
        stands_still: bool,
        end_wanted: bool,
        starts: u32,
        last_failed: bool,
    }

    impl Shadow {
        fn allows(&self, event: VmEvent) -> bool {
            match event {
                VmEvent::StartAsked => !self.lives,
                // One that runs or stands still has been published, and nothing is published twice.
                VmEvent::Published => self.lives && (!self.published || self.end_wanted),
                VmEvent::Paused => self.lives && self.published && !self.stands_still && !self.end_wanted,
                VmEvent::Resumed => self.lives && self.stands_still && !self.end_wanted,
                VmEvent::StopAsked => self.lives && !self.end_wanted,
                VmEvent::Ended { .. } => self.lives,
            }
        }

        fn apply(&mut self, event: VmEvent) {
            match event {
                VmEvent::StartAsked => {
                    *self = Self { lives: true, starts: self.starts + 1, ..Self::default() };
                }
                VmEvent::Published => self.published = true,
                VmEvent::Paused => self.stands_still = true,
                VmEvent::Resumed => self.stands_still = false,
                VmEvent::StopAsked => self.end_wanted = true,
                VmEvent::Ended { started, wanted } => {
                    self.lives = false;
                    self.last_failed = !(started || wanted);
                }
            }
        }

        fn word(&self) -> &'static str {
            match self {
                Self { starts: 0, .. } => "created",
                Self { lives: false, last_failed: true, .. } => "failed",
                Self { lives: false, .. } => "stopped",
                Self { end_wanted: true, .. } => "stopping",
                Self { stands_still: true, .. } => "paused",
                Self { published: true, .. } => "running",
                Self { .. } => "starting",
            }
        }
    }

    proptest! {
        #[test]
        fn the_table_agrees_with_its_shadow(events in prop::collection::vec(event(), 0..24)) {
            let (mut state, mut shadow) = (VmState::Created, Shadow::default());
            for event in events {
                let allowed = shadow.allows(event);
                match state.step(event) {
                    Ok(next) => { prop_assert!(allowed, "{:?} {:?}", state, event); shadow.apply(event); state = next; }
                    Err(error) => {
                        prop_assert!(!allowed, "{:?} {:?}", state, event);
                        prop_assert_eq!(error, IllegalVmStep { from: state, event });
                    }
                }
                prop_assert_eq!(state.name(), shadow.word());
                prop_assert_eq!(state.is_living(), shadow.lives);
            }
        }
    }

    #[test]
    fn names_are_read_back() {
        for &state in VmState::ALL {
            assert_eq!(VmState::from_name(state.name()), Some(state));
        }
    }

    #[test]
    fn an_illegal_step_says_what_cannot_be() {
        let error = VmState::Stopped.step(VmEvent::Paused).unwrap_err();
        assert_eq!(error.to_string(), "a VM that is stopped cannot be paused");
    }
}
