//! Inputs: everything the program is given is in the guest.
//!
//! Undone by removing the host's copy: it is of no use to anybody once the workload is over.

use super::{Core, Presence, Stumble, chain};
use crate::inputs;
use outlast_machine::backend::Backend;
use outlast_wire::intent::Purpose;
use std::io;

pub(super) async fn make<B: Backend>(core: &mut Core<B>) -> Result<(), Stumble> {
    let (Purpose::Workload { program, .. }, Some(link)) = (&core.intent.purpose, core.link.as_mut()) else {
        return Err(Stumble::Failed("there is no program, or no guest to put it into".to_owned()));
    };
    inputs::send(link, &core.evidence.input_files(), program).await.map_err(Stumble::failed)
}

pub(super) fn undo<B: Backend>(core: &mut Core<B>) -> Result<(), String> {
    match std::fs::remove_dir_all(core.evidence.input()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(chain(&error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

pub(super) fn probe<B: Backend>(core: &Core<B>) -> Presence {
    match core.evidence.input().try_exists() {
        Ok(true) => Presence::Present,
        Ok(false) => Presence::Absent,
        Err(_) => Presence::Unknown,
    }
}
