//! Start guest: vCPUs run, from the kernel's first instruction or from where the template was saved.
//!
//! Nothing to undo: it goes with the VMM.

use super::{Core, Stumble, chain};
use outlast_machine::backend::{Backend, BackendError};
use outlast_wire::intent::Start;
use std::time::Duration;
use tokio::time::Instant;

pub(super) async fn make<B: Backend>(core: &mut Core<B>) -> Result<(), Stumble> {
    let vmm = core.vmm.as_mut().ok_or_else(|| Stumble::Failed("there is no VMM".to_owned()))?;
    core.guest_started = Some(Instant::now());
    let started = match core.intent.start {
        Start::Boot => vmm.boot().await,
        Start::Clone { .. } | Start::Restore { .. } => vmm.restore().await,
    };
    let Err(error) = started else { return Ok(()) };
    let is_dead = matches!(vmm.process().wait_dead(Duration::ZERO), Ok(true));
    Err(stumble(error, is_dead))
}

/// Whatever a VMM that has ended could not do (answer, or be put into its control group), its end says more than
/// that.
fn stumble(error: BackendError, is_dead: bool) -> Stumble {
    match error {
        BackendError::HungUp { .. } => Stumble::LinkBroke(chain(&error)),
        error if is_dead => Stumble::LinkBroke(chain(&error)),
        error => Stumble::failed(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlast_machine::cgroup::CgroupError;
    use std::path::PathBuf;

    #[test]
    fn what_a_dead_vmm_could_not_do_is_explained_by_its_death_and_what_a_living_one_could_not_is_a_failure() {
        let moved = || {
            let source = rustix::io::Errno::SRCH.into();
            BackendError::Cgroup(CgroupError::Move { pid: 7, path: PathBuf::from("cgroup.procs"), source })
        };
        assert!(matches!(stumble(moved(), true), Stumble::LinkBroke(_)));
        assert!(matches!(stumble(moved(), false), Stumble::Failed(_)));
        assert!(matches!(stumble(BackendError::HungUp { command: "cont" }, false), Stumble::LinkBroke(_)));
    }
}
