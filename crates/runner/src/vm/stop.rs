//! Stopping a VM: gently as long as it is given time, then not.

use super::StopOrder;
use crate::boot::Core;
use crate::decision::Ending;
use crate::event::Interrupt;
use crate::ladder::{self, Patience, Rung};
use outlast_machine::backend::Backend;
use outlast_model::{DeathCause, Outcome};

/// Why a VM is stopped that nobody asked on the control socket to stop.
pub(super) fn because(interrupt: &Interrupt) -> &'static str {
    match interrupt {
        Interrupt::RowGone => "its row in the store is gone, or its removal is wanted",
        Interrupt::HostSignal => "the runner got SIGTERM or SIGINT",
        _ => "the store says that a stop is wanted",
    }
}

/// Goes down the ladder and says which rung worked. A VMM that none of them ended is for the ending to prove dead.
pub(super) async fn stop<B: Backend>(core: &mut Core<B>, order: StopOrder, because: &str) -> Ending {
    core.desk.state.set("stopping");
    let mut ending = Ending::new(Outcome::Completed, DeathCause::Stopped, because);
    let Some(vmm) = core.vmm.as_mut() else { return ending };
    if core.paused {
        // A guest whose vCPUs stand still cannot power itself off.
        if let Err(error) = vmm.resume().await {
            tracing::debug!(%error, "cannot resume a VM that is to be stopped");
        }
    }
    let first = if order.force { Rung::Kill } else { Rung::Agent };
    let patience = Patience::share(order.within);
    let worked = ladder::descend(first, vmm, core.link.as_mut(), patience, &mut core.journal).await;
    match worked {
        Ok(rung) => {
            ending.evidence.push(format!("rung {} of the ladder ended the VMM", rung.name()));
        }
        Err(_) => ending.evidence.push("no rung of the ladder ended the VMM in time".to_owned()),
    }
    ending
}
