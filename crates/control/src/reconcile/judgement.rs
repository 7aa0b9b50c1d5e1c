//! What is to be made of an incarnation that is not over: a function from what was seen to what will be done.
//!
//! ```text
//!                    runner dead ───────────────► End
//!   claimed/running ─ alive, heart beats, in time ► Leave
//!                  ├─ alive, silent or overdue ───► Kill ──► dead ──► End
//!                  │                                     └─► still there ──► dying
//!   dying ─────────┼─ alive, waits for its VMM ───► Leave       for too long ──► Kill
//!                  └─ cannot be told ─────────────► Refuse
//!   intended ──────── young ──────────────────────► Leave       old ──► End
//! ```
//!
//! Looking and doing are the business of [`super`]; nothing here reads a clock or a file.

use outlast_model::{BootStep, DeathCause, IncarnationState, Killer, Outcome, Walker, timeout};
use outlast_wire::journal::{Journal, JournalEntry, StepPhase};
use std::time::Duration;

/// What is known of the process that claimed an incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Runner {
    /// Nobody has claimed it; its intent is this old.
    None {
        /// Age of the intent; zero when the clock says that it lies in the future.
        age: Duration,
    },
    /// It lives.
    Alive {
        /// Since its last heartbeat, or since it started when there was none yet.
        silent: Duration,
        /// Since it started.
        age: Duration,
        /// Since it began to end its incarnation, if it has.
        ending: Option<Duration>,
    },
    /// It is proved dead.
    Dead {
        /// Whether the proof is that the host was booted again.
        rebooted: bool,
    },
    /// It cannot be told.
    Undecided,
}

/// What will be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Nothing: it lives as it should.
    Leave,
    /// Nothing: whether it lives cannot be told.
    Refuse,
    /// Its runner is killed, and its death waited for.
    Kill(KillReason),
    /// It is over; its death certificate is written.
    End(Ended),
}

/// Why a living runner is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KillReason {
    /// Its heart does not beat.
    Silent,
    /// It lives longer than all its deadlines together allow.
    Overdue,
    /// Its death was wanted already.
    Dying,
}

/// How it is known to be over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// No runner came.
    NeverClaimed,
    /// Its end was wanted before a runner came.
    GivenUp,
    /// Its runner is dead.
    RunnerDead,
    /// The host was booted again.
    HostRebooted,
}

/// Judges an incarnation. `allowed` is how long its runner may live at most, all deadlines together.
pub(crate) fn judge(state: IncarnationState, runner: &Runner, allowed: Duration) -> Judgement {
    match (state, runner) {
        (IncarnationState::Ended, _) => Judgement::Leave,
        (_, Runner::Undecided) => Judgement::Refuse,
        (_, Runner::Dead { rebooted: true }) => Judgement::End(Ended::HostRebooted),
        (_, Runner::Dead { rebooted: false }) => Judgement::End(Ended::RunnerDead),
        (_, Runner::None { age }) if *age >= timeout::CLAIM => Judgement::End(Ended::NeverClaimed),
        // It waits for a VMM that does not die, and would see its death first: killing it mends nothing while its
        // heart beats.
        (IncarnationState::Dying, Runner::Alive { silent, ending, .. })
            if *silent >= timeout::HEARTBEAT_LOST || ending.is_some_and(|since| since >= timeout::DYING) =>
        {
            Judgement::Kill(KillReason::Dying)
        }
        (_, Runner::Alive { silent, .. }) if *silent >= timeout::HEARTBEAT_LOST => {
            Judgement::Kill(KillReason::Silent)
        }
        (_, Runner::Alive { age, .. }) if *age >= allowed => Judgement::Kill(KillReason::Overdue),
        (_, Runner::None { .. } | Runner::Alive { .. }) => Judgement::Leave,
    }
}

/// What is known of a workload whose incarnation is over without its runner having said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Remains {
    /// How it is known to be over.
    pub(crate) ended: Ended,
    /// Whether the incarnation had been published as running.
    pub(crate) published: bool,
    /// Who had asked for its death, if somebody had.
    pub(crate) wanted_by: Option<Killer>,
    /// Why its runner was killed just now, if that is how it died.
    pub(crate) killed: Option<KillReason>,
    /// The boot step it had reached.
    pub(crate) step: BootStep,
}

