//! Stopping a VM: gently as long as it is given time, then not.

use super::ask::{Ask, Asks, ProgramAsk, StopOrder};
use super::execs::ExecError;
use crate::boot::Core;
use crate::decision::Ending;
use crate::event::Interrupt;
use crate::ladder::{self, Patience, Rung, StillAlive};
use outlast_machine::backend::Backend;
use outlast_model::{DeathCause, Outcome};

/// Why a VM is stopped that nobody asked on the control socket to stop.
pub(super) fn because(interrupt: &Interrupt) -> &'static str {
    match interrupt {
        Interrupt::RowGone => "its row in the store is gone, or its removal is wanted",
        Interrupt::HostSignal => "the runner got SIGTERM or SIGINT",
        Interrupt::KillRequested => "a stop was asked for while it started",
        _ => "the store says that a stop is wanted",
    }
}

/// Goes down the ladder and says which rung worked. A VMM that none of them ended is for the ending to prove dead.
/// Who asks for a stop meanwhile is answered; with force it goes straight to the last rung.
pub(super) async fn stop<B: Backend>(
    core: &mut Core<B>,
    asks: &mut Asks,
    order: StopOrder,
    because: &str,
) -> Ending {
    core.desk.state.set("stopping");
    let mut ending = Ending::new(Outcome::Completed, DeathCause::Stopped, because);
    if core.paused {
        // A guest whose vCPUs stand still cannot power itself off.
        let resumed = match core.vmm.as_mut() {
            Some(vmm) => vmm.resume().await,
            None => return ending,
        };
        if let Err(error) = resumed {
            tracing::debug!(%error, "cannot resume a VM that is to be stopped");
        }
    }
    let gentle = if order.force { None } else { descend_unless_forced(core, asks, order).await };
    let worked = match gentle {
        Some(worked) => worked,
        None => descend(core, Rung::Kill, order).await,
    };
    ending.evidence.push(match worked {
        Ok(rung) => format!("rung {} of the ladder ended the VMM", rung.name()),
        Err(StillAlive) => "no rung of the ladder ended the VMM in time".to_owned(),
    });
    ending
}

/// `None` when somebody has asked for force.
async fn descend_unless_forced<B: Backend>(
    core: &mut Core<B>,
    asks: &mut Asks,
    order: StopOrder,
) -> Option<Result<Rung, StillAlive>> {
    let mut descent = std::pin::pin!(descend(core, Rung::Agent, order));
    loop {
        tokio::select! {
            biased;
            worked = &mut descent => return Some(worked),
            ask = asks.next() => if is_forced(ask) { return None },
        }
    }
}

async fn descend<B: Backend>(core: &mut Core<B>, first: Rung, order: StopOrder) -> Result<Rung, StillAlive> {
    let Some(vmm) = core.vmm.as_mut() else { return Err(StillAlive) };
    let patience = Patience::share(order.within);
    ladder::descend(first, vmm, core.link.as_mut(), patience, &mut core.journal).await
}

/// Answers who asks something of a VM that is being stopped; whether it is to be stopped with force.
fn is_forced(ask: Ask) -> bool {
    let stopping = || "the VM is being stopped".to_owned();
    match ask {
        Ask::Stop { order, reply } => {
            let _ = reply.send(Ok(()));
            return order.force;
        }
        Ask::Pause { reply } | Ask::Resume { reply } => drop(reply.send(Err(stopping()))),
        Ask::Snapshot { reply, .. } => drop(reply.send(Err(stopping()))),
        Ask::Monitor { reply, .. } => drop(reply.send(Err(stopping()))),
        Ask::Program(ProgramAsk::Open { reply, .. }) => drop(reply.send(Err(ExecError::Stopping))),
        // What programs are told now no longer matters: they are being ended.
        Ask::Program(_) => {}
    }
    false
}
