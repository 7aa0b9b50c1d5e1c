//! The shutdown ladder: ask the agent, ask the VMM, TERM, KILL. Every rung has a deadline, and the journal
//! says which one worked.
//!
//! A workload's VM has nothing worth saving (its root is read-only, its writes are in memory), so workloads
//! start at the last rung. Templates and long-lived machines start higher.

use crate::journal::Journal;
use crate::link::Link;
use outlast_machine::backend::Backend;
use outlast_machine::process::Process;
use outlast_machine::sys;
use outlast_model::timeout;
use outlast_wire::guest::{HostMessage, PowerOff};
use outlast_wire::journal::JournalEntry;
use std::time::Duration;

/// A rung.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rung {
    /// The agent is asked to power the guest off.
    Agent,
    /// The VMM is asked to quit.
    Vmm,
    /// SIGTERM to the VMM.
    Term,
    /// SIGKILL to the VMM.
    Kill,
}

impl Rung {
    const ALL: [Self; 4] = [Self::Agent, Self::Vmm, Self::Term, Self::Kill];

    const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Vmm => "vmm",
            Self::Term => "term",
            Self::Kill => "kill",
        }
    }

    const fn patience(self) -> Duration {
        match self {
            Self::Agent => timeout::RUNG_AGENT,
            Self::Vmm => timeout::RUNG_VMM,
            Self::Term => timeout::RUNG_TERM,
            Self::Kill => timeout::RUNG_KILL,
        }
    }
}

/// The VMM still lives after the last rung: it is dying, and only its pidfd will tell when it is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StillAlive;

/// Goes down the ladder from `first` until the VMM is dead. Returns the rung that worked.
///
/// Cancelling it leaves the VMM on whatever rung it was.
pub(crate) async fn descend<B: Backend>(
    first: Rung,
    vmm: &mut B,
    mut link: Option<&mut Link>,
    journal: &mut Journal,
) -> Result<Rung, StillAlive> {
    for rung in Rung::ALL.into_iter().filter(|rung| *rung >= first) {
        let asked = async {
            ask(rung, vmm, link.as_deref_mut()).await;
            dead(vmm.process()).await;
        };
        let worked = tokio::time::timeout(rung.patience(), asked).await.is_ok();
        journal.note(JournalEntry::Rung { rung: rung.name().to_owned(), worked });
        if worked {
            return Ok(rung);
        }
    }
    Err(StillAlive)
}

/// Comes when the process is proved dead by its pidfd. A pidfd that cannot be waited on proves nothing, so
/// then this never comes.
pub(crate) async fn dead(process: &Process) {
    let watched = process.as_fd().try_clone_to_owned().and_then(sys::watch_readable);
    match &watched {
        Ok(pidfd) if pidfd.readable().await.is_ok() => {}
        Ok(_) | Err(_) => std::future::pending().await,
    }
}

/// Does what the rung says. A rung that cannot even be asked is one that did not work: the next one follows
/// when its patience is over, unless the VMM dies first.
async fn ask<B: Backend>(rung: Rung, vmm: &mut B, link: Option<&mut Link>) {
    let refused = match rung {
        Rung::Agent => match link {
            Some(link) => link
                .request("power off", HostMessage::PowerOff(PowerOff { grace_ms: 0 }))
                .await
                .err()
                .map(|e| e.to_string()),
            None => Some("there is no guest link".to_owned()),
        },
        Rung::Vmm => vmm.power_off().await.err().map(|e| e.to_string()),
        Rung::Term => vmm.process().signal(rustix::process::Signal::TERM).err().map(|e| e.to_string()),
        Rung::Kill => vmm.kill().err().map(|e| e.to_string()),
    };
    if let Some(error) = refused {
        tracing::debug!(rung = rung.name(), error, "a rung of the shutdown ladder");
    }
}
