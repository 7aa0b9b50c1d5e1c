//! Leaving: the outcome is made durable, everything is undone, the kernel does the rest.
//!
//! ```text
//!   kill the VMM ─► sync the output log ─► write the end ─► undo every step in reverse ─► exit
//! ```
//!
//! Order matters: the VMM is proved dead before its row says `ended`, the log is whole before the outcome
//! says how long it is, and the outcome is safe before anything that could fail is cleaned up. A runner that
//! dies between the two leaves names that any process can find and remove.

use crate::boot::{Core, alone, chain, survivors};
use crate::clock;
use crate::decision::{self, Ending};
use crate::hold::FaultPoint;
use crate::incarnation::stand;
use crate::ladder::{self, Patience, Rung};
use crate::ledger::LedgerError;
use crate::program;
use outlast_machine::backend::Backend;
use outlast_machine::process::Process;
use outlast_model::{BootStep, DeathCause, Edge, Outcome, RunPhase};
use outlast_store::{Owner, StoreError};
use outlast_wire::intent::Purpose;
use outlast_wire::journal::JournalEntry;
use outlast_wire::record::{DeathRecord, EndRecord, FailedStart, OutcomeRecord};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use thiserror::Error;

/// The end could not be written; whoever reconciles will write one.
#[derive(Debug, Error)]
pub(crate) enum EndError {
    /// The store's thread.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The store.
    #[error("cannot write the end")]
    Write(#[source] Box<StoreError>),
}

/// Ends the incarnation. Everything is cleaned up even when the end could not be written.
pub(crate) async fn leave<B: Backend>(
    mut core: Core<B>,
    mut ending: Ending,
    point: &FaultPoint,
) -> Result<(), EndError> {
    core.journal.note(JournalEntry::End {
        cause: ending.cause.name().to_owned(),
        outcome: is_workload(&core).then(|| ending.outcome.to_string()),
    });
    core.desk.state.set("ending");
    stand(point, RunPhase::BuryVmm, Edge::Before, &mut core.journal).await;
    bury_vmm(&mut core).await;
    stand(point, RunPhase::BuryVmm, Edge::After, &mut core.journal).await;
    name_out_of_memory(&core, &mut ending);
    decision::name_panic(&mut ending, &console_end(&core.evidence.console_log()));
    stand(point, RunPhase::Outcome, Edge::Before, &mut core.journal).await;
    let written = write_down(&mut core, ending).await;
    stand(point, RunPhase::Outcome, Edge::After, &mut core.journal).await;
    stand(point, RunPhase::Leave, Edge::Before, &mut core.journal).await;
    core.undo_back_to(BootStep::Claim).await;
    stand(point, RunPhase::Leave, Edge::After, &mut core.journal).await;
    written
}

/// Makes the end durable: the output log first, then the outcome that says how long it is.
async fn write_down<B: Backend>(core: &mut Core<B>, mut ending: Ending) -> Result<(), EndError> {
    let (output_log_bytes, truncated_bytes) = close_output(core, &mut ending).await;
    core.timings.total = Some(program::since_request(&core.intent));
    let end = EndRecord {
        outcome: is_workload(core).then(|| OutcomeRecord::from(&ending.outcome)),
        failed_start: failed_start(core, &ending.outcome),
        death: DeathRecord::new(&ending.cause, ending.evidence, clock::unix_ns(), "runner"),
        output_log_bytes,
        truncated_bytes,
        timings: core.timings,
    };
    write(core, end).await
}

/// How far a VM came that was never published: where it failed, or where it was when it was ended.
fn failed_start<B: Backend>(core: &Core<B>, outcome: &Outcome) -> Option<FailedStart> {
    if core.published || !matches!(core.intent.purpose, Purpose::Vm { .. }) {
        return None;
    }
    FailedStart::of(outcome).or_else(|| {
        let reached = core.begun.last().copied().unwrap_or(BootStep::Claim);
        Some(FailedStart { step: reached.name().to_owned(), cause: outcome.to_string() })
    })
}

fn is_workload<B: Backend>(core: &Core<B>) -> bool {
    matches!(core.intent.purpose, Purpose::Workload { .. })
}

/// Kills the VMM and waits until its death is proved. One that will not die (in uninterruptible sleep, in a
/// frozen cgroup) makes the incarnation `dying`, with its stack as evidence, for as long as it takes.
async fn bury_vmm<B: Backend>(core: &mut Core<B>) {
    let Some(vmm) = core.vmm.as_mut() else { return bury_remains(core).await };
    // One that a stop has ended needs no rung any more.
    let lives = !matches!(vmm.process().is_dead(), Ok(true));
    if lives && ladder::descend(Rung::Kill, vmm, None, Patience::USUAL, &mut core.journal).await.is_err() {
        let evidence = vmm.process().stack_evidence();
        mark_dying(core, evidence).await;
        if let Some(vmm) = core.vmm.as_ref() {
            ladder::dead(vmm.process()).await;
        }
    }
    if let Some(vmm) = core.vmm.as_mut() {
        vmm.console_kept().await;
    }
    core.vmm = None;
}

/// The same for what a failed launch left, which was killed already. Without a VMM to hold it is whatever else
/// lives in this PID namespace.
async fn bury_remains<B: Backend>(core: &mut Core<B>) {
    if !core.begun.contains(&BootStep::LaunchVmm) {
        return;
    }
    while alone().await.is_err() {
        let survivors = survivors();
        let evidence = survivors.iter().flat_map(Process::stack_evidence).collect();
        mark_dying(core, evidence).await;
        for survivor in &survivors {
            ladder::dead(survivor).await;
        }
    }
}

async fn mark_dying<B: Backend>(core: &Core<B>, evidence: Vec<String>) {
    let (id, who) = (core.id, core.who.clone());
    let marked = core.ledger.call(move |store| store.mark_dying(id, &who, &evidence, clock::unix_ns())).await;
    match marked {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(error = chain(&error), "cannot mark the incarnation dying"),
        Err(error) => tracing::error!(error = chain(&error), "cannot mark the incarnation dying"),
    }
}

/// The end of what the guest's console said, as text; empty when it said nothing.
fn console_end(path: &Path) -> String {
    const END: u64 = 8 * 1024;
    let read = || {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(END)))?;
        let mut bytes = Vec::new();
        file.take(2 * END).read_to_end(&mut bytes).map(|_| bytes)
    };
    read().map(|bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// What the VMM's cgroup counted is evidence for how the VMM ended by itself. A SIGKILL that nobody sent is the
/// host's kernel, short of memory, if the cgroup says so.
fn name_out_of_memory<B: Backend>(core: &Core<B>, ending: &mut Ending) {
    let by_itself = match ending.cause {
        DeathCause::VmmSignalled { .. }
        | DeathCause::VmmExited { .. }
        | DeathCause::VmmBlocked
        | DeathCause::BootFailed
        | DeathCause::HostOutOfMemory
        | DeathCause::Unknown => true,
        DeathCause::Stopped
        | DeathCause::GuestShutdown
        | DeathCause::GuestPanic
        | DeathCause::GuestOutOfMemory
        | DeathCause::GuestProtocol
        | DeathCause::NotCertified
        | DeathCause::RunnerKilled
        | DeathCause::NeverClaimed
        | DeathCause::HostRebooted
        | DeathCause::TimedOut => false,
    };
    if !by_itself {
        return;
    }
    let events = core.cgroup.events();
    if events.oom_kills > Some(0) && ending.cause == (DeathCause::VmmSignalled { signal: 9 }) {
        ending.cause = DeathCause::HostOutOfMemory;
    }
    ending.evidence.extend(events.sentences());
}

/// Syncs the output log, beside the event loop: a slow disk must not stop the heart. Output that may be lost
/// makes a good end a lie.
async fn close_output<B: Backend>(core: &mut Core<B>, ending: &mut Ending) -> (u64, u64) {
    let Some(log) = core.output.take() else { return (0, 0) };
    let finished = tokio::task::spawn_blocking(move || log.finish()).await;
    match finished.unwrap_or_else(|_| Err(std::io::Error::other("the thread that synced it panicked"))) {
        Ok(lengths) => lengths,
        Err(error) => {
            let sentence = format!("the output log could not be synced: {error}");
            if ending.outcome.may_have_run() {
                ending.outcome = Outcome::Lost { cause: sentence.clone() };
                ending.cause = DeathCause::Unknown;
            }
            ending.evidence.push(sentence);
            (0, 0)
        }
    }
}

async fn write<B: Backend>(core: &Core<B>, end: EndRecord) -> Result<(), EndError> {
    let (id, who) = (core.id, core.who.clone());
    core.ledger
        .call(move |store| store.end(id, &Owner::Runner(&who), &end))
        .await?
        .map_err(|error| EndError::Write(Box::new(error)))
}
