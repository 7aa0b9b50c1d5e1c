//! The boot steps: what each makes, how it is undone, and how to see whether anything of it is left.
//!
//! One file a step. The order stands in `outlast_model::step`; [`Core::make`], [`Core::undo`] and
//! [`Core::probe`] are the table from names to code, and the compiler keeps them complete. To add a step,
//! add its name there, its file here, and a line in each of the three.
//!
//! A step is done by at most one attempt at a time, undone in reverse, and both are idempotent: undoing what
//! was half made, or never made, is fine.

mod agent_hello;
mod certify;
mod claim;
mod disks;
mod inputs;
mod launch_vmm;
mod publish;
mod run_directory;
mod settle;
mod start_guest;
mod start_program;

pub(crate) use launch_vmm::{alone, survivors};

use crate::arguments::Order;
use crate::control::{ControlServer, Desk};
use crate::copying::Copying;
use crate::event::Interrupt;
use crate::heartbeat::Heartbeat;
use crate::init::Reaping;
use crate::journal::Journal;
use crate::ledger::Ledger;
use crate::link::{Fault, Link, LinkError};
use crate::output::OutputLog;
use crate::program::Running;
use crate::vm::{Finding, Watch};
use outlast_machine::backend::{Backend, VmmEvents};
use outlast_machine::cgroup::IncarnationCgroup;
use outlast_model::{BootStep, Certificate, IncarnationId};
use outlast_wire::guest::HelloAck;
use outlast_wire::identity::ProcessIdentity;
use outlast_wire::intent::{Intent, Purpose};
use outlast_wire::journal::StepPhase;
use outlast_wire::paths::{Evidence, RunDirectory};
use outlast_wire::record::Timings;
use std::cell::Cell;
use std::fmt;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Why a step did not get done.
#[derive(Debug)]
pub(crate) enum Stumble {
    /// It failed; the whole chain of causes as one sentence.
    Failed(String),
    /// The guest link broke; the VMM may know why.
    LinkBroke(String),
    /// Something ended the incarnation meanwhile.
    Interrupted(Interrupt),
    /// The row is not, or no longer, this runner's.
    NotOurs,
}

impl fmt::Display for Stumble {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) | Self::LinkBroke(error) => out.pad(error),
            Self::Interrupted(interrupt) => write!(out, "interrupted: {interrupt:?}"),
            Self::NotOurs => out.pad("the row is not this runner's"),
        }
    }
}

/// An error with all its causes: what a person reads in an outcome.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // A transparent error repeats its source.
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

impl Stumble {
    fn failed<E: std::error::Error>(error: E) -> Self {
        Self::Failed(chain(&error))
    }

    /// As [`Stumble::failed`], told apart when the link broke under it.
    fn on_link<E: std::error::Error + 'static>(error: E) -> Self {
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(this) = cause {
            if this.downcast_ref::<LinkError>().is_some_and(|error| error.fault() == Fault::Broken) {
                return Self::LinkBroke(chain(&error));
            }
            cause = this.source();
        }
        Self::failed(error)
    }
}

/// Whether anything of a step is on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Nothing.
    Absent,
    /// Something.
    Present,
    /// It could not be found out.
    Unknown,
}

/// The steps an incarnation of this purpose walks.
pub(crate) fn plan(purpose: &Purpose) -> Vec<BootStep> {
    let walker = purpose.walker();
    BootStep::ALL.iter().copied().filter(|step| step.is_walked_by(walker)).collect()
}

/// What an incarnation is and has: the state the steps build up.
pub(crate) struct Core<B: Backend> {
    pub(crate) id: IncarnationId,
    pub(crate) who: ProcessIdentity,
    pub(crate) intent: Intent,
    pub(crate) evidence: Evidence,
    pub(crate) run_directory: RunDirectory,
    pub(crate) ledger: Ledger,
    pub(crate) journal: Journal,
    pub(crate) desk: Rc<Desk>,
    pub(crate) cgroup: IncarnationCgroup,
    /// Which dead children are orphans.
    pub(crate) reaping: Rc<Cell<Reaping>>,
    /// Steps that were begun, in order: what there is to undo.
    pub(crate) begun: Vec<BootStep>,
    pub(crate) heartbeat: Option<Heartbeat>,
    pub(crate) control: Option<ControlServer>,
    pub(crate) leases: Vec<OwnedFd>,
    /// The copy of the disk that is restored.
    pub(crate) copying: Option<Copying>,
    pub(crate) vmm: Option<B>,
    pub(crate) vmm_events: Option<VmmEvents>,
    /// When the vCPUs began to run.
    pub(crate) guest_started: Option<Instant>,
    pub(crate) link: Option<Link>,
    pub(crate) hello: Option<HelloAck>,
    pub(crate) certificate: Option<Certificate>,
    pub(crate) fell_back: Option<String>,
    pub(crate) output: Option<OutputLog>,
    /// Whether the program may have left for the guest: from then on nobody can say that it never ran.
    pub(crate) program_sent: bool,
    pub(crate) program: Option<Running>,
    /// Whether the store says that it runs.
    pub(crate) published: bool,
    /// Whether the vCPUs stand still because somebody asked for it.
    pub(crate) paused: bool,
    /// Whether programs in the guest may stand still because they were told to.
    pub(crate) frozen: bool,
    /// The watch over a VM's row, and what it found until somebody listens.
    pub(crate) watch: Option<Watch>,
    pub(crate) findings: Option<mpsc::Receiver<Finding>>,
    pub(crate) timings: Timings,
}

