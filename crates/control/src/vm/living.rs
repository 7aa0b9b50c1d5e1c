//! A VM that lives, and the conversation with its runner: what goes wrong there is told as what it means for the VM.

use super::error::VmError;
use super::find::{find, newest, not_running, reread};
use crate::error::Error;
use crate::reconcile::{Standing, reconcile};
use crate::runner_link::{Link, LinkError};
use crate::site::Site;
use outlast_machine::process::{Process, Sighting};
use outlast_model::{VmState, timeout};
use outlast_store::{IncarnationRow, VmRow};
use outlast_wire::control::{Answer, GENERATION_OF_VMS, Request};
use std::time::Duration;

/// A refusal may be the first word of an end: the runner of a VMM that has died is gone within this (50 ms are
/// promised).
const LAST_BREATH: Duration = Duration::from_millis(200);

/// A VM with the incarnation of it that was published and is not over.
#[derive(Debug)]
pub(super) struct Living {
    pub(super) vm: VmRow,
    pub(super) row: IncarnationRow,
}

/// Finds a VM that runs or is paused.
///
/// # Errors
/// [`VmError::NotRunning`] with the cause when nothing of it lives; [`VmError::WrongState`] while it starts or stops.
pub(super) fn living(site: &Site, name: &str) -> Result<Living, Error> {
    let vm = find(site, name)?;
    match vm.state {
        VmState::Running | VmState::Paused => {
            let row = newest(site, &vm)?;
            Ok(Living { vm, row })
        }
        VmState::Starting | VmState::Stopping => {
            Err(VmError::WrongState { name: vm.name.to_string(), state: vm.state, so: "" }.into())
        }
        VmState::Created | VmState::Stopped | VmState::Failed => Err(not_running(&vm).into()),
    }
}

impl Living {
    /// The VM's name.
    pub(super) fn name(&self) -> String {
        self.vm.name.to_string()
    }

    /// Asks the runner one thing.
    ///
    /// # Errors
    /// As [`Self::explained`].
    pub(super) fn ask(&self, site: &Site, request: &Request, within: Duration) -> Result<Answer, Error> {
        let asked = self.connect(site).and_then(|mut link| link.ask(request, within));
        asked.or_else(|error| self.explained(site, error))
    }

    /// Connects to the runner.
    pub(super) fn connect(&self, site: &Site) -> Result<Link, LinkError> {
        Link::open(site, &self.row)?.of_generation(GENERATION_OF_VMS)
    }

    /// What an error on the way to the runner means: that the VM has ended, if it has; what it says, if not.
    ///
    /// # Errors
    /// Always one: [`VmError::NotRunning`], [`VmError::Refused`], [`VmError::Link`], or those of reconciling.
    pub(super) fn explained<T>(&self, site: &Site, error: LinkError) -> Result<T, Error> {
        let name = self.name();
        if self.is_over_within(site, patience(&error))? {
            return Err(not_running(&reread(site, self.vm.id)?).into());
        }
        Err(match error {
            LinkError::Refused { cause } => VmError::Refused { name, cause },
            source => VmError::Link { name, source },
        }
        .into())
    }

    /// Whether it has ended, or does within a while.
    pub(super) fn is_over_within(&self, site: &Site, within: Duration) -> Result<bool, Error> {
        if let Some(Sighting::Alive(runner)) = self.row.runner.as_ref().map(Process::open) {
            // What cannot be waited for is looked at by reconciling all the same.
            let _ = runner.wait_dead(within);
        }
        Ok(matches!(reconcile(site, self.row.id)?, Standing::Over(_)))
    }
}

/// How long the end is waited for that an error may be the first sign of.
fn patience(error: &LinkError) -> Duration {
    match error {
        LinkError::Refused { .. } => LAST_BREATH,
        LinkError::HungUp | LinkError::Io(_) | LinkError::Connect { .. } => timeout::DEATH,
        // Somebody answered, or stood still: a runner that ends does neither.
        LinkError::Stranger { .. }
        | LinkError::Silent { .. }
        | LinkError::Malformed(_)
        | LinkError::TooLong(_)
        | LinkError::Unexpected
        | LinkError::TooOld { .. } => Duration::ZERO,
    }
}
