//! What a runner knows and tells of itself, and where it passes on what it is asked.

use crate::clock;
use crate::probe::Probes;
use crate::vm::{Ask, Asks, Execs, ProgramAsk, Reply, StopOrder, Taken};
use outlast_machine::console::ConsoleKeys;
use outlast_model::timeout;
use outlast_wire::control::{Answer, Request};
use outlast_wire::identity::ProcessIdentity;
use outlast_wire::intent::Purpose;
use outlast_wire::paths::Evidence;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// What the server knows and tells.
#[derive(Debug)]
pub(crate) struct Desk {
    /// The incarnation's id.
    pub(crate) incarnation: String,
    /// The word for what it is doing.
    pub(crate) state: Doing,
    /// Where kills go; one waiting is as good as many.
    pub(crate) kills: mpsc::Sender<()>,
    /// Where probes of the guest wait.
    pub(crate) probes: Rc<Probes>,
    /// What only a long-lived VM has.
    pub(crate) vm: Option<VmDesk>,
}

/// What an incarnation is doing, and since when.
#[derive(Debug)]
pub(crate) struct Doing {
    word: Cell<&'static str>,
    since_unix_ns: Cell<u64>,
}

impl Doing {
    /// This, since now.
    pub(crate) fn new(word: &'static str) -> Self {
        Self { word: Cell::new(word), since_unix_ns: Cell::new(clock::unix_ns()) }
    }

    /// From now on this.
    pub(crate) fn set(&self, word: &'static str) {
        self.word.set(word);
        self.since_unix_ns.set(clock::unix_ns());
    }

    /// The word.
    pub(crate) fn get(&self) -> &'static str {
        self.word.get()
    }
}

/// The part of the desk that a long-lived VM has.
#[derive(Debug)]
pub(crate) struct VmDesk {
    /// The loop's queue.
    pub(crate) asks: mpsc::Sender<Ask>,
    /// The programs in it.
    pub(crate) execs: Rc<Execs>,
    /// How it is to be stopped, when that was asked while it started.
    pub(crate) stop_while_starting: Cell<Option<StopOrder>>,
    /// Its VMM, while there is one.
    pub(crate) vmm: Rc<RefCell<Option<ProcessIdentity>>>,
    /// What is typed on its console goes in here, while there is a VMM.
    pub(crate) keys: RefCell<Option<ConsoleKeys>>,
    /// The guest's host name.
    pub(crate) host_name: String,
    /// Where their output is kept.
    pub(crate) evidence: Evidence,
    /// What programs may use when nobody says otherwise.
    pub(crate) limits: ProgramLimits,
    /// How long writing all of it, memory and a full disk, may take.
    pub(crate) state_patience: Duration,
}

/// The limits of a program's cgroup in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProgramLimits {
    /// `memory.max`, in bytes.
    pub(crate) memory_max: u64,
    /// `pids.max`.
    pub(crate) pids_max: u32,
}

impl Desk {
    /// The answer to one request.
    pub(super) async fn answer(&self, request: Result<Request, serde_json::Error>) -> Answer {
        let request = match request {
            Ok(request) => request,
            Err(error) => return refused(format!("unknown request: {error}")),
        };
        match request {
            Request::Ping => {
                Answer::Pong { incarnation: self.incarnation.clone(), state: self.state.get().to_owned() }
            }
            Request::Probe => self.probe().await,
            Request::Kill => {
                // A full queue holds a kill already.
                let _ = self.kills.try_send(());
                Answer::Accepted
            }
            Request::Stdin { .. } | Request::Resize { .. } | Request::Exec(_) => {
                refused("a program has its connection to itself, and this one has no program".to_owned())
            }
            request => match &self.vm {
                Some(vm) => self.answer_of_vm(vm, request).await,
                None => refused("this incarnation is no long-lived VM".to_owned()),
            },
        }
    }