impl<B: Backend> Core<B> {
    /// An incarnation that has made nothing yet.
    pub(crate) fn new(
        order: &Order,
        (who, cgroup): (ProcessIdentity, IncarnationCgroup),
        intent: Intent,
        (ledger, journal, desk): (Ledger, Journal, Rc<Desk>),
    ) -> Self {
        Self {
            id: order.incarnation,
            who,
            intent,
            evidence: order.places.evidence(order.incarnation),
            run_directory: order.places.run_directory(order.incarnation),
            ledger,
            journal,
            desk,
            cgroup,
            reaping: Rc::new(Cell::new(Reaping::All)),
            begun: Vec::new(),
            heartbeat: None,
            control: None,
            leases: Vec::new(),
            copying: None,
            vmm: None,
            vmm_events: None,
            guest_started: None,
            link: None,
            hello: None,
            certificate: None,
            fell_back: None,
            output: None,
            program_sent: false,
            program: None,
            published: false,
            paused: false,
            frozen: false,
            watch: None,
            findings: None,
            timings: Timings::default(),
        }
    }

    /// Does a step. Cancelling it leaves it half done, which [`Core::undo`] copes with.
    pub(crate) async fn make(&mut self, step: BootStep) -> Result<(), Stumble> {
        self.begun.push(step);
        match step {
            BootStep::Claim => claim::make(self).await,
            BootStep::RunDirectory => run_directory::make(self),
            BootStep::Disks => disks::make(self).await,
            BootStep::LaunchVmm => launch_vmm::make(self).await,
            BootStep::StartGuest => start_guest::make(self).await,
            BootStep::AgentHello => agent_hello::make(self).await,
            BootStep::Settle => settle::make(self).await,
            BootStep::Certify => certify::make(self).await,
            BootStep::Inputs => inputs::make(self).await,
            BootStep::Publish => publish::make(self).await,
            BootStep::StartProgram => start_program::make(self).await,
        }
    }

    /// Undoes a step, as far as this process can. What it leaves is said by [`Core::probe`].
    pub(crate) async fn undo(&mut self, step: BootStep) -> Result<(), String> {
        match step {
            BootStep::Claim => claim::undo(self),
            BootStep::RunDirectory => run_directory::undo(self),
            BootStep::Disks => disks::undo(self).await,
            BootStep::LaunchVmm => launch_vmm::undo(self).await,
            BootStep::AgentHello => agent_hello::undo(self),
            // What these do lies in the guest, which goes with the VMM, or in the row, which only grows.
            BootStep::StartGuest
            | BootStep::Settle
            | BootStep::Certify
            | BootStep::Inputs
            | BootStep::Publish
            | BootStep::StartProgram => Ok(()),
        }
    }

    /// Whether anything of a step is on the host.
    pub(crate) fn probe(&self, step: BootStep) -> Presence {
        match step {
            BootStep::Claim => claim::probe(self),
            BootStep::RunDirectory => run_directory::probe(self),
            BootStep::Disks => disks::probe(self),
            BootStep::LaunchVmm => launch_vmm::probe(self),
            BootStep::AgentHello => agent_hello::probe(self),
            BootStep::StartGuest
            | BootStep::Settle
            | BootStep::Certify
            | BootStep::Inputs
            | BootStep::Publish
            | BootStep::StartProgram => Presence::Absent,
        }
    }

    /// Undoes what was begun, in reverse, down to and including `first`. A failed undo is journalled and does
    /// not keep the others from being tried; what is left is found by its name later.
    /// Returns whether nothing is left.
    pub(crate) async fn undo_back_to(&mut self, first: BootStep) -> bool {
        let mut clean = true;
        while let Some(step) = self.begun.pop() {
            if step < first {
                self.begun.push(step);
                break;
            }
            self.journal.step(step, StepPhase::Undo, None);
            let undone = self.undo(step).await;
            let left = match (undone, self.probe(step)) {
                (Ok(()), Presence::Absent) => None,
                (Ok(()), presence) => Some(format!("something of it is left ({presence:?})")),
                (Err(error), _) => Some(error),
            };
            clean &= left.is_none();
            let phase = if left.is_none() { StepPhase::Undone } else { StepPhase::UndoFailed };
            self.journal.step(step, phase, left);
        }
        clean
    }

    /// When the program must have ended.
    pub(crate) fn program_deadline(&self, timeout_ms: u64) -> Instant {
        let started = self.program.as_ref().map_or_else(Instant::now, Running::started);
        started + Duration::from_millis(timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_workloads_have_a_program() {
        assert!(!plan(&Purpose::Canary).contains(&BootStep::StartProgram));
        assert_eq!(plan(&Purpose::Canary).last(), Some(&BootStep::Publish));
    }
}
