//! Pausing a VM and letting it go on.
//!
//! A guest that stood still has a clock that stood still with it, so it is certified before it is `running` again:
//! randomness, identity, clock. One that cannot be is ended, for nobody may be told that it runs.
//!
//! Whatever goes wrong in between, a VM whose vCPUs may stand still counts as paused: a stop then lets them run first,
//! and a resume is tried again. Asked for what is so already, both say it to the store once more, which may not have
//! heard it.

use crate::boot::{Core, chain};
use crate::certify::{self, Nameplate};
use crate::clock;
use crate::decision::{self, Ending, Phase};
use crate::event::{Interrupt, Sources};
use outlast_machine::backend::Backend;
use outlast_model::timeout;

/// What came of it: the answer for whoever asked, or what happened meanwhile.
pub(super) type Paused = Result<Result<(), String>, Cut>;

/// What cut it short.
pub(super) enum Cut {
    /// Something that means the VM's end, or a wish for it.
    Interrupt(Interrupt),
    /// The guest is not fit to run.
    Unfit(Ending),
}

/// Stops the vCPUs.
pub(super) async fn pause<B: Backend>(core: &mut Core<B>, sources: &mut Sources) -> Paused {
    if !core.paused {
        // Order matters: the command may be carried out although its answer does not come.
        core.paused = true;
        core.desk.state.set("paused");
        let Some(vmm) = core.vmm.as_mut() else { return Ok(Err("there is no VMM".to_owned())) };
        let paused = tokio::select! {
            biased;
            interrupt = sources.next() => return Err(Cut::Interrupt(interrupt)),
            paused = vmm.pause() => paused,
        };
        if let Err(error) = paused {
            return Ok(Err(chain(&error)));
        }
    }
    Ok(write_down(core, true).await)
}

/// Lets the vCPUs run and certifies the guest.
pub(super) async fn resume<B: Backend>(core: &mut Core<B>, sources: &mut Sources) -> Paused {
    if core.paused {
        let certified = tokio::select! {
            biased;
            interrupt = sources.next() => return Err(Cut::Interrupt(interrupt)),
            certified = tokio::time::timeout(timeout::BOOT, go_on(core)) => certified,
        };
        match certified {
            Ok(Ok(())) => {}
            Ok(Err(cause)) => return Err(unfit(&cause)),
            Err(_) => return Err(unfit(&format!("it took longer than {} s", timeout::BOOT.as_secs()))),
        }
        core.paused = false;
        core.desk.state.set("running");
    }
    Ok(write_down(core, false).await)
}

async fn go_on<B: Backend>(core: &mut Core<B>) -> Result<(), String> {
    let nameplate = Nameplate::of(&core.intent.purpose, core.id);
    let (Some(vmm), Some(link), Some(hello)) = (core.vmm.as_mut(), core.link.as_mut(), core.hello.as_ref())
    else {
        return Err("there is no VMM, or no agent".to_owned());
    };
    vmm.resume().await.map_err(|error| chain(&error))?;
    let certificate = certify::certify(link, hello, nameplate).await.map_err(|error| chain(&error))?;
    core.certificate = Some(certificate);
    Ok(())
}

/// A guest that cannot be certified is of no use to anybody.
fn unfit(cause: &str) -> Cut {
    let sentence = format!("the guest could not be certified after it was resumed: {cause}");
    Cut::Unfit(decision::interrupted(Phase::Running, &Interrupt::AgentSilent(sentence)))
}

async fn write_down<B: Backend>(core: &Core<B>, paused: bool) -> Result<(), String> {
    let (id, who) = (core.id, core.who.clone());
    let written = core.ledger.call(move |store| store.pause_vm(id, &who, paused, clock::unix_ns())).await;
    let failed = |error: &dyn std::error::Error| {
        format!("it is done, and the store could not be told: {}", chain(error))
    };
    written.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
}
