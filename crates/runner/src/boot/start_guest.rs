//! Start guest: vCPUs run, from the kernel's first instruction or from where the template was saved.
//!
//! Nothing to undo: it goes with the VMM.

use super::{Core, Stumble, chain};
use outlast_machine::backend::{Backend, BackendError};
use outlast_wire::intent::Start;
use tokio::time::Instant;

pub(super) async fn make<B: Backend>(core: &mut Core<B>) -> Result<(), Stumble> {
    let vmm = core.vmm.as_mut().ok_or_else(|| Stumble::Failed("there is no VMM".to_owned()))?;
    core.guest_started = Some(Instant::now());
    let started = match core.intent.start {
        Start::Boot => vmm.boot().await,
        Start::Clone { .. } => vmm.restore().await,
    };
    started.map_err(|error| match error {
        // It hung up because it ended, and its end says more than that.
        BackendError::HungUp { .. } => Stumble::LinkBroke(chain(&error)),
        error => Stumble::failed(error),
    })
}
