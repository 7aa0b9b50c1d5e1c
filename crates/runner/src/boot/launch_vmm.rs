//! Launch VMM: the VMM's process exists, confined, and answers its monitor. No vCPU runs yet.
//!
//! Undone by the last rung of the shutdown ladder; it is undone when the VMM's death is proved: by its pidfd,
//! and by a PID namespace that holds nobody but this runner.

use super::{Core, Presence, Stumble, chain};
use crate::event::Interrupt;
use crate::init::Reaping;
use crate::ladder::{self, Patience, Rung};
use outlast_machine::backend::{
    Backend, LaunchError, LaunchPlan, MemoryBacking, VmmEvent, VmmEvents, VmmExit,
};
use outlast_machine::jail::{self, Identity};
use outlast_machine::process::{self, Process};
use outlast_model::timeout;
use outlast_wire::intent::{Purpose, Start};
use outlast_wire::paths::SnapshotDirectory;
use std::path::PathBuf;
use std::time::Duration;

/// The memory file in a template's directory.
const MEMORY: &str = "memory";
/// The device state's file in a template's directory.
const STATE: &str = "state";
/// How often the PID namespace is looked at while it empties.
const LOOK: Duration = Duration::from_millis(1);

pub(super) async fn make<B: Backend>(core: &mut Core<B>) -> Result<(), Stumble> {
    let plan = LaunchPlan {
        machine: core.intent.machine.clone(),
        memory: memory(&core.intent.purpose, &core.intent.start),
        incoming: match &core.intent.start {
            Start::Clone { template, .. } => Some(template.join(STATE)),
            Start::Restore { directory, .. } => Some(SnapshotDirectory::at(directory.clone()).machine()),
            Start::Boot => None,
        },
        run_directory: core.run_directory.clone(),
        evidence: core.evidence.clone(),
        vmm_cgroup: core.cgroup.vmm(),
        identity: Identity::of_incarnation(&core.id.to_string()),
        jail_program: PathBuf::from("/proc/self/exe"),
    };
    // Order matters: until the VMM's pid is known any dead child could be it, so no orphan is reaped.
    core.reaping.set(Reaping::Paused);
    let launched = B::launch(&plan).await;
    core.reaping.set(Reaping::All);
    let (vmm, mut events) = launched.map_err(stumble)?;
    let pid = vmm.process().identity().pid;
    core.reaping.set(Reaping::Sparing(pid));
    let looked_at = match confined(pid, plan.identity.is_some()) {
        Ok(()) => Ok(()),
        Err(unconfined) => Err(unless_dead(unconfined, vmm.process(), &mut events).await),
    };
    if let Some(desk) = &core.desk.vm {
        *desk.vmm.borrow_mut() = Some(vmm.process().identity().clone());
        *desk.keys.borrow_mut() = Some(vmm.keys());
    }
    core.vmm = Some(vmm);
    core.vmm_events = Some(events);
    looked_at
}

/// A VMM that its confinement has stopped, or a limit, says so on its death certificate, however early that was.
fn stumble(error: LaunchError) -> Stumble {
    match error {
        LaunchError::Exited { exit: exit @ VmmExit::Signal(_), .. } => {
            Stumble::Interrupted(Interrupt::Vmm(VmmEvent::Exited(exit)))
        }
        error => Stumble::failed(error),
    }
}

/// No guest runs in a VMM that the kernel does not hold as it should: asked for is not had.
fn confined(pid: u32, own_identity: bool) -> Result<(), Stumble> {
    let read = std::fs::read_to_string(format!("/proc/{pid}/status"));
    let status = read.map_err(|error| Stumble::Failed(format!("cannot look at the VMM: {error}")))?;
    jail::expect_confined(&status, own_identity).map_err(Stumble::failed)
}

/// Of a VMM that died before it was looked at nothing can be seen: then its death is what happened, and not that it
/// was unconfined. One that lives is not waited for.
async fn unless_dead(unconfined: Stumble, vmm: &Process, events: &mut VmmEvents) -> Stumble {
    if !matches!(vmm.wait_dead(Duration::ZERO), Ok(true)) {
        return unconfined;
    }
    match tokio::time::timeout(timeout::DEATH, events.recv()).await {
        Ok(Some(event)) => Stumble::Interrupted(Interrupt::Vmm(event)),
        Ok(None) | Err(_) => unconfined,
    }
}

fn memory(purpose: &Purpose, start: &Start) -> MemoryBacking {
    match (purpose, start) {
        (Purpose::Template { directory, .. }, _) => MemoryBacking::SharedFile(directory.join(MEMORY)),
        (_, Start::Clone { template, .. }) => MemoryBacking::PrivateFile(template.join(MEMORY)),
        (
            Purpose::Workload { .. } | Purpose::Vm { .. } | Purpose::Canary,
            Start::Boot | Start::Restore { .. },
        ) => MemoryBacking::Anonymous,
    }
}

