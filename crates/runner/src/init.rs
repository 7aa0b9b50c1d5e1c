//! What being PID 1 asks for: reap whatever is orphaned into this namespace.
//!
//! The VMM is the runner's own child and is waited for by its driver; its exit status must not be taken away.

use outlast_machine::process;
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use tokio::signal::unix::{SignalKind, signal};

/// Which dead children are orphans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reaping {
    /// All of them.
    All,
    /// It cannot be told: a VMM is being launched and its pid is not known yet.
    Paused,
    /// All but the VMM.
    Sparing(u32),
}

/// Reaps orphans as they die, for as long as the event loop turns.
pub(crate) fn reap_orphans(reaping: Rc<Cell<Reaping>>) -> io::Result<()> {
    let mut died = signal(SignalKind::child())?;
    tokio::task::spawn_local(async move {
        while died.recv().await.is_some() {
            let reaped = match reaping.get() {
                Reaping::All => process::reap_orphans(&[]),
                Reaping::Sparing(vmm) => process::reap_orphans(&[vmm]),
                // Whatever dies now is reaped with the next that does.
                Reaping::Paused => Ok(0),
            };
            if let Err(error) = reaped {
                tracing::warn!(%error, "cannot reap orphans");
            }
        }
    });
    Ok(())
}
