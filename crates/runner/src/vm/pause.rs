//! Pausing a VM and letting it go on.
//!
//! A guest that stood still has a clock that stood still with it, so it is certified before it is `running` again:
//! randomness, identity, clock. One that cannot be is ended, for nobody may be told that it runs.
//!
//! Whatever goes wrong in between, a VM whose vCPUs may stand still counts as paused: a stop then lets them run first,
//! and a resume is tried again. Asked for what is so already, both say it to the store once more, which may not have
//! heard it.

use super::ask::StopOrder;
use crate::boot::{Core, chain};
use crate::certify::{self, CertifyError, Nameplate};
use crate::clock;
use crate::decision::{self, Ending, Phase};
use crate::event::{Interrupt, Sources};
use crate::link::{Fault, LinkError};
use crate::program::interrupt_of;
use outlast_machine::backend::{Backend, BackendError};
use outlast_model::{DeathCause, Outcome, timeout};
use outlast_wire::guest::{Freeze, HostMessage, Thaw};
use std::time::Duration;
use thiserror::Error;
use tokio::time::Instant;

/// What came of it: the answer for whoever asked, or what happened meanwhile.
pub(super) type Paused = Result<Result<(), String>, Cut>;

/// What cut it short.
pub(super) enum Cut {
    /// Something that means the VM's end, or a wish for it.
    Interrupt(Interrupt),
    /// Somebody came to the socket to stop it.
    Stop(StopOrder),
    /// The guest is not fit to run.
    Unfit(Ending),
}

