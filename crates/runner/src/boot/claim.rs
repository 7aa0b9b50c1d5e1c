//! Claim: the runner's first effect. From here on the row is its own, until it is proved dead.
//!
//! Undone by removing what others made on the runner's behalf: the incarnation's cgroup (the launcher's; by
//! then the VMM that lived in it is dead) and the host's copy of the program's input (the client's), which is of
//! no use to anybody once the workload is over.

use super::{Core, Presence, Stumble, chain};
use crate::clock;
use crate::event::Interrupt;
use crate::vm::{Watch, Watched};
use outlast_machine::backend::Backend;
use outlast_model::{IncarnationState, timeout};
use outlast_store::ClaimError;
use outlast_wire::intent::Purpose;
use std::io;
use std::rc::Rc;

pub(super) async fn make<B: Backend>(core: &mut Core<B>) -> Result<(), Stumble> {
    let (id, who) = (core.id, core.who.clone());
    let claimed = core.ledger.call(move |store| store.claim(id, &who, clock::unix_ns())).await;
    match claimed.map_err(Stumble::failed)? {
        Ok(_intent) => {
            watch_the_row(core);
            unless_killed(core).await
        }
        Err(ClaimError::Store(error)) => Err(Stumble::failed(error)),
        Err(taken) => {
            tracing::warn!(error = %taken, "the row is not there to be claimed");
            if matches!(taken, ClaimError::Taken { state: IncarnationState::Ended, .. }) {
                nobodys(core);
            }
            Err(Stumble::NotOurs)
        }
    }
}

/// It was over before it was claimed, and whoever ended it has swept before the launcher made what it makes.
fn nobodys<B: Backend>(core: &mut Core<B>) {
    if let Err(error) = undo(core) {
        tracing::warn!(error, "what the launcher made stays");
    }
}

/// A VM's row is watched from now on: its stop and its removal are written there first.
fn watch_the_row<B: Backend>(core: &mut Core<B>) {
    let Some(vm) = &core.desk.vm else { return };
    let watched = Watched { incarnation: core.id, who: core.who.clone(), vmm: Rc::clone(&vm.vmm) };
    let (watch, findings) = Watch::start(core.ledger.clone(), watched);
    core.watch = Some(watch);
    core.findings = Some(findings);
}

/// A kill that was wished for before there was a runner to ask is in the store alone. Only workloads are
/// killed by wish; templates and canaries end with whoever waits for them.
async fn unless_killed<B: Backend>(core: &Core<B>) -> Result<(), Stumble> {
    if !matches!(core.intent.purpose, Purpose::Workload { .. }) {
        return Ok(());
    }
    let id = core.id;
    let wanted = core.ledger.call(move |store| store.kill_wanted(id)).await;
    if wanted.map_err(Stumble::failed)?.map_err(Stumble::failed)? {
        return Err(Stumble::Interrupted(Interrupt::KillRequested));
    }
    Ok(())
}

pub(super) fn undo<B: Backend>(core: &mut Core<B>) -> Result<(), String> {
    core.watch = None;
    let input = match std::fs::remove_dir_all(core.evidence.input()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(chain(&error)),
        Ok(()) | Err(_) => Ok(()),
    };
    // Both are tried, whatever becomes of the first.
    let cgroup = core.cgroup.remove_from_inside(timeout::DEATH).map(drop).map_err(|error| chain(&error));
    input.and(cgroup)
}

pub(super) fn probe<B: Backend>(core: &Core<B>) -> Presence {
    match (core.cgroup.exists(), core.evidence.input().try_exists()) {
        (Ok(cgroup), Ok(input)) if cgroup || input => Presence::Present,
        (Ok(_), Ok(_)) => Presence::Absent,
        (Err(_), _) | (_, Err(_)) => Presence::Unknown,
    }
}
