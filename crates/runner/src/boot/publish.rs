//! Publish: the store says `running`, durably, before the program is sent.
//!
//! That order is what makes a later judgement honest: a runner found dead before this never ran the program,
//! one found dead after it may have. Nothing to undo: the row only grows. It is also
//! what makes the disk of a restored VM its own, so the former one goes right after.

use super::{Core, Stumble, disks};
use crate::clock;
use outlast_machine::backend::Backend;
use outlast_store::{Publication, StartedFrom};
use outlast_wire::intent::Start;
use outlast_wire::record::CertificateRecord;

pub(super) async fn make<B: Backend>(core: &mut Core<B>) -> Result<(), Stumble> {
    let vmm = core.vmm.as_ref().ok_or_else(|| Stumble::Failed("there is no VMM".to_owned()))?;
    let publication = Publication {
        certificate: core.certificate.as_ref().map(CertificateRecord::from),
        started_from: match core.intent.start {
            Start::Clone { .. } => StartedFrom::Clone,
            Start::Boot => StartedFrom::Boot,
            Start::Restore { .. } => StartedFrom::Restore,
        },
        fell_back: core.fell_back.clone().or_else(|| core.intent.fell_back.clone()),
        vmm: vmm.process().identity().clone(),
        timings: core.timings,
        unix_ns: clock::unix_ns(),
    };
    let (id, who) = (core.id, core.who.clone());
    let published = core.ledger.call(move |store| store.publish(id, &who, &publication)).await;
    published.map_err(Stumble::failed)?.map_err(Stumble::failed)?;
    core.published = true;
    disks::remove_former(core);
    core.desk.state.set("running");
    Ok(())
}