impl Remains {
    /// The cause on its death certificate.
    pub(crate) fn death(self) -> DeathCause {
        match self.ended {
            Ended::NeverClaimed => DeathCause::NeverClaimed,
            Ended::GivenUp => DeathCause::Stopped,
            Ended::HostRebooted => DeathCause::HostRebooted,
            Ended::RunnerDead if self.killed == Some(KillReason::Overdue) => DeathCause::TimedOut,
            Ended::RunnerDead => DeathCause::RunnerKilled,
        }
    }

    /// The one outcome that can honestly be given: never `completed`, and never that it did not run when it
    /// may have.
    pub(crate) fn outcome(self) -> Outcome {
        if let Some(by) = self.wanted_by {
            return Outcome::Killed { by };
        }
        if self.published && self.killed == Some(KillReason::Overdue) {
            return Outcome::TimedOut;
        }
        let cause = match (self.ended, self.killed) {
            (Ended::NeverClaimed, _) => "no runner claimed it",
            (Ended::GivenUp, _) => "its end was wanted before a runner claimed it",
            (Ended::HostRebooted, _) => "the host was booted again",
            (Ended::RunnerDead, Some(KillReason::Silent)) => "its runner fell silent and was killed",
            (Ended::RunnerDead, Some(KillReason::Overdue)) => "its runner was overdue and was killed",
            (Ended::RunnerDead, Some(KillReason::Dying)) => "its runner would not end and was killed",
            (Ended::RunnerDead, None) => "its runner died",
        };
        let cause = cause.to_owned();
        if self.published { Outcome::Lost { cause } } else { Outcome::NotStarted { step: self.step, cause } }
    }
}

