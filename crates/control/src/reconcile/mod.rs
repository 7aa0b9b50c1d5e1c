//! Finds out what became of incarnations whose runner has not said so, and clears away what they left.
//!
//! Looked at here, judged in [`judgement`], cleared away in [`sweep`]. Any command may do it, several at once:
//! whoever wins the compare-and-set on state and runner writes the end, the others see it written. Nothing is
//! declared dead without a proof; what cannot be told is refused by name.

mod judgement;
mod look;
mod sweep;

pub(crate) use judgement::step_reached;
pub(crate) use look::journal_of;
pub(crate) use sweep::{Leftover, cgroups, is_older_than_a_claim, leftovers, remove};

use crate::clock;
use crate::error::Error;
use crate::evidence;
use crate::launch::last_words;
use crate::site::Site;
use judgement::{Ended, Judgement, KillReason, Remains, Runner, judge};
use look::Sight;
use outlast_machine::process::{Doubt, Process, ProcessError};
use outlast_model::{DeathCause, IncarnationId, IncarnationState, Killer, Outcome, timeout};
use outlast_store::{IncarnationRow, Owner, Store, StoreError};
use outlast_wire::exit_code::FailureKind;
use outlast_wire::record::{DeathRecord, EndRecord, FailedStart, OutcomeRecord};
use rustix::process::Signal;
use thiserror::Error;

/// A row that changes under our eyes this often is somebody else's work in progress.
const ATTEMPTS: usize = 8;

/// What became of an incarnation cannot be told, or not be written down.
#[derive(Debug, Error)]
pub enum ReconcileError {
    /// It cannot be told whether its runner lives.
    #[error("it cannot be told whether the runner of incarnation {incarnation} lives")]
    Undecided {
        /// The incarnation.
        incarnation: IncarnationId,
        /// Why.
        source: Doubt,
    },
    /// Its runner was killed and does not die.
    #[error("the runner of incarnation {incarnation} was killed and does not die: {}", .evidence.join("; "))]
    Dying {
        /// The incarnation.
        incarnation: IncarnationId,
        /// What was seen.
        evidence: Vec<String>,
    },
    /// Its runner cannot be signalled or waited for.
    #[error("cannot end the runner of incarnation {incarnation}")]
    Process {
        /// The incarnation.
        incarnation: IncarnationId,
        /// Why.
        source: ProcessError,
    },
    /// Others change its row all the time.
    #[error("incarnation {incarnation} is being changed by others")]
    Contended {
        /// The incarnation.
        incarnation: IncarnationId,
    },
    /// It lives although its end was waited for.
    #[error("incarnation {incarnation} still runs")]
    StillRuns {
        /// The incarnation.
        incarnation: IncarnationId,
    },
}

impl ReconcileError {
    /// The kind, from which exit codes follow.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Undecided { .. } | Self::Process { .. } => FailureKind::Failed,
            Self::Dying { .. } | Self::Contended { .. } | Self::StillRuns { .. } => FailureKind::Conflict,
        }
    }
}

/// Where an incarnation stands after it was looked at.
#[derive(Debug)]
pub(crate) enum Standing {
    /// Over; the row says how.
    Over(Box<IncarnationRow>),
    /// It lives, or its runner is about to come.
    Lives(Box<IncarnationRow>),
}

/// Brings what the store says of one incarnation into line with what is.
///
/// # Errors
/// [`ReconcileError::Undecided`] and [`ReconcileError::Dying`] when nothing may be said; those of the store.
pub(crate) fn reconcile(site: &Site, id: IncarnationId) -> Result<Standing, Error> {
    act(site, id, None)
}

/// Why a runner is killed that would not end when it was asked to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Doom<'a> {
    /// Who wants its workload dead.
    pub(crate) by: Killer,
    /// A sentence for the death certificate.
    pub(crate) why: &'a str,
}

/// The same after the incarnation's end was asked for and did not come: its runner is killed.
pub(crate) fn put_down(site: &Site, id: IncarnationId, doom: Doom<'_>) -> Result<Standing, Error> {
    act(site, id, Some(doom))
}

/// The row of an incarnation whose runner is believed gone: proves it, and ends it if the runner did not. One
/// that no runner has claimed will not be claimed any more.
///
/// # Errors
/// As [`reconcile`], and [`ReconcileError::StillRuns`] when it was not gone.
pub(crate) fn settle(site: &Site, id: IncarnationId) -> Result<IncarnationRow, Error> {
    let row = row_of(site.store()?, id)?;
    if let Some(Sight::Alive(process)) = row.runner.as_ref().map(look::sight) {
        // Its end of the lease closes a moment before the kernel has taken everything of it along. On a host that
        // is short of everything the moment can be long; after this its heart counts as silent.
        let dead = process.wait_dead(timeout::HEARTBEAT_LOST + timeout::DEATH);
        dead.map_err(|source| ReconcileError::Process { incarnation: id, source })?;
    }
    if row.runner.is_none() && row.state == IncarnationState::Intended {
        let said = last_words(&site.places().evidence(id).runner_log());
        // Should one live after all, its claim comes too late: the row is over, and it leaves again.
        abandon(site, id, &format!("its runner ended before it claimed it: {said}"))?;
    }
    match reconcile(site, id)? {
        Standing::Over(row) => Ok(*row),
        Standing::Lives(_) => Err(ReconcileError::StillRuns { incarnation: id }.into()),
    }
}

