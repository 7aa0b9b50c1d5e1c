//! Stops a VM: the wish is written down, its runner is told, its death is proved.
//!
//! ```text
//!   request_stop ──► runner's socket ──taken──► wait for its death ──► settle
//!                       │ stranger, no socket ─► (the runner looks at the store once a second) ─┘
//!                       ├ silent ──────────────► (the same, while its heart beats; killed when that has stopped)
//!                       ├ late ────────────────► killed, unless an earlier stop may have given it longer
//!                       └ senseless ───────────► killed through its pidfd; the kernel takes the rest
//! ```

use super::error::VmError;
use super::find::{find_for_sure, reread};
use super::list::stopped_view;
use crate::error::{Error, chain};
use crate::follow::FollowError;
use crate::reconcile::{self, Doom, ReconcileError, Standing, journal_of};
use crate::runner_link::{Link, LinkError};
use crate::site::Site;
use crate::{clock, wait};
use outlast_machine::process::{Process, Sighting};
use outlast_model::{IncarnationId, Killer, timeout};
use outlast_store::{IncarnationRow, StopNote, StoreError};
use outlast_wire::control::{Answer, GENERATION_OF_VMS, Request};
use outlast_wire::journal::JournalEntry;
use outlast_wire::vm_view::VmStoppedView;
use std::time::{Duration, Instant};

/// How a VM is to be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopRequest {
    /// Begin with the rung that cannot fail.
    pub force: bool,
    /// All rungs together.
    pub within: Duration,
}

impl Default for StopRequest {
    fn default() -> Self {
        Self { force: false, within: timeout::STOP }
    }
}

/// What is done to an incarnation whose end does not come in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overdue {
    /// Its runner is killed, and the kernel takes the rest.
    PutDown,
    /// It is told that it still runs: somebody else may have given it more time.
    Leave,
}

/// Stops a VM and waits for its end. One of which nothing lives is a success. One that somebody asked to stop before
/// is waited for, and not cut short unless by force.
///
/// # Errors
/// [`VmError::StillRuns`] when its end did not come; those of reconciling.
pub fn stop(site: &Site, name: &str, request: StopRequest) -> Result<VmStoppedView, Error> {
    let vm = find_for_sure(site, name)?;
    let noted = site.store()?.request_stop(vm.id, clock::unix_ns()).map_err(|error| match error {
        StoreError::VmRemoved { name } => Error::from(VmError::NotFound { name, near: Vec::new() }),
        error => error.into(),
    })?;
    let Some((incarnation, overdue)) = to_end(noted, request.force) else {
        return Ok(stopped_view(&vm, None, true, None));
    };
    let row = bring_down(site, incarnation, request, overdue)
        .map_err(|error| still_runs(error, vm.name.as_str()))?;
    Ok(stopped_view(&reread(site, vm.id)?, Some(&row), false, rung(site, incarnation)))
}

/// What is to end, and what is done when it does not.
fn to_end(noted: StopNote, force: bool) -> Option<(IncarnationId, Overdue)> {
    match noted {
        StopNote::AlreadyNoted { incarnation } if !force => Some((incarnation, Overdue::Leave)),
        StopNote::Noted { incarnation } | StopNote::AlreadyNoted { incarnation } => {
            Some((incarnation, Overdue::PutDown))
        }
        StopNote::NotLiving(_) => None,
    }
}

/// Tells by its name what did not end.
pub(super) fn still_runs(error: Error, name: &str) -> Error {
    match error {
        Error::Reconcile(ReconcileError::StillRuns { .. }) => {
            VmError::StillRuns { name: name.to_owned() }.into()
        }
        error => error,
    }
}

