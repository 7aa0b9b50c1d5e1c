//! The four checks of a VM's runner against its row, once a second: is the row gone, is a stop wanted, does
//! another runner own it, is the recorded VMM ours.
//!
//! Who wants a stop writes it down first and comes to the runner's socket then, with how it is to be done. So a wish
//! that is found is acted on only when nobody has come for a while.
//!
//! It is one indexed read on the store's thread. A store that cannot be read says nothing: what it said last holds,
//! and a person who wants the VM stopped reaches the runner on its socket.

use crate::clock;
use crate::ledger::Ledger;
use outlast_model::{IncarnationId, IncarnationState, timeout};
use outlast_store::VmStanding;
use outlast_wire::identity::ProcessIdentity;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

/// Who has written a wish down has come to the socket by then, or will not come.
const COMES_WITHIN: Duration = timeout::CONTROL;

/// What the row says that a runner must act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finding {
    /// The VM's row is gone, or its removal is wanted.
    RowGone,
    /// A stop is wanted.
    StopWanted,
    /// The incarnation is another runner's, or over.
    NotOurs,
}

/// What the watch compares with.
#[derive(Debug)]
pub(crate) struct Watched {
    /// The incarnation.
    pub(crate) incarnation: IncarnationId,
    /// Its runner: this process.
    pub(crate) who: ProcessIdentity,
    /// Its VMM, while there is one.
    pub(crate) vmm: Rc<RefCell<Option<ProcessIdentity>>>,
}

/// A running watch. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct Watch {
    watching: tokio::task::JoinHandle<()>,
}

impl Watch {
    /// Looks once a second and tells what must be acted on, once.
    pub(crate) fn start(ledger: Ledger, watched: Watched) -> (Self, mpsc::Receiver<Finding>) {
        let (tell, findings) = mpsc::channel(1);
        let watching = tokio::task::spawn_local(async move {
            let mut tick = tokio::time::interval(timeout::STORE_CHECK);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut first_wished = None;
            loop {
                tick.tick().await;
                match look(&ledger, &watched).await {
                    None => first_wished = None,
                    Some(Finding::StopWanted | Finding::RowGone)
                        if first_wished.get_or_insert_with(Instant::now).elapsed() < COMES_WITHIN => {}
                    Some(finding) => {
                        // One is enough: it ends the VM.
                        let _ = tell.send(finding).await;
                        return;
                    }
                }
            }
        });
        (Self { watching }, findings)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

async fn look(ledger: &Ledger, watched: &Watched) -> Option<Finding> {
    let id = watched.incarnation;
    let standing = match ledger.call(move |store| store.standing_of_vm(id)).await {
        Ok(Ok(standing)) => standing,
        Ok(Err(error)) => {
            tracing::warn!(%error, "cannot look at the VM's row");
            return None;
        }
        Err(error) => {
            tracing::warn!(%error, "cannot look at the VM's row");
            return None;
        }
    };
    let vmm = watched.vmm.borrow().clone();
    let finding = judge(standing.as_ref(), &watched.who, id);
    if let (None, Some(vmm)) = (finding, vmm.filter(|vmm| is_other(standing.as_ref(), vmm))) {
        correct(ledger, watched, vmm).await;
    }
    finding
}

/// What the row means for the runner `who` of the incarnation `id`.
fn judge(standing: Option<&VmStanding>, who: &ProcessIdentity, id: IncarnationId) -> Option<Finding> {
    let Some(standing) = standing else { return Some(Finding::RowGone) };
    // Until its claim is committed nobody owns it.
    let foreign = standing.runner.as_ref().is_some_and(|runner| runner != who);
    if foreign || standing.current != Some(id) || standing.incarnation_state == IncarnationState::Ended {
        return Some(Finding::NotOurs);
    }
    if standing.removal_requested_unix_ns.is_some() {
        return Some(Finding::RowGone);
    }
    standing.stop_requested_unix_ns.map(|_| Finding::StopWanted)
}

fn is_other(standing: Option<&VmStanding>, vmm: &ProcessIdentity) -> bool {
    standing.is_some_and(|standing| standing.vmm.as_ref().is_some_and(|recorded| recorded != vmm))
}

/// The recorded VMM is not the one that runs: the row is wrong, and is put right.
async fn correct(ledger: &Ledger, watched: &Watched, vmm: ProcessIdentity) {
    let (id, who) = (watched.incarnation, watched.who.clone());
    let corrected = ledger.call(move |store| store.record_vmm(id, &who, &vmm, clock::unix_ns())).await;
    match corrected {
        Ok(Ok(())) => tracing::warn!("the row named another VMM and was put right"),
        Ok(Err(error)) => tracing::warn!(%error, "cannot put the row's VMM right"),
        Err(error) => tracing::warn!(%error, "cannot put the row's VMM right"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlast_model::VmState;

    fn process(pid: u32) -> ProcessIdentity {
        ProcessIdentity {
            pid,
            start_time: 7,
            boot_id: "b".to_owned(),
            pid_namespace: 1,
            observer_namespace: 2,
        }
    }

    fn standing(id: IncarnationId) -> VmStanding {
        VmStanding {
            state: VmState::Running,
            stop_requested_unix_ns: None,
            removal_requested_unix_ns: None,
            current: Some(id),
            incarnation_state: IncarnationState::Running,
            runner: Some(process(10)),
            vmm: Some(process(11)),
        }
    }

    #[test]
    fn the_four_checks() {
        let id = IncarnationId::from_parts(1, 1);
        let judged = |standing: Option<VmStanding>| judge(standing.as_ref(), &process(10), id);
        assert_eq!(judged(Some(standing(id))), None);
        assert_eq!(judged(None), Some(Finding::RowGone));
        let removed = VmStanding { removal_requested_unix_ns: Some(1), ..standing(id) };
        assert_eq!(judged(Some(removed)), Some(Finding::RowGone));
        let stopped = VmStanding { stop_requested_unix_ns: Some(1), ..standing(id) };
        assert_eq!(judged(Some(stopped.clone())), Some(Finding::StopWanted));
        let another = IncarnationId::from_parts(1, 2);
        for foreign in [
            VmStanding { runner: Some(process(12)), ..stopped.clone() },
            VmStanding { current: Some(another), ..stopped.clone() },
            VmStanding { incarnation_state: IncarnationState::Ended, ..stopped },
        ] {
            assert_eq!(judged(Some(foreign)), Some(Finding::NotOurs), "whoever is not meant touches nothing");
        }
        let unclaimed = VmStanding { runner: None, ..standing(id) };
        assert_eq!(judged(Some(unclaimed)), None);
        assert!(is_other(Some(&standing(id)), &process(12)));
        assert!(!is_other(Some(&standing(id)), &process(11)));
        assert!(
            !is_other(Some(&VmStanding { vmm: None, ..standing(id) }), &process(11)),
            "not published yet"
        );
    }
}
