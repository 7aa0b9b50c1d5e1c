//! Launch VMM: the VMM's process exists, confined, and answers its monitor. No vCPU runs yet.
//!
//! Undone by the last rung of the shutdown ladder; it is undone when the VMM's death is proved.

use super::{Core, Presence, Stumble, chain};
use crate::init::Reaping;
use crate::ladder::{self, Rung};
use outlast_machine::backend::{Backend, LaunchPlan, MemoryBacking};
use outlast_wire::intent::{Purpose, Start};
use std::path::PathBuf;

/// The memory file in a template's directory.
const MEMORY: &str = "memory";
/// The device state's file in a template's directory.
const STATE: &str = "state";

pub(super) async fn make<B: Backend>(core: &mut Core<B>) -> Result<(), Stumble> {
    let plan = LaunchPlan {
        machine: core.intent.machine.clone(),
        memory: memory(&core.intent.purpose, &core.intent.start),
        incoming: match &core.intent.start {
            Start::Clone { template, .. } => Some(template.join(STATE)),
            Start::Boot => None,
        },
        run_directory: core.run_directory.clone(),
        evidence: core.evidence.clone(),
        vmm_cgroup: core.cgroup.vmm(),
        jail_program: PathBuf::from("/proc/self/exe"),
    };
    // Order matters: until the VMM's pid is known any dead child could be it, so no orphan is reaped.
    core.reaping.set(Reaping::Paused);
    let (vmm, events) = B::launch(&plan).await.map_err(Stumble::failed)?;
    core.reaping.set(Reaping::Sparing(vmm.process().identity().pid));
    core.vmm = Some(vmm);
    core.vmm_events = Some(events);
    Ok(())
}

fn memory(purpose: &Purpose, start: &Start) -> MemoryBacking {
    match (purpose, start) {
        (Purpose::Template { directory, .. }, _) => MemoryBacking::SharedFile(directory.join(MEMORY)),
        (_, Start::Clone { template, .. }) => MemoryBacking::PrivateFile(template.join(MEMORY)),
        (Purpose::Workload { .. } | Purpose::Canary, Start::Boot) => MemoryBacking::Anonymous,
    }
}

pub(super) async fn undo<B: Backend>(core: &mut Core<B>) -> Result<(), String> {
    core.vmm_events = None;
    let Some(vmm) = core.vmm.as_mut() else { return Ok(()) };
    match ladder::descend(Rung::Kill, vmm, None, &mut core.journal).await {
        Ok(_rung) => {
            core.vmm = None;
            core.reaping.set(Reaping::All);
            Ok(())
        }
        Err(ladder::StillAlive) => {
            Err(format!("the VMM is not dead: {}", chain(&NotDead(vmm.process().stack_evidence()))))
        }
    }
}

/// The stack of a process that will not die, as an error's text.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
struct NotDead(Vec<String>);

pub(super) fn probe<B: Backend>(core: &Core<B>) -> Presence {
    if core.vmm.is_some() { Presence::Present } else { Presence::Absent }
}