/// Why a guest does not go on.
#[derive(Debug, Error)]
enum NotOn {
    /// Its boot left something out.
    #[error("there is no VMM, or no agent")]
    Unbooted,
    /// Its VMM did not let it.
    #[error(transparent)]
    Vmm(#[from] BackendError),
    /// It is not what it must be.
    #[error(transparent)]
    Unfit(#[from] CertifyError),
}

impl Cut {
    /// What whoever asked is told.
    pub(super) fn told(&self) -> String {
        match self {
            Self::Interrupt(_) => "the VM is ending".to_owned(),
            Self::Stop(_) => "the VM is being stopped".to_owned(),
            Self::Unfit(ending) => ending.evidence.join("; "),
        }
    }
}

/// Stops the vCPUs.
pub(super) async fn pause<B: Backend>(core: &mut Core<B>, sources: &mut Sources) -> Paused {
    if !core.paused {
        // Order matters: the command may be carried out although its answer does not come.
        core.paused = true;
        core.desk.state.set("paused");
        let paused = tokio::select! {
            biased;
            interrupt = sources.next() => return Err(Cut::Interrupt(interrupt)),
            paused = stop_vcpus(core) => paused,
        };
        if let Err(cause) = paused {
            return Ok(Err(cause));
        }
    }
    Ok(write_down(core, true).await)
}

/// A guest whose agent is busy or hung is stopped all the same: somebody may want to look at just that.
async fn stop_vcpus<B: Backend>(core: &mut Core<B>) -> Result<(), String> {
    let frozen = tokio::time::timeout(timeout::CONTROL, freeze(core)).await;
    if !matches!(frozen, Ok(Ok(()))) {
        tracing::debug!(?frozen, "the guest's programs do not stand still before the guest does");
    }
    let vmm = core.vmm.as_mut().ok_or("there is no VMM")?;
    vmm.pause().await.map_err(|error| chain(&error))
}

/// Lets the vCPUs run and certifies the guest.
pub(super) async fn resume<B: Backend>(core: &mut Core<B>, sources: &mut Sources) -> Paused {
    if core.paused {
        go_on(core, sources, Instant::now()).await?;
        core.desk.state.set("running");
    }
    Ok(write_down(core, false).await)
}

/// Lets vCPUs that stand still run again, certifies the guest, and tells for how long they stood still since `since`.
/// Nobody who has not asked for that hears of it.
pub(super) async fn go_on<B: Backend>(
    core: &mut Core<B>,
    sources: &mut Sources,
    since: Instant,
) -> Result<Duration, Cut> {
    let certified = tokio::select! {
        biased;
        interrupt = sources.next() => return Err(Cut::Interrupt(interrupt)),
        certified = tokio::time::timeout(timeout::BOOT, run_certified(core, since)) => certified,
    };
    match certified {
        Ok(Ok(stood_still)) => {
            core.paused = false;
            Ok(stood_still)
        }
        Ok(Err(error)) => Err(Cut::Unfit(unfit(&error, sources).await)),
        Err(_) => {
            let late = format!("{UNFIT}: it took longer than {} s", timeout::BOOT.as_secs());
            Err(Cut::Unfit(decision::interrupted(Phase::Running, &Interrupt::AgentSilent(late))))
        }
    }
}

async fn run_certified<B: Backend>(core: &mut Core<B>, since: Instant) -> Result<Duration, NotOn> {
    let nameplate = Nameplate::of(&core.intent.purpose, core.id);
    let (Some(vmm), Some(link), Some(hello)) = (core.vmm.as_mut(), core.link.as_mut(), core.hello.as_ref())
    else {
        return Err(NotOn::Unbooted);
    };
    vmm.resume().await?;
    let stood_still = since.elapsed();
    let certificate = certify::certify(link, hello, nameplate).await?;
    core.certificate = Some(certificate);
    if core.frozen {
        // Order matters: no program runs before its guest is certified.
        link.request("thaw", HostMessage::Thaw(Thaw {})).await.map_err(CertifyError::from)?;
        core.frozen = false;
    }
    Ok(stood_still)
}

/// Lets the guest's programs stand still, so that none runs before the guest is certified again: in this machine, or in
/// one that is restored from a snapshot of it, which keeps those that nobody waits for. The agent has heard everything
/// that was said to it when it answers.
pub(super) async fn freeze<B: Backend>(core: &mut Core<B>) -> Result<(), LinkError> {
    let (keep, numbers) = core.desk.vm.as_ref().map(|vm| vm.execs.detached()).unwrap_or_default();
    let Some(link) = core.link.as_mut() else { return Ok(()) };
    // Order matters: it may be done although its answer does not come.
    core.frozen = true;
    let frozen = link.request("freeze", HostMessage::Freeze(Freeze { keep, numbers })).await;
    if frozen.as_ref().is_err_and(|error| error.fault() == Fault::Refusal) {
        core.frozen = false;
    }
    frozen.map(drop)
}

/// What is said of a guest that cannot be certified.
const UNFIT: &str = "the guest could not be certified after it was resumed";

/// A guest that cannot be certified is of no use to anybody. A link that failed says why by itself, or its VMM does.
async fn unfit(error: &NotOn, sources: &mut Sources) -> Ending {
    let said = format!("{UNFIT}: {}", chain(error));
    let mut ending = match error {
        NotOn::Unfit(CertifyError::Link(error)) if error.fault() != Fault::Refusal => {
            decision::interrupted(Phase::Running, &interrupt_of(error, sources).await)
        }
        // Its monitor hangs up a moment before a VMM is dead.
        NotOn::Vmm(_) => match sources.explain(Interrupt::LinkLost(said.clone())).await {
            Interrupt::LinkLost(_) => return not_certified(said),
            interrupt => decision::interrupted(Phase::Running, &interrupt),
        },
        NotOn::Unfit(_) | NotOn::Unbooted => return not_certified(said),
    };
    ending.evidence.push(said);
    ending
}

fn not_certified(said: String) -> Ending {
    Ending::new(Outcome::Lost { cause: said.clone() }, DeathCause::NotCertified, said)
}

async fn write_down<B: Backend>(core: &Core<B>, paused: bool) -> Result<(), String> {
    let (id, who) = (core.id, core.who.clone());
    let written = core.ledger.call(move |store| store.pause_vm(id, &who, paused, clock::unix_ns())).await;
    let failed = |error: &dyn std::error::Error| {
        format!("it is done, and the store could not be told: {}", chain(error))
    };
    written.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
}
