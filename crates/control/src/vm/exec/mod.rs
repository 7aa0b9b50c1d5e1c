//! Programs in a VM: asked for on the runner's socket, their output read from the log that the runner keeps of it.
//!
//! ```text
//!   our input, signals, size ──► runner ──► guest        (a program's connection; signals on one of their own, because
//!   runner ──► "the log grew", "it ended"                  input may stand in the way)
//!   exec-N.log ──► sink
//!   we hang up ──► the program is killed; the runner hangs up ──► its end is unknown: lost, and why
//! ```
//!
//! A program that was detached has no connection: it goes on, and its log stays.

mod attendance;
mod log;

pub use attendance::{Company, Ended};

use super::error::VmError;
use super::living::{Living, living};
use crate::error::Error;
use crate::runner_link::{Link, LinkError, framed};
use crate::site::Site;
use log::ProgramLog;
use outlast_model::{VmState, timeout};
use outlast_wire::control::{Answer, ExecRequest, MAX_FRAME, Request};
use std::path::PathBuf;

/// A program that was started in a VM. Dropping it hangs up: one that was not detached is killed then.
#[derive(Debug)]
pub struct Program<'s> {
    site: &'s Site,
    living: Living,
    link: Link,
    number: u32,
    log: PathBuf,
    /// Whether its log is only on its way to us, and takes no space once it was read.
    passing: bool,
}

/// Starts a program in a VM that runs.
///
/// # Errors
/// [`VmError::NotRunning`]; [`VmError::ProgramNotStarted`] with the guest's reason.
pub fn exec<'s>(site: &'s Site, name: &str, request: ExecRequest) -> Result<Program<'s>, Error> {
    let passing = request.output_limit.is_some();
    let request = Request::Exec(request);
    if let Err(LinkError::TooLong(size)) = framed(&request) {
        return Err(VmError::ProgramTooLong { size, most: MAX_FRAME }.into());
    }
    let living = living(site, name)?;
    if living.vm.state == VmState::Paused {
        let so = ", and starts nothing until it goes on";
        return Err(VmError::WrongState { name: living.name(), state: VmState::Paused, so }.into());
    }
    let mut link = match living.connect(site) {
        Ok(link) => link,
        Err(error) => return living.explained(site, error),
    };
    let number = match link.ask(&request, timeout::AGENT_REQUEST + timeout::CONTROL) {
        Ok(Answer::ExecStarted { exec, .. }) => exec,
        Ok(_) => return living.explained(site, LinkError::Unexpected),
        Err(error) => return living.explained(site, error).map_err(not_started),
    };
    // Where it is follows from the number: no path is taken from a runner's word.
    let log = site.places().evidence(living.row.id).exec_log(number);
    Ok(Program { site, living, link, number, log, passing })
}

fn not_started(error: Error) -> Error {
    match error {
        Error::Vm(VmError::Refused { name, cause }) => VmError::ProgramNotStarted { name, cause }.into(),
        error => error,
    }
}

impl Program<'_> {
    /// Its number in its incarnation.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The VM's name.
    pub fn vm(&self) -> String {
        self.living.name()
    }

    /// The incarnation it runs in.
    pub fn incarnation(&self) -> String {
        self.living.row.id.to_string()
    }

    /// The file to which what it writes is appended.
    pub fn log(&self) -> &PathBuf {
        &self.log
    }

    /// Stays beside it until one of the two is gone.
    ///
    /// # Errors
    /// [`VmError::Interrupted`] when a signal told us to go: the program is killed. Its output cannot be read or
    /// passed on.
    pub fn attend(self, company: Company<'_>) -> Result<Ended, Error> {
        let log = ProgramLog::open(&self.log, self.passing)?;
        attendance::attend(self, log, company)
    }
}
