//! The life of an incarnation, as a pure step function.
//!
//! ```text
//!   intended ──► claimed ──► running ──► ended
//!      │            │           │          ▲
//!      │            └──► dying ◄┘          │
//!      └──────────────────┴────────────────┘
//! ```
//!
//! `dying`: its end is wanted, but no readable pidfd proves it yet. While it lasts nothing may take its place.

use thiserror::Error;

/// Where an incarnation is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IncarnationState {
    /// Written down; no process has claimed it.
    Intended,
    /// Its runner wrote its identity and walks the boot steps.
    Claimed,
    /// Certified and published.
    Running,
    /// Its processes were told to die and have not been proved dead.
    Dying,
    /// Proved over; its death certificate is written.
    Ended,
}

/// A transition that is not in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an incarnation that is {} cannot become {}", from.name(), to.name())]
pub struct IllegalIncarnationStep {
    /// The state it is in.
    pub from: IncarnationState,
    /// The state that was wanted.
    pub to: IncarnationState,
}

impl IncarnationState {
    /// All states.
    pub const ALL: &[Self] = &[Self::Intended, Self::Claimed, Self::Running, Self::Dying, Self::Ended];

    /// The word stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Intended => "intended",
            Self::Claimed => "claimed",
            Self::Running => "running",
            Self::Dying => "dying",
            Self::Ended => "ended",
        }
    }

    /// The state of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|state| state.name() == name)
    }

    /// Whether the table has the edge from this state to `to`.
    pub const fn may_become(self, to: Self) -> bool {
        match self {
            Self::Intended => matches!(to, Self::Claimed | Self::Ended),
            Self::Claimed => matches!(to, Self::Running | Self::Dying | Self::Ended),
            Self::Running => matches!(to, Self::Dying | Self::Ended),
            Self::Dying => matches!(to, Self::Ended),
            Self::Ended => false,
        }
    }

    /// `to`, when the table has that edge.
    ///
    /// # Errors
    /// [`IllegalIncarnationStep`] when it has not.
    pub const fn step(self, to: Self) -> Result<Self, IllegalIncarnationStep> {
        if self.may_become(to) { Ok(to) } else { Err(IllegalIncarnationStep { from: self, to }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The shadow ranks states by how much has happened: ranks only grow, and only a claim leads onward.
        #[test]
        fn time_never_runs_backwards(walk in prop::collection::vec(prop::sample::select(IncarnationState::ALL), 0..12)) {
            let rank = |s: IncarnationState| IncarnationState::ALL.iter().position(|x| *x == s).unwrap();
            let mut state = IncarnationState::Intended;
            let mut claimed = false;
            for to in walk {
                if let Ok(next) = state.step(to) {
                    prop_assert!(rank(next) > rank(state));
                    claimed |= next == IncarnationState::Claimed;
                    prop_assert!(claimed || next == IncarnationState::Ended);
                    state = next;
                } else {
                    let skips_claim = state == IncarnationState::Intended
                        && matches!(to, IncarnationState::Running | IncarnationState::Dying);
                    prop_assert!(rank(to) <= rank(state) || skips_claim);
                }
            }
        }
    }

    #[test]
    fn names_are_read_back() {
        for &state in IncarnationState::ALL {
            assert_eq!(IncarnationState::from_name(state.name()), Some(state));
        }
    }
}