/// The boot step a runner was at when its journal ends: the one it began and did not finish, or the one that
/// `walker` walks after the last it finished.
pub(crate) fn step_reached(journal: &Journal, walker: Walker) -> BootStep {
    let steps = journal.lines.iter().filter_map(|line| match &line.entry {
        JournalEntry::Step { step, phase, .. } => step.parse::<BootStep>().ok().map(|step| (step, *phase)),
        JournalEntry::Held { .. }
        | JournalEntry::Released { .. }
        | JournalEntry::FellBack { .. }
        | JournalEntry::Program { .. }
        | JournalEntry::Rung { .. }
        | JournalEntry::Template { .. }
        | JournalEntry::Snapshot { .. }
        | JournalEntry::Limits { .. }
        | JournalEntry::KeepsUser { .. }
        | JournalEntry::End { .. } => None,
    });
    let mut forward =
        steps.filter(|(_, phase)| matches!(phase, StepPhase::Begin | StepPhase::Done | StepPhase::Failed));
    match forward.next_back() {
        None => BootStep::Claim,
        Some((step, StepPhase::Done)) => step.next_of(walker).unwrap_or(step),
        Some((step, _)) => step,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlast_model::workload::WorkloadEvent;
    use outlast_model::{IncarnationState as State, WorkloadState};
    use outlast_wire::journal::JournalLine;
    use proptest::prelude::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn runner() -> impl Strategy<Value = Runner> {
        let time = || (0u64..20_000).prop_map(Duration::from_millis);
        prop_oneof![
            time().prop_map(|age| Runner::None { age }),
            (time(), time(), prop::option::of(time())).prop_map(|(silent, age, ending)| Runner::Alive {
                silent,
                age,
                ending
            }),
            any::<bool>().prop_map(|rebooted| Runner::Dead { rebooted }),
            Just(Runner::Undecided),
        ]
    }

    proptest! {
        /// The promises, said without the table: nothing is ended without a proof, nothing that is well is
        /// killed, and what cannot be told is left alone.
        #[test]
        fn nobody_is_declared_dead_without_proof(
            state in prop::sample::select(State::ALL), runner in runner(), allowed in 1u64..20_000,
        ) {
            let judgement = judge(state, &runner, Duration::from_millis(allowed));
            match judgement {
                Judgement::End(_) => prop_assert!(matches!(&runner, Runner::Dead { .. } | Runner::None { .. }), "{:?}", runner),
                Judgement::Kill(_) => prop_assert!(matches!(&runner, Runner::Alive { .. }), "{:?}", runner),
                Judgement::Leave | Judgement::Refuse => {}
            }
            if runner == Runner::Undecided && state != State::Ended {
                prop_assert_eq!(judgement, Judgement::Refuse);
            }
            if state == State::Ended {
                prop_assert_eq!(judgement, Judgement::Leave);
            }
        }

        /// Whatever the reconciler says of a workload, its life cycle allows, and it is never a success.
        #[test]
        fn every_outcome_is_legal_and_none_is_success(
            ended in prop::sample::select(&[Ended::NeverClaimed, Ended::GivenUp, Ended::RunnerDead, Ended::HostRebooted][..]),
            published: bool, step in prop::sample::select(BootStep::ALL),
            killed in prop::option::of(prop::sample::select(
                &[KillReason::Silent, KillReason::Overdue, KillReason::Dying][..],
            )),
            wanted_by in prop::option::of(prop::sample::select(Killer::ALL)),
        ) {
            prop_assume!(!(published && matches!(ended, Ended::NeverClaimed | Ended::GivenUp)));
            let remains = Remains { ended, published, wanted_by, killed, step };
            let state = if published { WorkloadState::Running } else { WorkloadState::Starting };
            let outcome = remains.outcome();
            prop_assert_ne!(outcome.kind(), "completed");
            prop_assert_eq!(state.step(WorkloadEvent::Ended(outcome.clone())), Ok(WorkloadState::Over(outcome)));
        }
    }

    #[test]
    fn a_healthy_runner_is_left_alone_and_a_silent_or_overdue_one_is_killed() {
        let alive = |silent, age| Runner::Alive {
            silent: Duration::from_secs(silent),
            age: Duration::from_secs(age),
            ending: None,
        };
        assert_eq!(judge(State::Running, &alive(1, 100), HOUR), Judgement::Leave);
        assert_eq!(judge(State::Running, &alive(10, 100), HOUR), Judgement::Kill(KillReason::Silent));
        assert_eq!(judge(State::Claimed, &alive(1, 3600), HOUR), Judgement::Kill(KillReason::Overdue));
    }

    #[test]
    fn a_runner_that_waits_for_its_vmms_death_is_left_to_it_for_a_while() {
        let alive = |silent, ending| Runner::Alive {
            silent: Duration::from_secs(silent),
            age: Duration::from_secs(100),
            ending: Some(Duration::from_secs(ending)),
        };
        assert_eq!(judge(State::Dying, &alive(1, 59), HOUR), Judgement::Leave);
        assert_eq!(judge(State::Dying, &alive(1, 60), HOUR), Judgement::Kill(KillReason::Dying));
        assert_eq!(judge(State::Dying, &alive(10, 20), HOUR), Judgement::Kill(KillReason::Dying));
    }

    #[test]
    fn an_intent_is_given_time_to_be_claimed() {
        let none = |ms| Runner::None { age: Duration::from_millis(ms) };
        assert_eq!(judge(State::Intended, &none(9_999), HOUR), Judgement::Leave);
        assert_eq!(judge(State::Intended, &none(10_000), HOUR), Judgement::End(Ended::NeverClaimed));
    }

    fn journal(entries: &[(&str, StepPhase)]) -> Journal {
        let line = |(step, phase): &(&str, StepPhase)| JournalLine {
            unix_ns: 0,
            monotonic_ns: 0,
            entry: JournalEntry::Step { step: (*step).to_owned(), phase: *phase, error: None },
        };
        Journal { lines: entries.iter().map(line).collect(), torn_at: None }
    }

    #[test]
    fn the_journal_tells_which_step_was_reached() {
        use StepPhase::{Begin, Done, Undo};
        assert_eq!(step_reached(&journal(&[]), Walker::Workload), BootStep::Claim);
        assert_eq!(step_reached(&journal(&[("claim", Begin)]), Walker::Workload), BootStep::Claim);
        assert_eq!(
            step_reached(&journal(&[("claim", Begin), ("claim", Done)]), Walker::Workload),
            BootStep::RunDirectory
        );
        let undone = [("disks", Done), ("launch-vmm", Begin), ("disks", Undo), ("rubbish", Begin)];
        assert_eq!(step_reached(&journal(&undone), Walker::Workload), BootStep::LaunchVmm);
    }
}
