//! A long-lived VM between its start and its end: one loop that takes what happens to it, what clients ask and
//! what the guest says, one thing at a time.
//!
//! ```text
//!   VMM, signals, the store's row ──┐
//!   asks of control clients ────────┼──► one loop ──► stop ──► ending
//!   the guest link ─────────────────┘         │
//!                                             └─ programs (execs), pause ⇄ resume, monitor
//! ```
//!
//! Nothing in this loop waits for a client. What takes long in the guest is told by messages that come later;
//! what is asked of the VMM's monitor has a deadline of its own.

mod ask;
mod execs;
mod pause;
mod snapshot;
mod stop;
#[cfg(test)]
mod testing;
mod watch;

pub(crate) use ask::{Ask, Asks, ProgramAsk, Reply, StopOrder, Taken};
use execs::ExecError;
pub(crate) use execs::{ExecEnd, Execs, Files, Opened, attach, remove_log};
use pause::Cut;
pub(crate) use watch::{Finding, Watch, Watched};

use crate::boot::{Core, chain};
use crate::decision::{self, Ending, Phase};
use crate::event::{Interrupt, Sources};
use crate::program::interrupt_of;
use outlast_machine::backend::{Backend, BackendError};
use serde_json::Value;
use std::rc::Rc;
use tokio::sync::oneshot;

#[cfg(test)]
pub(crate) use testing::serve;

/// What the loop does next.
enum Turn {
    /// What happened to the VM.
    Interrupt(Interrupt),
    /// What a client asked.
    Ask(Ask),
    /// Programs whose output cannot be kept.
    Doomed(Vec<u32>),
    /// The guest said something that nobody waits for.
    Idle,
}

/// Keeps a published VM until it ends, and says how.
pub(crate) async fn stay<B: Backend>(core: &mut Core<B>, sources: &mut Sources, asks: &mut Asks) -> Ending {
    let Some(execs) = core.desk.vm.as_ref().map(|vm| Rc::clone(&vm.execs)) else { return unbooted() };
    if let Some(link) = core.link.as_mut() {
        attach(link, &execs);
    }
    let ending = loop {
        let Some(link) = core.link.as_mut() else { break unbooted() };
        let turn = tokio::select! {
            // Order matters: a guest that floods the link must not outshout its own end, nor a client a stop.
            biased;
            interrupt = sources.next() => Turn::Interrupt(interrupt),
            ask = asks.next() => Turn::Ask(ask),
            doomed = execs.doomed() => Turn::Doomed(doomed),
            heard = link.next() => match heard {
                Ok(_) => Turn::Idle,
                Err(error) => Turn::Interrupt(interrupt_of(&error, sources).await),
            },
        };
        if let Some(ending) = take(core, (sources, asks), &execs, turn).await {
            break ending;
        }
    };
    execs.lose("the VM ended");
    ending
}

/// Takes a turn; `Some` is the end.
async fn take<B: Backend>(
    core: &mut Core<B>,
    (sources, asks): (&mut Sources, &mut Asks),
    execs: &Execs,
    turn: Turn,
) -> Option<Ending> {
    match turn {
        Turn::Idle => None,
        Turn::Interrupt(interrupt) => Some(end(core, asks, &interrupt).await),
        Turn::Ask(ask) => answer(core, (sources, asks), execs, ask).await,
        Turn::Doomed(streams) => {
            let sent = Execs::execute(core.link.as_mut()?, &streams);
            sent.err().map(|error| decision::interrupted(Phase::Running, &Interrupt::LinkLost(chain(&error))))
        }
    }
}

/// What happened means the end; a wish for it is carried out gently.
async fn end<B: Backend>(core: &mut Core<B>, asks: &mut Asks, interrupt: &Interrupt) -> Ending {
    let order = match interrupt {
        Interrupt::StopWanted | Interrupt::RowGone | Interrupt::HostSignal => Some(StopOrder::default()),
        // A stop that came when it was still starting, and too late to give the start up.
        Interrupt::KillRequested => core.desk.vm.as_ref().and_then(|vm| vm.stop_while_starting.take()),
        _ => None,
    };
    match order {
        Some(order) => stop::stop(core, asks, order, stop::because(interrupt)).await,
        None => decision::interrupted(Phase::Running, interrupt),
    }
}

/// Does what a client asked; `Some` is the end. A client that went away needs no answer.
async fn answer<B: Backend>(
    core: &mut Core<B>,
    (sources, asks): (&mut Sources, &mut Asks),
    execs: &Execs,
    ask: Ask,
) -> Option<Ending> {
    let (reply, done) = match ask {
        Ask::Stop { order, reply } => {
            let _ = reply.send(Ok(()));
            return Some(stop::stop(core, asks, order, STOP_ASKED).await);
        }
        Ask::Pause { reply } => (reply, pause::pause(core, sources).await),
        Ask::Resume { reply } => (reply, pause::resume(core, sources).await),
        Ask::Snapshot { directory, reply } => {
            return match snapshot::take(core, (sources, asks), &directory).await {
                Ok(taken) => {
                    let _ = reply.send(taken);
                    None
                }
                Err(cut) => {
                    let _ = reply.send(Err(cut.told()));
                    Some(cut_short(core, asks, cut).await)
                }
            };
        }
        Ask::Monitor { command, reply } => {
            monitor(core, &command, reply);
            return None;
        }
        Ask::Program(ProgramAsk::Open { reply, .. }) if core.paused => {
            let _ = reply.send(Err(ExecError::Paused));
            return None;
        }
        Ask::Program(ask) => {
            ask.carry_out(execs, core.link.as_mut()?, &core.evidence);
            return None;
        }
    };
    let cut = match done {
        Ok(answer) => {
            let _ = reply.send(answer);
            return None;
        }
        Err(cut) => cut,
    };
    let _ = reply.send(Err(cut.told()));
    Some(cut_short(core, asks, cut).await)
}

/// What cut something short means the end.
async fn cut_short<B: Backend>(core: &mut Core<B>, asks: &mut Asks, cut: Cut) -> Ending {
    match cut {
        Cut::Interrupt(interrupt) => end(core, asks, &interrupt).await,
        Cut::Stop(order) => stop::stop(core, asks, order, STOP_ASKED).await,
        Cut::Unfit(ending) => ending,
    }
}

/// Why a VM is stopped whose client came to the socket.
const STOP_ASKED: &str = "a stop was asked for on the control socket";

/// Passes a command on to the monitor. Its answer is waited for beside the loop.
fn monitor<B: Backend>(core: &Core<B>, command: &str, reply: oneshot::Sender<Result<Value, String>>) {
    let Some(vmm) = core.vmm.as_ref() else {
        let _ = reply.send(Err("there is no VMM".to_owned()));
        return;
    };
    match vmm.monitor(command) {
        Ok(answer) => {
            tokio::task::spawn_local(async move {
                let _ = reply.send(answer.await.map_err(|error| words(&error)));
            });
        }
        Err(error) => drop(reply.send(Err(words(&error)))),
    }
}

/// What is told of a command that was passed on: who asked knows whom and what.
fn words(error: &BackendError) -> String {
    match error {
        BackendError::Refused { message, .. } => message.clone(),
        error => chain(error),
    }
}

/// The boot said it was done and left out a part: ours to mend, and never a success.
fn unbooted() -> Ending {
    decision::interrupted(Phase::Running, &Interrupt::LinkLost("there is no guest link".to_owned()))
}