/// Ends an incarnation that nobody claimed, at once: its launcher failed. When a runner has claimed it after all, nothing
/// happens. Tells whether it was ended here.
pub(crate) fn abandon(site: &Site, id: IncarnationId, why: &str) -> Result<bool, Error> {
    end_unclaimed(site, id, Ended::NeverClaimed, why)
}

/// The same because somebody wants it ended.
pub(crate) fn give_up(site: &Site, id: IncarnationId, why: &str) -> Result<bool, Error> {
    end_unclaimed(site, id, Ended::GivenUp, why)
}

fn end_unclaimed(site: &Site, id: IncarnationId, ended: Ended, why: &str) -> Result<bool, Error> {
    let row = row_of(site.store()?, id)?;
    if row.state != IncarnationState::Intended {
        return Ok(false);
    }
    let verdict = Verdict { ended, killed: None, evidence: vec![why.to_owned()] };
    end(site, &row, verdict, None)
}

/// Looks at everything that is not over, and clears away what never came to be. What could not be decided is told, and stops nothing.
pub(crate) fn reconcile_all(site: &Site) -> Result<Vec<(IncarnationId, Error)>, Error> {
    let Some(store) = site.existing_store()? else { return Ok(Vec::new()) };
    let mut refused = Vec::new();
    for row in store.living()? {
        if let Err(error) = reconcile(site, row.id) {
            refused.push((row.id, error));
        }
    }
    sweep::interrupted_preparations(site, store)?;
    evidence::finish_interrupted(site);
    Ok(refused)
}

fn row_of(store: &Store, id: IncarnationId) -> Result<IncarnationRow, StoreError> {
    store.incarnation(id)?.ok_or(StoreError::NoIncarnation { id })
}

/// How an incarnation is known to be over, with what was seen.
struct Verdict {
    ended: Ended,
    killed: Option<KillReason>,
    evidence: Vec<String>,
}

fn act(site: &Site, id: IncarnationId, doom: Option<Doom<'_>>) -> Result<Standing, Error> {
    for _ in 0..ATTEMPTS {
        let row = row_of(site.store()?, id)?;
        if row.state == IncarnationState::Ended {
            see_off(&row);
            sweep::sweep(site, &row);
            return Ok(Standing::Over(Box::new(row)));
        }
        let sight = row.runner.as_ref().map(look::sight);
        let runner = look::runner(site, &row, sight.as_ref());
        let judgement = match (judge(row.state, &runner, look::allowed(&row)), doom, &runner) {
            (Judgement::Leave, Some(_), Runner::Alive { .. }) => Judgement::Kill(KillReason::Dying),
            (judgement, _, _) => judgement,
        };
        let verdict = match (judgement, sight) {
            (Judgement::Leave, _) => return Ok(Standing::Lives(Box::new(row))),
            (Judgement::Refuse, Some(Sight::Undecided(source))) => {
                return Err(ReconcileError::Undecided { incarnation: id, source }.into());
            }
            (Judgement::Kill(reason), Some(Sight::Alive(process))) => {
                if reason == KillReason::Silent && look::beats_after_all(site, &row, &process) {
                    continue;
                }
                kill(site, &row, &process, (reason, doom))?
            }
            (Judgement::End(ended), sight) => {
                Verdict { ended, killed: None, evidence: look::proof(&row, sight.as_ref()) }
            }
            // The judgement follows from the sight: these pairs do not come about.
            (Judgement::Refuse | Judgement::Kill(_), _) => continue,
        };
        if end(site, &row, verdict, doom.map(|doom| doom.by))? {
            let row = row_of(site.store()?, id)?;
            return Ok(Standing::Over(Box::new(row)));
        }
    }
    Err(ReconcileError::Contended { incarnation: id }.into())
}

/// A runner that has written the end leaves by itself, in milliseconds. One that does not is made to: what it
/// holds would never be given back.
fn see_off(row: &IncarnationRow) {
    let Some(Sight::Alive(process)) = row.runner.as_ref().map(look::sight) else { return };
    if matches!(process.wait_dead(timeout::DEATH), Ok(false)) {
        tracing::warn!(incarnation = %row.id, "killing a runner that has ended its incarnation and stays");
        let gone = process.signal(Signal::KILL).and_then(|()| process.wait_dead(timeout::DEATH));
        if !matches!(gone, Ok(true)) {
            tracing::error!(incarnation = %row.id, pid = process.identity().pid, "it does not die");
        }
    }
}

