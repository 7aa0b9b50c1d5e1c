//! The life of a workload, as a pure step function.
//!
//! ```text
//!   pending ──► starting ──► running ──► over(outcome)
//!      │            │                        ▲
//!      └────────────┴────────────────────────┘
//! ```
//!
//! Before `running` only outcomes that promise the program never ran, or that somebody ended it, are
//! legal. `running` is written before the program is sent, so from then on `not_started` is legal only from
//! the one step that knows better: the agent refused to start the program. An illegal transition is a typed
//! error, never ignored.

use crate::outcome::Outcome;
use crate::step::BootStep;
use thiserror::Error;

/// Where a workload is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkloadState {
    /// Accepted and written down; nothing on the host exists for it.
    Pending,
    /// A runner has claimed its incarnation.
    Starting,
    /// Published as running: the program has been or is about to be sent.
    Running,
    /// Over, for ever.
    Over(Outcome),
}

/// What happens to a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkloadEvent {
    /// A runner claimed its incarnation.
    Claimed,
    /// The incarnation was certified and published.
    Published,
    /// It ended.
    Ended(Outcome),
}

/// A transition that is not in the table.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a workload that is {from} cannot become {to}")]
pub struct IllegalTransition {
    /// The state it is in.
    pub from: &'static str,
    /// The state the event would lead to.
    pub to: String,
}

impl WorkloadState {
    /// The word stored and shown: `pending`, `starting`, `running`, or the outcome's kind.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Over(outcome) => outcome.kind(),
        }
    }

    /// The state after `event`.
    ///
    /// # Errors
    /// [`IllegalTransition`] when the table has no such edge; the state is unchanged.
    pub fn step(&self, event: WorkloadEvent) -> Result<Self, IllegalTransition> {
        match (self, event) {
            (Self::Pending, WorkloadEvent::Claimed) => Ok(Self::Starting),
            (Self::Starting, WorkloadEvent::Published) => Ok(Self::Running),
            (Self::Pending | Self::Starting, WorkloadEvent::Ended(outcome))
                if legal_before_running(&outcome) =>
            {
                Ok(Self::Over(outcome))
            }
            (Self::Running, WorkloadEvent::Ended(outcome)) if legal_while_running(&outcome) => {
                Ok(Self::Over(outcome))
            }
            (from, event) => Err(IllegalTransition { from: from.name(), to: target(&event) }),
        }
    }
}

/// Before the program was sent it can only never have started, or have been killed.
const fn legal_before_running(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::NotStarted { .. } | Outcome::Killed { .. })
}

/// Once published, a program is known not to have run only when its start itself was refused.
const fn legal_while_running(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::NotStarted { step, .. } => matches!(step, BootStep::StartProgram),
        Outcome::Completed
        | Outcome::Exited { .. }
        | Outcome::Signalled { .. }
        | Outcome::TimedOut
        | Outcome::Killed { .. }
        | Outcome::OutOfMemory
        | Outcome::Lost { .. } => true,
    }
}

fn target(event: &WorkloadEvent) -> String {
    match event {
        WorkloadEvent::Claimed => "starting".to_owned(),
        WorkloadEvent::Published => "running".to_owned(),
        WorkloadEvent::Ended(outcome) => outcome.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Killer;
    use proptest::prelude::*;

    fn outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            Just(Outcome::Completed),
            (1..256).prop_map(|code| Outcome::Exited { code }),
            (1..65).prop_map(|signal| Outcome::Signalled { signal }),
            Just(Outcome::TimedOut),
            prop::sample::select(Killer::ALL).prop_map(|by| Outcome::Killed { by }),
            Just(Outcome::OutOfMemory),
            prop::sample::select(BootStep::ALL)
                .prop_map(|step| Outcome::NotStarted { step, cause: "x".to_owned() }),
            Just(Outcome::Lost { cause: "x".to_owned() }),
        ]
    }

    fn event() -> impl Strategy<Value = WorkloadEvent> {
        prop_oneof![
            Just(WorkloadEvent::Claimed),
            Just(WorkloadEvent::Published),
            outcome().prop_map(WorkloadEvent::Ended)
        ]
    }

    /// The shadow: counts what has happened and knows nothing of the table above.
    #[derive(Default)]
    struct Shadow {
        claims: u32,
        publications: u32,
        outcomes: Vec<Outcome>,
    }

    impl Shadow {
        fn allows(&self, event: &WorkloadEvent) -> bool {
            let open = self.outcomes.is_empty();
            match event {
                WorkloadEvent::Claimed => open && self.claims == 0,
                WorkloadEvent::Published => open && self.claims == 1 && self.publications == 0,
                WorkloadEvent::Ended(end) => {
                    let sent = self.publications == 1;
                    let kind = end.kind();
                    let refused = end.to_string().starts_with("not_started(start-program");
                    let fits = if sent { kind != "not_started" || refused } else { kind == "not_started" };
                    open && (kind == "killed" || fits)
                }
            }
        }

        fn apply(&mut self, event: &WorkloadEvent) {
            match event {
                WorkloadEvent::Claimed => self.claims += 1,
                WorkloadEvent::Published => self.publications += 1,
                WorkloadEvent::Ended(end) => self.outcomes.push(end.clone()),
            }
        }
    }

    proptest! {
        /// Walks begin some way along the usual path, so that every state is met often.
        #[test]
        fn the_table_agrees_with_its_shadow(usual in 0usize..3, events in prop::collection::vec(event(), 1..8)) {
            let (mut state, mut shadow) = (WorkloadState::Pending, Shadow::default());
            let path = [WorkloadEvent::Claimed, WorkloadEvent::Published];
            for event in path.into_iter().take(usual).chain(events) {
                let allowed = shadow.allows(&event);
                match state.step(event.clone()) {
                    Ok(next) => { prop_assert!(allowed); shadow.apply(&event); state = next; }
                    Err(_) => prop_assert!(!allowed),
                }
            }
            prop_assert!(shadow.outcomes.len() <= 1, "exactly one outcome");
        }
    }
}
