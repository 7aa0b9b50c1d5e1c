//! Everything that can happen to an incarnation from outside its guest link, as one closed enum, and the
//! one place that listens for it.

use crate::lease::Lease;
use crate::vm::Finding;
use outlast_machine::backend::{VmmEvent, VmmEvents};
use outlast_model::timeout;
use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// What ends an incarnation, whatever it is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Interrupt {
    /// The VMM or the guest as a whole.
    Vmm(VmmEvent),
    /// The guest link broke and the VMM had nothing to say about it.
    LinkLost(String),
    /// The agent did not answer in time.
    AgentSilent(String),
    /// The agent broke the protocol of the guest link.
    ProtocolBroken(String),
    /// The client of a foreground run is gone.
    ClientGone,
    /// Somebody asked for its end on the control socket.
    KillRequested,
    /// SIGTERM or SIGINT.
    HostSignal,
    /// The store says that this VM is to be stopped.
    StopWanted,
    /// The VM's row in the store is gone, or its removal is wanted.
    RowGone,
    /// The incarnation's row is another runner's.
    NotOurs,
    /// The deadline passed.
    DeadlinePassed,
    /// The program's output could not be kept.
    OutputNotKept(String),
    /// The program's standard input could not be read to its end.
    InputNotGiven(String),
}

/// Where interrupts come from.
#[derive(Debug)]
pub(crate) struct Sources {
    vmm: Option<VmmEvents>,
    lease: Lease,
    kills: mpsc::Receiver<()>,
    findings: Option<mpsc::Receiver<Finding>>,
    terminate: Signal,
    interrupt: Signal,
    /// A long-lived VM that was published has none.
    deadline: Option<Instant>,
}

impl Sources {
    /// Listens from now on; `deadline` is the boot's.
    pub(crate) fn new(lease: Lease, kills: mpsc::Receiver<()>, deadline: Instant) -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { vmm: None, lease, kills, findings: None, terminate, interrupt, deadline: Some(deadline) })
    }

    /// Listens to this VMM, or to none.
    pub(crate) fn listen_to(&mut self, vmm: Option<VmmEvents>) {
        self.vmm = vmm;
    }

    /// From now on this is the deadline.
    pub(crate) fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = Some(deadline);
    }

    /// From now on there is none.
    pub(crate) fn clear_deadline(&mut self) {
        self.deadline = None;
    }

    /// Listens to the watch over a VM's row.
    pub(crate) fn listen_to_the_row(&mut self, findings: mpsc::Receiver<Finding>) {
        self.findings = Some(findings);
    }

    /// The next interrupt. Cancelling it loses nothing.
    pub(crate) async fn next(&mut self) -> Interrupt {
        let vmm = async {
            match &mut self.vmm {
                Some(events) => events.recv().await.unwrap_or(VmmEvent::MonitorLost),
                None => std::future::pending().await,
            }
        };
        let finding = async {
            match &mut self.findings {
                Some(findings) => findings.recv().await,
                None => std::future::pending().await,
            }
        };
        let deadline = async {
            match self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Order matters: the VMM's own end explains more than what follows from it.
            biased;
            event = vmm => Interrupt::Vmm(event),
            Some(()) = self.kills.recv() => Interrupt::KillRequested,
            Some(finding) = finding => match finding {
                Finding::StopWanted => Interrupt::StopWanted,
                Finding::RowGone => Interrupt::RowGone,
                Finding::NotOurs => Interrupt::NotOurs,
            },
            () = self.lease.lost() => Interrupt::ClientGone,
            Some(()) = self.terminate.recv() => Interrupt::HostSignal,
            Some(()) = self.interrupt.recv() => Interrupt::HostSignal,
            () = deadline => Interrupt::DeadlinePassed,
        }
    }

    /// Comes when somebody asks for the end on the control socket. Cancelling it loses nothing.
    pub(crate) async fn kill_wanted(&mut self) {
        if self.kills.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// A broken link is usually the first sign of a death that has a better name: gives the VMM a moment to
    /// say it.
    pub(crate) async fn explain(&mut self, sign: Interrupt) -> Interrupt {
        let Some(events) = &mut self.vmm else { return sign };
        match tokio::time::timeout(timeout::EXPLANATION, events.recv()).await {
            Ok(Some(event)) => Interrupt::Vmm(event),
            Ok(None) | Err(_) => sign,
        }
    }
}