/// Ends an incarnation whose end is wanted by the store already, and proves its death.
pub(super) fn bring_down(
    site: &Site,
    id: IncarnationId,
    request: StopRequest,
    overdue: Overdue,
) -> Result<IncarnationRow, Error> {
    reconcile::give_up(site, id, "a stop was requested before a runner claimed it")?;
    let row = site.store()?.incarnation(id)?.ok_or(StoreError::NoIncarnation { id })?;
    if row.ended_unix_ns.is_some() {
        return reconcile::settle(site, id);
    }
    let why = match ask(site, &row, request) {
        Err(error) if error.is_the_runners() => {
            format!("a stop was requested; its runner made no sense: {}", chain(&error))
        }
        asked => {
            if is_gone_within(site, &row, patience(request, asked.is_ok()))? {
                return reconcile::settle(site, id);
            }
            if overdue == Overdue::Leave {
                return Err(ReconcileError::StillRuns { incarnation: id }.into());
            }
            match asked {
                Ok(()) => "a stop was requested; its runner took it and did not end in time".to_owned(),
                Err(error) => format!("a stop was requested; its runner did not see it: {}", chain(&error)),
            }
        }
    };
    match reconcile::put_down(site, id, Doom { by: Killer::Request, why: &why })? {
        Standing::Over(row) => Ok(*row),
        Standing::Lives(row) => Err(ReconcileError::StillRuns { incarnation: row.id }.into()),
    }
}

fn ask(site: &Site, row: &IncarnationRow, request: StopRequest) -> Result<(), LinkError> {
    let StopRequest { force, within } = request;
    let timeout_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
    let mut link = Link::open(site, row)?.of_generation(GENERATION_OF_VMS)?;
    match link.ask(&Request::Stop { force, timeout_ms }, timeout::CONTROL)? {
        Answer::Accepted => Ok(()),
        _ => Err(LinkError::Unexpected),
    }
}

/// What the runner needs at most: its rungs, and what comes before and after them. One that was not reached looks at
/// the store first, and takes its usual time.
fn patience(request: StopRequest, told: bool) -> Duration {
    let rungs =
        if told { request.within } else { timeout::STOP + 2 * timeout::STORE_CHECK + timeout::CONTROL };
    timeout::LADDER.saturating_sub(timeout::STOP).saturating_add(rungs)
}

/// Waits for the death of a runner that was asked to end. One whose heart stops meanwhile is killed: a host that has
/// more to do than it can makes a runner slow to answer, and stopping its VM gently is still the better end.
fn is_gone_within(site: &Site, row: &IncarnationRow, within: Duration) -> Result<bool, Error> {
    // Whether it can be told at all, reconciling will say.
    let Some(Sighting::Alive(process)) = row.runner.as_ref().map(Process::open) else { return Ok(true) };
    let end = Instant::now() + within;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let look = left.min(timeout::HEARTBEAT_LOST);
        if wait::readable(&[process.as_fd()], look).map_err(FollowError::Wait)?.is_some() {
            return Ok(true);
        }
        if let Standing::Over(_) = reconcile::reconcile(site, row.id)? {
            return Ok(true);
        }
        if left <= look {
            return Ok(false);
        }
    }
}

/// The rung of the ladder that worked, by the runner's own word.
fn rung(site: &Site, id: IncarnationId) -> Option<String> {
    journal_of(site, id).lines.into_iter().rev().find_map(|line| match line.entry {
        JournalEntry::Rung { rung, worked: true } => Some(rung),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlast_model::VmState;

    #[test]
    fn a_gentle_stop_does_not_cut_an_earlier_one_short() {
        let incarnation = crate::clock::new_incarnation_id().unwrap();
        let (first, second) = (StopNote::Noted { incarnation }, StopNote::AlreadyNoted { incarnation });
        assert_eq!(to_end(first, false), Some((incarnation, Overdue::PutDown)));
        assert_eq!(to_end(second, false), Some((incarnation, Overdue::Leave)));
        assert_eq!(to_end(second, true), Some((incarnation, Overdue::PutDown)));
        assert_eq!(to_end(StopNote::NotLiving(VmState::Stopped), true), None);
    }
}
