//! Makes a template out of a booted guest: warm it, still it, save it.
//!
//! ```text
//!   warm-up program ends 0 ──► quiesce ──► pause ──► save device state
//! ```
//!
//! The connection to the agent stays until the VMM is dead. Clones find a host connected from their first
//! instruction on, and their agents wait for its hello. A hang-up before the save would be told to every clone,
//! after its new host's first bytes when the host is busy; one after the save would still be written into the
//! memory that clones share.
//!
//! The memory needs no saving: it has been a shared file all along. The device state goes beside it. Syncing,
//! hashing and publishing are the business of whoever asked.

use crate::boot::chain;
use crate::decision::{Ending, Phase, interrupted};
use crate::event::Sources;
use crate::journal::Journal;
use crate::link::{Link, LinkError};
use crate::output::OutputLog;
use crate::program::{self, StartError};
use outlast_machine::backend::{Backend, BackendError};
use outlast_model::{DeathCause, Outcome};
use outlast_wire::guest::{GuestMessage, HostMessage, Quiesce};
use outlast_wire::intent::Program;
use outlast_wire::journal::JournalEntry;
use std::path::Path;
use std::time::Duration;
use thiserror::Error;
use tokio::time::Instant;

/// The device state's file in the template's directory.
const STATE: &str = "state";

/// Why no template came of it.
#[derive(Debug, Error)]
pub(crate) enum TemplateError {
    /// The warm-up could not be started.
    #[error("cannot start the warm-up")]
    Start(#[from] StartError),
    /// The warm-up ended badly.
    #[error("the warm-up ended with {0}")]
    WarmUp(Outcome),
    /// The link.
    #[error("cannot still the guest")]
    Link(#[from] LinkError),
    /// The VMM.
    #[error("cannot save the guest")]
    Vmm(#[from] BackendError),
}

/// Makes the template.
pub(crate) async fn make<B: Backend>(
    vmm: &mut B,
    link: &mut Link,
    warm_up: Option<&Program>,
    directory: &Path,
    (sources, log, journal): (&mut Sources, &mut OutputLog, &mut Journal),
) -> Ending {
    if let Some(program) = warm_up {
        match warm(link, program, (sources, log)).await {
            Ok(()) => phase(journal, "warmed"),
            Err(error) => return failed(&error),
        }
    }
    let state = directory.join(STATE);
    let save = save(vmm, link, &state, journal);
    let interrupt = tokio::select! {
        biased;
        interrupt = sources.next() => interrupt,
        saved = save => return match saved {
            Ok(()) => Ending::new(Outcome::Completed, DeathCause::Stopped, "the template was saved"),
            Err(error) => failed(&error),
        },
    };
    interrupted(Phase::Running, &interrupt)
}

async fn warm(
    link: &mut Link,
    program: &Program,
    (sources, log): (&mut Sources, &mut OutputLog),
) -> Result<(), TemplateError> {
    let running = program::start(link, program, None).await?;
    sources.set_deadline(Instant::now() + Duration::from_millis(program.timeout_ms));
    let ended = running.watch(link, sources, log).await;
    match ended.ending.outcome {
        Outcome::Completed => Ok(()),
        outcome => Err(TemplateError::WarmUp(outcome)),
    }
}

async fn save<B: Backend>(
    vmm: &mut B,
    link: &mut Link,
    state: &Path,
    journal: &mut Journal,
) -> Result<(), TemplateError> {
    match link.request("quiesce", HostMessage::Quiesce(Quiesce {})).await? {
        GuestMessage::Quiesced(_) => phase(journal, "quiesced"),
        _ => return Err(LinkError::Unexpected { request: "quiesce" }.into()),
    }
    vmm.pause().await?;
    phase(journal, "stopped");
    vmm.save(state).await?;
    phase(journal, "saved");
    Ok(())
}

fn phase(journal: &mut Journal, name: &str) {
    journal.note(JournalEntry::Template { phase: name.to_owned() });
}

fn failed(error: &TemplateError) -> Ending {
    let sentence = chain(error);
    Ending::new(Outcome::Lost { cause: sentence.clone() }, DeathCause::BootFailed, sentence)
}
