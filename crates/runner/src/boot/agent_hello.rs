//! Agent hello: the guest's agent repeats the nonce of this connection.
//!
//! A clone's agent was running when it was saved and must answer soon, or the clone is given up for a cold
//! boot; so must a restored one, whose start has failed otherwise; a booting one has until the boot's deadline.

use super::{Core, Presence, Stumble};
use crate::link::Link;
use crate::vm;
use outlast_machine::backend::Backend;
use outlast_model::{limit, timeout};
use outlast_wire::guest::HelloAck;
use outlast_wire::intent::Start;
use outlast_wire::journal::JournalEntry;
use std::rc::Rc;

pub(super) async fn make<B: Backend>(core: &mut Core<B>) -> Result<(), Stumble> {
    let vmm = core.vmm.as_mut().ok_or_else(|| Stumble::Failed("there is no VMM".to_owned()))?;
    let stream = vmm.connect_agent().await.map_err(Stumble::failed)?;
    let probes = Rc::clone(&core.desk.probes);
    let link = core.link.insert(Link::new(stream).probed(probes));
    let hello = match core.intent.start {
        Start::Boot => link.hello().await,
        Start::Clone { .. } => soon("the clone's agent", link.hello()).await?,
        Start::Restore { .. } => soon("the restored agent", link.hello_amid_ruins()).await?,
    };
    let hello = hello.map_err(Stumble::on_link)?;
    if let Start::Restore { .. } = core.intent.start {
        core.frozen = true;
        take_over(core, &hello)?;
    }
    core.hello = Some(hello);
    Ok(())
}

/// The programs that nobody waited for when the guest was saved go on with logs of this incarnation. What they say is
/// listened to from now on: it may come with the agent's answer.
fn take_over<B: Backend>(core: &mut Core<B>, hello: &HelloAck) -> Result<(), Stumble> {
    let (Some(vm), Some(link)) = (core.desk.vm.as_ref(), core.link.as_mut()) else { return Ok(()) };
    let numbers = hello.numbers.iter().copied().chain(std::iter::repeat(0));
    for (stream, number) in hello.kept.iter().copied().zip(numbers) {
        let files = |number| {
            let end = Some(vm.evidence.exec_end(number));
            vm::Files { log: vm.evidence.exec_log(number), end }
        };
        let number =
            vm.execs.adopt((stream, number), files, limit::OUTPUT_BYTES_MAX).map_err(Stumble::failed)?;
        let detail = Some(format!("exec {number} goes on in the restored guest"));
        core.journal.note(JournalEntry::Program { phase: "kept".to_owned(), detail });
    }
    vm::attach(link, &vm.execs);
    Ok(())
}

/// An agent that ran before is not waited for as long as a boot.
async fn soon<T>(who: &str, hello: impl Future<Output = T>) -> Result<T, Stumble> {
    let limit = timeout::AGENT_REQUEST;
    let answered = tokio::time::timeout(limit, hello).await;
    answered.map_err(|_| Stumble::Failed(format!("{who} was silent for {} s", limit.as_secs())))
}

#[expect(clippy::unnecessary_wraps, reason = "one shape for the undo of every step")]
pub(super) fn undo<B: Backend>(core: &mut Core<B>) -> Result<(), String> {
    core.link = None;
    core.hello = None;
    Ok(())
}

pub(super) fn probe<B: Backend>(core: &Core<B>) -> Presence {
    if core.link.is_some() { Presence::Present } else { Presence::Absent }
}