/// Kills a runner through its pidfd and waits for its death; if that does not come, it is `dying`.
fn kill(
    site: &Site,
    row: &IncarnationRow,
    process: &Process,
    (reason, doom): (KillReason, Option<Doom<'_>>),
) -> Result<Verdict, Error> {
    let failed = |source| ReconcileError::Process { incarnation: row.id, source };
    let why = match (reason, doom) {
        (_, Some(doom)) => doom.why.to_owned(),
        (KillReason::Silent, None) => {
            format!("its runner's heart had not beaten for {} s", timeout::HEARTBEAT_LOST.as_secs())
        }
        (KillReason::Overdue, None) => "its runner had outlived all of its deadlines".to_owned(),
        (KillReason::Dying, None) => "its runner was to die before".to_owned(),
    };
    tracing::warn!(incarnation = %row.id, why, "killing a runner");
    process.signal(Signal::KILL).map_err(failed)?;
    if process.wait_dead(timeout::DEATH).map_err(failed)? {
        let evidence = vec![why, "it was killed through its pidfd, which then told its death".to_owned()];
        return Ok(Verdict { ended: Ended::RunnerDead, killed: Some(reason), evidence });
    }
    let mut evidence = vec![why];
    evidence.extend(process.stack_evidence());
    if row.state != IncarnationState::Dying {
        let marked = site.store()?.mark_dying(row.id, process.identity(), &evidence, clock::unix_ns());
        match marked {
            // Somebody else was first; what they wrote is as good.
            Ok(()) | Err(StoreError::NotOwner { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(ReconcileError::Dying { incarnation: row.id, evidence }.into())
}

/// Writes the end; `false` when somebody else has changed the row first.
fn end(
    site: &Site,
    row: &IncarnationRow,
    verdict: Verdict,
    doomed_by: Option<Killer>,
) -> Result<bool, Error> {
    let End { outcome, failed_start, death } = end_of(site, row, &verdict, doomed_by)?;
    let log = look::measure_output(site, row.id);
    let mut evidence = verdict.evidence;
    evidence.extend(log.complaint);
    evidence.extend(sweep::counted(site.store()?.id(), row.id));
    let record = EndRecord {
        outcome: outcome.as_ref().map(OutcomeRecord::from),
        failed_start,
        death: DeathRecord::new(&death, evidence, clock::unix_ns(), "reconciler"),
        output_log_bytes: log.bytes,
        truncated_bytes: log.dropped,
        timings: row.timings,
    };
    let owner = Owner::Reconciler { expected: row.state, runner: row.runner.clone() };
    match site.store()?.end(row.id, &owner, &record) {
        Ok(()) => {
            sweep::sweep(site, row);
            Ok(true)
        }
        Err(StoreError::NotOwner { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What is said of an end.
struct End {
    /// A workload's.
    outcome: Option<Outcome>,
    /// A VM's that was never published.
    failed_start: Option<FailedStart>,
    death: DeathCause,
}

fn end_of(
    site: &Site,
    row: &IncarnationRow,
    verdict: &Verdict,
    doomed_by: Option<Killer>,
) -> Result<End, Error> {
    let workload = match row.workload {
        Some(id) => site.store()?.workload(id)?,
        None => None,
    };
    let remains = Remains {
        ended: verdict.ended,
        published: row.running_unix_ns.is_some(),
        wanted_by: workload
            .as_ref()
            .and_then(|row| row.kill_requested_unix_ns)
            .map(|_| Killer::Request)
            .or(doomed_by),
        killed: verdict.killed,
        step: step_reached(&journal_of(site, row.id), row.intent.purpose.walker()),
    };
    let explained = |outcome| match (outcome, verdict.ended, verdict.evidence.first()) {
        // A launcher that failed has said why; that is the cause a person wants to read.
        (Outcome::NotStarted { step, cause }, Ended::NeverClaimed, Some(said)) => {
            Outcome::NotStarted { step, cause: format!("{cause}: {said}") }
        }
        (outcome, _, _) => outcome,
    };
    // Whoever wanted it dead: how far it came is asked all the same.
    let unwanted = Remains { wanted_by: None, ..remains };
    let failed_start = row.vm.and_then(|_| FailedStart::of(&explained(unwanted.outcome())));
    let outcome = workload.map(|_| explained(remains.outcome()));
    Ok(End { outcome, failed_start, death: remains.death() })
}

#[cfg(test)]
mod tests;
