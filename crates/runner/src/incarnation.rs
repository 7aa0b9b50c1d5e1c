//! One incarnation's whole life, from the runner's first breath to its last.
//!
//! ```text
//!   learn identity ─► become init ─► read intent ─► boot steps ─► work ─► leave
//!                                                       │ failed, killed, dead │
//!                                                       └──────────────────────┴──► leave
//! ```
//!
//! `boot` walks the steps, `program` and `template` are the work, `ending` is leaving. Every path goes
//! through leaving: there is no other way out but death, and then the kernel is the janitor.

use crate::arguments::Order;
use crate::birth::{self, BirthError};
use crate::boot::{Core, Stumble, plan};
use crate::clock;
use crate::control::{Desk, Doing, VmDesk};
use crate::decision::{Ending, Phase, interrupted, told};
use crate::ending::{self, EndError};
use crate::event::{Interrupt, Sources};
use crate::hold::FaultPoint;
use crate::journal::Journal;
use crate::lease::Lease;
use crate::ledger::{Ledger, LedgerError};
use crate::vm::{self, Asks};
use crate::{init, program, template};
use outlast_machine::backend::Backend;
use outlast_machine::cgroup::{CgroupError, Hierarchy, IncarnationCgroup};
use outlast_machine::jail;
use outlast_machine::namespace::{self, NamespaceError};
use outlast_machine::qemu::Qemu;
use outlast_model::hold::HoldError;
use outlast_model::{BootStep, DeathCause, Edge, Hold, Outcome, Place, RunPhase};
use outlast_store::{IncarnationRow, StoreError};
use outlast_wire::identity::ProcessIdentity;
use outlast_wire::intent::{self, Purpose, Start};
use outlast_wire::journal::{JournalEntry, StepPhase};
use std::io;
use std::rc::Rc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Why a runner left without having lived, or without having been able to say how it ended.
#[derive(Debug, Error)]
pub(crate) enum RunError {
    /// It never learned who it is.
    #[error(transparent)]
    Birth(#[from] BirthError),
    /// Its mounts.
    #[error("cannot become the init of the namespaces")]
    Namespace(#[source] NamespaceError),
    /// Its event loop.
    #[error("cannot start the event loop")]
    Loop(#[source] io::Error),
    /// The store's thread.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The store.
    #[error("cannot read the intent")]
    Read(#[source] StoreError),
    /// Nobody asked for this incarnation.
    #[error("the store has no such incarnation")]
    NoIntent,
    /// The intent is of another version.
    #[error("the intent is of version {found}, this runner knows {}", intent::VERSION)]
    Version {
        /// The intent's.
        found: u32,
    },
    /// The intent's fault point.
    #[error(transparent)]
    Hold(#[from] HoldError),
    /// The intent's backend.
    #[error("no backend is called '{0}'")]
    Backend(String),
    /// The host's cgroups.
    #[error("cannot find the host's cgroups")]
    Cgroup(#[source] CgroupError),
    /// The evidence directory.
    #[error("cannot open the journal")]
    Journal(#[source] io::Error),
    /// Listening for signals, the lease.
    #[error("cannot listen for signals and the lease")]
    Listen(#[source] io::Error),
    /// The end.
    #[error(transparent)]
    End(#[from] EndError),
}

/// Lives the life that `order` names.
pub(crate) fn run(order: &Order) -> Result<(), RunError> {
    // For people with ps(1): it was started through /proc/self/exe and would be called `exe`.
    let _ = rustix::thread::set_name(c"outlast-runner");
    let who = birth::learn_identity(order.identity)?;
    namespace::become_init().map_err(RunError::Namespace)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RunError::Loop)?;
    let local = tokio::task::LocalSet::new();
    runtime.block_on(local.run_until(live(order, who)))
}

async fn live(order: &Order, who: ProcessIdentity) -> Result<(), RunError> {
    // Order matters: signals are handled from here on, or PID 1 would ignore them.
    let lease = Lease::take(order.lease).map_err(RunError::Listen)?;
    let (kills, killed) = mpsc::channel(1);
    let mut sources = Sources::new(lease, killed, Instant::now()).map_err(RunError::Listen)?;
    let ledger = Ledger::open(order.places.database()).await?;
    let id = order.incarnation;
    let row = ledger.call(move |store| store.incarnation(id)).await?.map_err(RunError::Read)?;
    let IncarnationRow { intent, .. } = row.ok_or(RunError::NoIntent)?;
    if intent.version != intent::VERSION {
        return Err(RunError::Version { found: intent.version });
    }
    sources.set_deadline(Instant::now() + Duration::from_millis(intent.boot_timeout_ms));
    let hierarchy = Hierarchy::detect_or_do_without().map_err(RunError::Cgroup)?;
    let evidence = order.places.evidence(id);
    let machine = &intent.machine;
    let disk_bytes = machine.scratch.as_ref().map_or(0, |scratch| scratch.bytes);
    let state_bytes = machine.memory.saturating_add(disk_bytes);
    let (vm, asks) = VmDesk::of(&intent.purpose, &evidence, state_bytes).unzip();
    let desk = Rc::new(Desk {
        incarnation: id.to_string(),
        state: Doing::new("starting"),
        kills,
        probes: Rc::default(),
        vm,
    });
    let mut journal = Journal::open(&evidence.journal()).map_err(RunError::Journal)?;
    let cgroup = IncarnationCgroup::named(&hierarchy, order.store, id);
    if let Some(by) = cgroup.limited_by() {
        journal.note(JournalEntry::Limits { by });
    }
    if let Some(why) = jail::keeps_root() {
        journal.note(JournalEntry::KeepsUser { why });
    }
    let hold = intent.hold.as_deref().map(str::parse::<Hold>).transpose()?;
    let fault_point = FaultPoint::new(hold, evidence.hold());
    match intent.machine.backend.as_str() {
        Qemu::NAME => {
            let core = Core::<Qemu>::new(order, (who, cgroup), intent, (ledger, journal, desk));
            Incarnation { core, sources, asks, fault_point }.live().await
        }
        other => Err(RunError::Backend(other.to_owned())),
    }
}

/// A life being lived.
struct Incarnation<B: Backend> {
    core: Core<B>,
    sources: Sources,
    /// What clients ask of a long-lived VM; nothing else has one.
    asks: Option<Asks>,
    fault_point: FaultPoint,
}

impl<B: Backend> Incarnation<B> {
    async fn live(mut self) -> Result<(), RunError> {
        init::reap_orphans(Rc::clone(&self.core.reaping)).map_err(RunError::Listen)?;
        let ending = match self.boot().await {
            Ok(()) => self.work().await,
            Err(Some(ending)) => ending,
            // The row is somebody else's: there is nothing to end and nothing was made.
            Err(None) => return Ok(()),
        };
        Ok(ending::leave(self.core, ending, &self.fault_point).await?)
    }

    /// Walks the boot steps. `Err(None)` means that the row was not there to be claimed.
    async fn boot(&mut self) -> Result<(), Option<Ending>> {
        let steps = plan(&self.core.intent.purpose);
        let mut next = 0;
        while let Some(&step) = steps.get(next) {
            match self.walk(step).await {
                Ok(()) => next += 1,
                Err(Stumble::NotOurs) => return Err(None),
                Err(stumble) => {
                    let Some(cause) = self.fall_back_cause(step, &stumble) else {
                        return Err(Some(self.stumbled(step, &stumble)));
                    };
                    if !self.fall_back(cause).await {
                        return Err(Some(self.stumbled(step, &stumble)));
                    }
                    next = steps.iter().position(|step| *step == BootStep::Disks).unwrap_or(next);
                }
            }
        }
        Ok(())
    }

    /// One step: journalled, held where asked, cut short by whatever ends the incarnation.
    async fn walk(&mut self, step: BootStep) -> Result<(), Stumble> {
        self.hold(step.into(), Edge::Before).await?;
        self.core.journal.step(step, StepPhase::Begin, None);
        let made = match self.make(step).await {
            Err(Stumble::LinkBroke(cause)) => {
                Err(Stumble::Interrupted(self.sources.explain(Interrupt::LinkLost(cause)).await))
            }
            made => made,
        };
        if let Some(events) = self.core.vmm_events.take() {
            self.sources.listen_to(Some(events));
        }
        if let Some(findings) = self.core.findings.take() {
            self.sources.listen_to_the_row(findings);
        }
        match &made {
            Ok(()) => self.core.journal.step(step, StepPhase::Done, None),
            Err(stumble) => self.core.journal.step(step, StepPhase::Failed, Some(stumble.to_string())),
        }
        made?;
        self.hold(step.into(), Edge::After).await
    }

    /// Does the step, cut short by whatever ends the incarnation. Three are not cut short, for what they began
    /// would go on without us; they have short deadlines, and what happened meanwhile is seen right after.
    async fn make(&mut self, step: BootStep) -> Result<(), Stumble> {
        match step {
            // A VMM half launched is owned by nobody; a commit that was sent off is carried out.
            BootStep::Claim | BootStep::LaunchVmm | BootStep::Publish => self.core.make(step).await,
            BootStep::RunDirectory
            | BootStep::Disks
            | BootStep::StartGuest
            | BootStep::AgentHello
            | BootStep::Settle
            | BootStep::Certify
            | BootStep::Inputs
            | BootStep::StartProgram => tokio::select! {
                biased;
                interrupt = self.sources.next() => Err(Stumble::Interrupted(interrupt)),
                made = self.core.make(step) => made,
            },
        }
    }

    /// Stands still there, if that is where to. Nothing is heard of meanwhile, so that whatever happens happens exactly
    /// there, except that somebody wants the end.
    async fn hold(&mut self, place: Place, edge: Edge) -> Result<(), Stumble> {
        let passed = tokio::select! {
            biased;
            passed = self.fault_point.pass(place, edge, &mut self.core.journal) => passed,
            () = self.sources.kill_wanted() => {
                self.fault_point.leave();
                return Err(Stumble::Interrupted(Interrupt::KillRequested));
            }
        };
        passed.map_err(|error| Stumble::Failed(format!("the fault point: {error}")))
    }

    /// Why this stumble is answered with a cold boot, if it is: a restore went wrong and nobody wants an end.
    fn fall_back_cause(&self, step: BootStep, stumble: &Stumble) -> Option<String> {
        let restoring = matches!(self.core.intent.start, Start::Clone { .. })
            && matches!(
                step,
                BootStep::Disks | BootStep::LaunchVmm | BootStep::StartGuest | BootStep::AgentHello
            );
        match stumble {
            Stumble::Failed(error) | Stumble::LinkBroke(error) if restoring => Some(error.clone()),
            Stumble::Interrupted(Interrupt::Vmm(event)) if restoring => Some(told(event).1),
            Stumble::Interrupted(Interrupt::LinkLost(error)) if restoring => Some(error.clone()),
            Stumble::Failed(_) | Stumble::LinkBroke(_) | Stumble::Interrupted(_) | Stumble::NotOurs => None,
        }
    }

    fn stumbled(&self, step: BootStep, stumble: &Stumble) -> Ending {
        // The row may say `running` by now, but whoever has not sent the program knows that it never ran.
        let phase = if self.core.program_sent { Phase::Sent } else { Phase::Booting(step) };
        match stumble {
            Stumble::Failed(error) => Ending::step_failed(step, error.clone()),
            Stumble::LinkBroke(error) => interrupted(phase, &Interrupt::LinkLost(error.clone())),
            Stumble::Interrupted(interrupt) => interrupted(phase, interrupt),
            Stumble::NotOurs => Ending::step_failed(step, "the row is owned by another".to_owned()),
        }
    }

    /// Undoes the clone and makes the next attempt a cold boot. `false` when the clone's VMM would not die: a
    /// second one must not run beside it.
    async fn fall_back(&mut self, cause: String) -> bool {
        self.core.journal.note(JournalEntry::FellBack { cause: cause.clone() });
        self.sources.listen_to(None);
        let undone = self.core.undo_back_to(BootStep::Disks).await;
        self.core.intent.start = Start::Boot;
        self.core.fell_back = Some(cause);
        undone
    }

    async fn work(&mut self) -> Ending {
        match self.core.intent.purpose.clone() {
            Purpose::Workload { program, outputs, .. } => {
                self.sources.set_deadline(self.core.program_deadline(program.timeout_ms));
                self.watch_program(outputs).await
            }
            Purpose::Template { directory, warm_up, .. } => {
                let (Some(vmm), Some(link), Some(log)) =
                    (self.core.vmm.as_mut(), self.core.link.as_mut(), self.core.output.as_mut())
                else {
                    return unbooted();
                };
                let rest = (&mut self.sources, log, &mut self.core.journal);
                template::make(vmm, link, warm_up.as_ref(), &directory, rest).await
            }
            Purpose::Vm { .. } => {
                let Some(mut asks) = self.asks.take() else { return unbooted() };
                self.sources.clear_deadline();
                vm::stay(&mut self.core, &mut self.sources, &mut asks).await
            }
            Purpose::Canary => {
                Ending::new(Outcome::Completed, DeathCause::Stopped, "the canary's agent answered")
            }
        }
    }

    async fn watch_program(&mut self, outputs: bool) -> Ending {
        let (Some(running), Some(link), Some(log)) =
            (self.core.program.take(), self.core.link.as_mut(), self.core.output.as_mut())
        else {
            return unbooted();
        };
        stand(&self.fault_point, RunPhase::Program, Edge::Before, &mut self.core.journal).await;
        let ended = running.watch(link, &mut self.sources, log).await;
        self.core.timings.exec = Some(clock::millis(ended.took));
        let end = JournalEntry::Program {
            phase: "ended".to_owned(),
            detail: Some(ended.ending.outcome.to_string()),
        };
        self.core.journal.note(end);
        stand(&self.fault_point, RunPhase::Program, Edge::After, &mut self.core.journal).await;
        if outputs && ended.guest_alive {
            stand(&self.fault_point, RunPhase::Outputs, Edge::Before, &mut self.core.journal).await;
            let said = program::fetch_outputs(link, &mut self.sources, &self.core.evidence.outputs()).await;
            self.core.journal.note(JournalEntry::Program { phase: "outputs".to_owned(), detail: Some(said) });
            stand(&self.fault_point, RunPhase::Outputs, Edge::After, &mut self.core.journal).await;
        }
        ended.ending
    }
}

/// Stands still there if that is where to. What ends this way or that is not ended otherwise by a fault point
/// that does not work.
pub(crate) async fn stand(point: &FaultPoint, phase: RunPhase, edge: Edge, journal: &mut Journal) {
    if let Err(error) = point.pass(phase.into(), edge, journal).await {
        tracing::error!(%error, phase = phase.name(), "the fault point");
    }
}

/// The boot said it was done and left out a part: ours to mend, and never a success.
fn unbooted() -> Ending {
    let cause = "the boot ended without everything it must make".to_owned();
    Ending::new(Outcome::Lost { cause: cause.clone() }, DeathCause::Unknown, cause)
}
