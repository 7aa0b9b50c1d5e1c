//! Workloads by id: finding one, killing one.

use crate::error::{Error, chain};
use crate::reconcile::{self, Doom, Standing, reconcile};
use crate::runner_link::{self, LinkError};
use crate::site::Site;
use crate::{clock, wait};
use outlast_machine::process::{Process, Sighting};
use outlast_model::{Killer, Outcome, WorkloadId, WorkloadState, timeout};
use outlast_store::{Found, IncarnationRow, KillNote, StoreError, WorkloadRow};
use outlast_wire::exit_code::FailureKind;
use thiserror::Error;

/// A workload is not there, or not in the state for this.
#[derive(Debug, Error)]
pub enum WorkloadError {
    /// No workload has this id, or one beginning like this.
    #[error("there is no workload '{id}'")]
    NotFound {
        /// What was given.
        id: String,
    },
    /// Several begin like this.
    #[error("'{prefix}' is the beginning of several ids: {}", .ids.join(", "))]
    Ambiguous {
        /// What was given.
        prefix: String,
        /// The first few of them.
        ids: Vec<String>,
    },
    /// It is over.
    #[error("workload {id} is already over: {outcome}")]
    Over {
        /// Its id.
        id: WorkloadId,
        /// How it ended.
        outcome: Outcome,
    },
    /// Its evidence is kept no longer.
    #[error("the logs of workload {id} are gone: its evidence has been pruned; how it ended is kept")]
    Pruned {
        /// Its id.
        id: WorkloadId,
    },
    /// Its end was waited for and did not come.
    #[error("workload {id} was told to end and has not")]
    StillRuns {
        /// Its id.
        id: WorkloadId,
    },
}

impl WorkloadError {
    /// The kind, from which exit codes follow.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::NotFound { .. } | Self::Pruned { .. } => FailureKind::NotFound,
            Self::Ambiguous { .. } => FailureKind::BadInput,
            Self::Over { .. } | Self::StillRuns { .. } => FailureKind::Conflict,
        }
    }

    /// The next command to type.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotFound { .. } | Self::Ambiguous { .. } => "outlast ps -a".to_owned(),
            Self::Over { id, .. } | Self::Pruned { id } => format!("outlast show {id}"),
            Self::StillRuns { .. } => "outlast doctor".to_owned(),
        })
    }
}

/// A workload with the incarnation that runs it, after it was looked at.
#[derive(Debug)]
pub(crate) struct Known {
    /// The workload.
    pub(crate) workload: WorkloadRow,
    /// Its incarnation.
    pub(crate) incarnation: IncarnationRow,
}

/// Finds a workload by its id or the beginning of it, and brings its row into line with what is.
///
/// # Errors
/// [`WorkloadError::NotFound`], [`WorkloadError::Ambiguous`], and those of reconciling.
pub(crate) fn find(site: &Site, id: &str) -> Result<Known, Error> {
    let not_found = || WorkloadError::NotFound { id: id.chars().take(40).collect() };
    let Some(store) = site.existing_store()? else { return Err(not_found().into()) };
    match store.find_workload(id)? {
        Found::One(row) => known(site, row.id),
        Found::None => Err(not_found().into()),
        Found::Several(ids) => {
            let (prefix, ids) = (id.to_owned(), ids.iter().map(ToString::to_string).collect());
            Err(WorkloadError::Ambiguous { prefix, ids }.into())
        }
    }
}

/// A workload whose id is known to be right, looked at. What cannot be told is no reason not to show the rest.
pub(crate) fn known(site: &Site, id: WorkloadId) -> Result<Known, Error> {
    let row = workload(site, id)?;
    match reconcile(site, row.incarnation) {
        Ok(_) | Err(Error::Reconcile(_)) => {}
        Err(error) => return Err(error),
    }
    as_written(site, id)
}

/// A workload and its incarnation as the store has them.
pub(crate) fn as_written(site: &Site, id: WorkloadId) -> Result<Known, Error> {
    let workload = workload(site, id)?;
    let incarnation = site.store()?.incarnation(workload.incarnation)?;
    let incarnation = incarnation.ok_or(StoreError::NoIncarnation { id: workload.incarnation })?;
    Ok(Known { workload, incarnation })
}

fn workload(site: &Site, id: WorkloadId) -> Result<WorkloadRow, StoreError> {
    site.store()?.workload(id)?.ok_or(StoreError::NoWorkload { id })
}

/// Kills a workload and waits for its outcome: usually `killed`, unless it ended by itself first.
///
/// The wish is written down first, so that it is fulfilled even if this process dies. The runner is asked; one
/// that does not answer is killed through its pidfd, and the kernel takes everything of it along.
///
/// # Errors
/// [`WorkloadError::Over`] when it was over before; [`WorkloadError::StillRuns`].
pub fn kill(site: &Site, id: &str) -> Result<(WorkloadId, Outcome), Error> {
    let Known { workload, .. } = find(site, id)?;
    let id = workload.id;
    if let KillNote::Over(outcome) = site.store()?.request_kill(id, clock::unix_ns())? {
        return Err(WorkloadError::Over { id, outcome }.into());
    }
    reconcile::give_up(site, workload.incarnation, "a kill was requested before a runner claimed it")?;
    let Known { incarnation, .. } = as_written(site, id)?;
    if incarnation.ended_unix_ns.is_none() {
        end_runner(site, &incarnation)?;
    }
    match as_written(site, id)?.workload.state {
        WorkloadState::Over(outcome) => Ok((id, outcome)),
        WorkloadState::Pending | WorkloadState::Starting | WorkloadState::Running => {
            Err(WorkloadError::StillRuns { id }.into())
        }
    }
}

fn end_runner(site: &Site, row: &IncarnationRow) -> Result<(), Error> {
    let asked = runner_link::ask_to_kill(site, row);
    let why = match asked {
        Ok(()) if is_gone_within_ladder(row)? => {
            reconcile::settle(site, row.id)?;
            return Ok(());
        }
        Ok(()) => "a kill was requested; its runner took it and did not end in time".to_owned(),
        Err(LinkError::Refused { cause }) => format!("a kill was requested; its runner refused it: {cause}"),
        Err(error) => format!("a kill was requested; its runner did not answer: {}", chain(&error)),
    };
    match reconcile::put_down(site, row.id, Doom { by: Killer::Request, why: &why })? {
        Standing::Over(_) => Ok(()),
        Standing::Lives(row) => Err(reconcile::ReconcileError::StillRuns { incarnation: row.id }.into()),
    }
}

/// Waits for the death of a runner that was asked to end.
fn is_gone_within_ladder(row: &IncarnationRow) -> Result<bool, Error> {
    let Some(identity) = &row.runner else { return Ok(true) };
    match Process::open(identity) {
        Sighting::Alive(process) => {
            let gone = wait::readable(&[process.as_fd()], timeout::LADDER)
                .map_err(crate::follow::FollowError::Wait)?;
            Ok(gone.is_some())
        }
        // Whether it can be told at all, reconciling will say.
        Sighting::Dead(_) | Sighting::Undecided(_) => Ok(true),
    }
}
