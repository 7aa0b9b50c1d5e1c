//! Start program: the agent has accepted the program, or says why not: then it never ran.
//!
//! Any other failure once the program has been sent leaves it open whether it runs: the outcome is `lost`, never
//! `not_started`.
//!
//! Nothing to undo: it goes with the VMM.

use super::{Core, Stumble, chain};
use crate::event::Interrupt;
use crate::link::Fault;
use crate::program;
use outlast_machine::backend::Backend;
use outlast_wire::intent::Purpose;
use outlast_wire::journal::JournalEntry;

pub(super) async fn make<B: Backend>(core: &mut Core<B>) -> Result<(), Stumble> {
    let (Purpose::Workload { program, .. }, Some(link)) = (&core.intent.purpose, core.link.as_mut()) else {
        return Err(Stumble::Failed("there is no program, or no guest to run it in".to_owned()));
    };
    core.program_sent = true;
    core.journal.note(JournalEntry::Program { phase: "sent".to_owned(), detail: None });
    let stdin = program.stdin.then(|| core.evidence.input_stdin());
    let running = program::start(link, program, stdin.as_deref()).await.map_err(|error| {
        let name = program.argv.first().map_or("", String::as_str);
        let said = format!("cannot start '{name}': {}", chain(&error));
        match error.fault() {
            Fault::Refusal | Fault::Ours => Stumble::Failed(said),
            Fault::Broken => Stumble::LinkBroke(said),
            Fault::Silent => Stumble::Interrupted(Interrupt::AgentSilent(said)),
            Fault::Protocol => Stumble::Interrupted(Interrupt::ProtocolBroken(said)),
        }
    })?;
    core.program = Some(running);
    core.journal.note(JournalEntry::Program { phase: "started".to_owned(), detail: None });
    Ok(())
}