    async fn answer_of_vm(&self, vm: &VmDesk, request: Request) -> Answer {
        match request {
            Request::Status => Answer::Status {
                incarnation: self.incarnation.clone(),
                state: self.state.get().to_owned(),
                since_unix_ns: self.state.since_unix_ns.get(),
                vmm: vm.vmm.borrow().clone(),
                execs: u32::try_from(vm.execs.count()).unwrap_or(u32::MAX),
            },
            Request::Stop { force, timeout_ms } => {
                self.stop(vm, force, Duration::from_millis(timeout_ms)).await
            }
            Request::Type { data } => vm.type_in(&data).await,
            Request::Pause => vm.asked(|reply| Ask::Pause { reply }).await,
            Request::Resume => vm.asked(|reply| Ask::Resume { reply }).await,
            Request::Signal { exec: number, number: signal } => {
                vm.asked(|reply| Ask::Program(ProgramAsk::Signal { number, signal, reply: Some(reply) }))
                    .await
            }
            Request::Snapshot { directory } => {
                let (reply, said) = oneshot::channel();
                vm.ask(Ask::Snapshot { directory, reply }).await;
                match within(vm.state_patience, said).await {
                    Ok(Ok(taken)) => snapshotted(taken),
                    Ok(Err(cause)) | Err(cause) => refused(cause),
                }
            }
            Request::Monitor { command } => {
                let (reply, said) = oneshot::channel();
                vm.ask(Ask::Monitor { command, reply }).await;
                match within(timeout::VM_REQUEST, said).await {
                    Ok(Ok(answer)) => Answer::Monitor { said: answer },
                    Ok(Err(cause)) | Err(cause) => refused(cause),
                }
            }
            _ => refused("unknown request".to_owned()),
        }
    }

    /// A VM that is still starting is not stopped but given up: the boot hears of kills alone.
    async fn stop(&self, vm: &VmDesk, force: bool, within: Duration) -> Answer {
        let order = StopOrder { force, within };
        if self.state.get() == "starting" {
            vm.stop_while_starting.set(Some(order));
            let _ = self.kills.try_send(());
            return Answer::Accepted;
        }
        vm.asked(|reply| Ask::Stop { order, reply }).await
    }

    /// A round trip through the guest.
    async fn probe(&self) -> Answer {
        match tokio::time::timeout(timeout::PROBE, self.probes.ask()).await {
            Ok(Ok(took)) => {
                Answer::Probed { round_trip_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX) }
            }
            Ok(Err(_)) => refused("the guest link ended".to_owned()),
            Err(_) => refused(format!("the agent did not answer within {} s", timeout::PROBE.as_secs())),
        }
    }
}

impl VmDesk {
    /// The desk of a VM, and the end of its queue that its loop holds; nothing else has one. Its memory and its disk have
    /// `state_bytes` together at most.
    pub(crate) fn of(purpose: &Purpose, evidence: &Evidence, state_bytes: u64) -> Option<(Self, Asks)> {
        let Purpose::Vm { name, memory_max, pids_max, .. } = purpose else { return None };
        let (sender, asks) = Asks::new();
        let desk = Self {
            asks: sender,
            execs: Rc::default(),
            stop_while_starting: Cell::new(None),
            vmm: Rc::default(),
            keys: RefCell::default(),
            host_name: name.clone(),
            evidence: evidence.clone(),
            limits: ProgramLimits { memory_max: *memory_max, pids_max: *pids_max },
            state_patience: timeout::of_state(state_bytes) + timeout::VM_REQUEST,
        };
        Some((desk, asks))
    }

    /// Passes an ask on. When the loop has ended nobody answers it, which whoever waits sees.
    pub(super) async fn ask(&self, ask: Ask) {
        let _ = self.asks.send(ask).await;
    }

    /// Types on the console, beside whatever the loop does: a serial line is slow, and waits for nobody.
    async fn type_in(&self, keys: &[u8]) -> Answer {
        let Some(console) = self.keys.borrow().clone() else { return refused("there is no VMM".to_owned()) };
        match tokio::time::timeout(timeout::CONTROL, console.type_in(keys)).await {
            Ok(Ok(())) => Answer::Accepted,
            Ok(Err(error)) => refused(format!("nobody is at the console any more: {error}")),
            Err(_) => refused("the guest does not take what is typed".to_owned()),
        }
    }

    async fn asked(&self, ask: impl FnOnce(Reply) -> Ask) -> Answer {
        let (reply, said) = oneshot::channel();
        self.ask(ask(reply)).await;
        match within(timeout::VM_REQUEST, said).await {
            Ok(Ok(())) => Answer::Accepted,
            Ok(Err(cause)) | Err(cause) => refused(cause),
        }
    }
}

/// What the loop said, or why it said nothing.
async fn within<T>(patience: Duration, said: oneshot::Receiver<T>) -> Result<T, String> {
    match tokio::time::timeout(patience, said).await {
        Ok(Ok(said)) => Ok(said),
        Ok(Err(_)) => Err("the VM is ending".to_owned()),
        Err(_) => Err(format!("it took longer than {} s", patience.as_secs())),
    }
}

fn snapshotted(taken: Taken) -> Answer {
    let Taken { paused, machine_bytes, disk_bytes } = taken;
    let paused_us = u64::try_from(paused.as_micros()).unwrap_or(u64::MAX);
    Answer::Snapshotted { paused_us, machine_bytes, disk_bytes }
}

/// No.
pub(super) fn refused(cause: String) -> Answer {
    Answer::Refused { cause }
}
