//! Settle: the VM's own disk is mounted in the guest, and the root that programs see is written to it.
//!
//! After certify, so that what is written to the disk has the right time; the agent takes the machine's identity along.
//! A restored guest is on that disk already and says so; the programs that were saved with it go on then.
//!
//! Nothing to undo: it goes with the VMM, and the disk is the VM's, not this incarnation's.

use super::{Core, Stumble};
use crate::link::LinkError;
use outlast_machine::backend::Backend;
use outlast_wire::guest::{GuestMessage, HostMessage, SCRATCH_DEVICE, Settle, Thaw};

pub(super) async fn make<B: Backend>(core: &mut Core<B>) -> Result<(), Stumble> {
    let (Some(disk), Some(link)) = (&core.intent.machine.scratch, core.link.as_mut()) else {
        return Err(Stumble::Failed("there is no disk, or no guest to mount it".to_owned()));
    };
    // A shell on the console is a program like any other, with the limits that those of this VM have.
    let limits = core.desk.vm.as_ref().map(|vm| vm.limits);
    let settle = Settle {
        device: SCRATCH_DEVICE.to_owned(),
        bytes: disk.bytes,
        console_memory_max: limits.map_or(0, |limits| limits.memory_max),
        console_pids_max: limits.map_or(0, |limits| limits.pids_max),
    };
    match link.request("settle", HostMessage::Settle(settle)).await.map_err(Stumble::on_link)? {
        GuestMessage::Done(_) => {}
        _ => return Err(Stumble::on_link(LinkError::Unexpected { request: "settle" })),
    }
    if core.frozen {
        // Order matters: certified and confirmed before any of them runs.
        link.request("thaw", HostMessage::Thaw(Thaw {})).await.map_err(Stumble::on_link)?;
        core.frozen = false;
    }
    Ok(())
}
