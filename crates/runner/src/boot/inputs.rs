//! Inputs: everything the program is given is in the guest.
//!
//! Nothing to undo: it goes with the VMM. The host's copy goes with the claim.

use super::{Core, Stumble};
use crate::inputs;
use outlast_machine::backend::Backend;
use outlast_wire::intent::Purpose;

pub(super) async fn make<B: Backend>(core: &mut Core<B>) -> Result<(), Stumble> {
    let (Purpose::Workload { program, .. }, Some(link)) = (&core.intent.purpose, core.link.as_mut()) else {
        return Err(Stumble::Failed("there is no program, or no guest to put it into".to_owned()));
    };
    inputs::send(link, &core.evidence.input_files(), program).await.map_err(Stumble::on_link)
}