pub(super) async fn undo<B: Backend>(core: &mut Core<B>) -> Result<(), String> {
    core.vmm_events = None;
    let Some(vmm) = core.vmm.as_mut() else { return alone().await };
    match ladder::descend(Rung::Kill, vmm, None, Patience::USUAL, &mut core.journal).await {
        Ok(_rung) => {
            core.vmm = None;
            core.reaping.set(Reaping::All);
            alone().await
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

/// A launch that failed has killed what it started, and its driver does not wait: waits until nobody but this
/// runner is in its PID namespace. No event tells that, so it is looked at until the last rung's patience ends.
pub(crate) async fn alone() -> Result<(), String> {
    let empty = async {
        let mut look = tokio::time::interval(LOOK);
        while !others().is_ok_and(|others| others.is_empty()) {
            look.tick().await;
            let _ = process::reap_orphans(&[]);
        }
    };
    let waited = tokio::time::timeout(timeout::RUNG_KILL, empty).await;
    waited.map_err(|_| "something of the VMM still lives in the PID namespace".to_owned())
}

/// Whoever else is in this PID namespace. All of them descend from this runner, and none was waited for.
pub(crate) fn survivors() -> Vec<Process> {
    others().unwrap_or_default().into_iter().filter_map(|pid| Process::of_child(pid).ok()).collect()
}

/// The others in this PID namespace, zombies included.
fn others() -> Result<Vec<u32>, String> {
    let entries = std::fs::read_dir("/proc").map_err(|error| chain(&error))?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(pids.filter(|pid| *pid != std::process::id()).collect())
}

pub(super) fn probe<B: Backend>(core: &Core<B>) -> Presence {
    match (core.vmm.is_some(), others()) {
        (false, Ok(others)) if others.is_empty() => Presence::Absent,
        (true, _) | (false, Ok(_)) => Presence::Present,
        (false, Err(_)) => Presence::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::{Phase, interrupted};
    use outlast_model::{BootStep, DeathCause, Outcome};
    use tokio::process::{Child, Command};
    use tokio::sync::mpsc;

    /// A process that plays a VMM, and its driver, which looks at how it ends and tells.
    fn vmm(program: &str, arguments: &[&str]) -> (Child, Process) {
        let child = Command::new(program).args(arguments).kill_on_drop(true).spawn().unwrap();
        let process = Process::of_child(child.id().unwrap()).unwrap();
        (child, process)
    }

    async fn ended(child: &mut Child) -> VmmExit {
        VmmExit::of(child.wait().await.unwrap())
    }

    #[tokio::test]
    async fn a_vmm_that_dies_before_it_is_looked_at_is_not_unconfined_but_dead_of_its_signal_or_exit() {
        let died = [
            ("sh", ["-c", "kill -9 $$"], DeathCause::VmmSignalled { signal: 9 }),
            ("sh", ["-c", "kill -31 $$"], DeathCause::VmmBlocked),
            ("sh", ["-c", "exit 7"], DeathCause::VmmExited { code: 7 }),
        ];
        for (program, arguments, cause) in died {
            let (mut child, process) = vmm(program, &arguments);
            let pid = process.identity().pid;
            let exit = ended(&mut child).await;
            let (sender, mut events) = mpsc::channel(1);
            // Told late, as it is by a driver that first reads what there is to read.
            tokio::spawn(async move {
                tokio::task::yield_now().await;
                sender.send(VmmEvent::Exited(exit)).await
            });
            let unconfined = confined(pid, false).unwrap_err();
            let stumble = unless_dead(unconfined, &process, &mut events).await;
            let Stumble::Interrupted(interrupt) = stumble else { panic!("{stumble}") };
            let ending = interrupted(Phase::Booting(BootStep::LaunchVmm), &interrupt);
            assert_eq!(ending.cause, cause);
            assert!(matches!(ending.outcome, Outcome::NotStarted { step: BootStep::LaunchVmm, .. }));
        }
    }

    #[tokio::test]
    async fn a_vmm_that_lives_and_is_not_confined_is_not_waited_for() {
        let (_child, process) = vmm("sleep", &["600"]);
        // Nothing will ever be told over it, and nothing is waited for.
        let (_sender, mut events) = mpsc::channel(1);
        let unconfined = confined(process.identity().pid, false).unwrap_err();
        let stumble = unless_dead(unconfined, &process, &mut events).await;
        assert!(matches!(&stumble, Stumble::Failed(error) if error.contains("not confined")), "{stumble}");
    }
}
