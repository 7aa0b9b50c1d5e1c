//! QEMU behind the backend trait: `q35`, direct kernel boot, every device named, driven through QMP.
//!
//! ```text
//!   runner                                   jail (own mount namespace)
//!     listening sockets: monitor, agent ───►   inherited, by number
//!     one end of a socketpair: console ────►   inherited
//!     state to restore, opened read-only ──►   inherited
//!     the machine's own disk, read-write ──►   inherited
//!     stderr ◄─────────────────────────────    messages, kept with a cap
//! ```
//!
//! The sockets exist before QEMU does, so connecting to them neither polls nor waits; QEMU answers when it is up.
//! One task (in `watch`) owns the process and the monitor and tells events. Not responsible for what is in the
//! jail beside QEMU's own files ([`crate::jail`]) nor for templates' publishing, checking or locking.

mod arguments;
mod cpu;
#[cfg(test)]
mod fixture;
mod launch;
mod limits;
pub mod line;
mod monitor;
mod state;
mod watch;

pub use cpu::{command_line, cpu_model};

use crate::backend::{Backend, BackendError, Capabilities, GuestLink, LaunchError, LaunchPlan, VmmEvents};
use crate::cgroup::CgroupError;
use crate::console::ConsoleKeys;
use crate::process::Process;
use monitor::Monitor;
use outlast_model::timeout;
use outlast_wire::intent::Machine;
use qapi::qmp;
use rustix::process::Signal;
use serde_json::Value;
use state::{Incoming, Restoring};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// A QEMU process, and the means to drive it.
///
/// Dropping it kills the process, late: the net below an orderly end.
#[derive(Debug)]
pub struct Qemu {
    process: Arc<Process>,
    monitor: Monitor,
    /// The connection to the agent's port that was there before QEMU was, until somebody takes it. A template is
    /// saved while a host is connected to that port, and a clone finds one connected when it goes on: its guest
    /// hears of no hang-up and no new host, which could otherwise reach it after the first bytes of the new one.
    agent: Option<UnixStream>,
    agent_socket: PathBuf,
    /// What it is to be restored from.
    incoming: Option<Incoming>,
    /// The machine's memory, in bytes.
    memory: u64,
    /// The size of the machine's own disk, if it has one.
    disk_bytes: Option<u64>,
    saveable: bool,
    restoring: Option<Restoring>,
    /// Whether the VMM is in its control group yet; no vCPU runs before that.
    confined: Option<JoinHandle<Result<(), CgroupError>>>,
    /// Reads the guest's console until the VMM is dead.
    console: Option<JoinHandle<()>>,
    keys: ConsoleKeys,
    watch: JoinHandle<()>,
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // The task owns the child, which is killed when it is dropped.
        self.watch.abort();
    }
}

impl Backend for Qemu {
    const NAME: &'static str = arguments::NAME;

    fn capabilities() -> Capabilities {
        Capabilities { snapshots: true, emulation: true, hardware: true, guest_link: GuestLink::VirtioSerial }
    }

    fn topology(machine: &Machine) -> String {
        arguments::topology(machine)
    }

    async fn launch(plan: &LaunchPlan) -> Result<(Self, VmmEvents), LaunchError> {
        launch::launch(plan).await
    }

    async fn boot(&mut self) -> Result<(), BackendError> {
        if self.incoming.is_some() {
            return Err(BackendError::NothingToBoot);
        }
        self.be_confined().await?;
        self.resume().await
    }

    async fn restore(&mut self) -> Result<(), BackendError> {
        self.loaded().await?;
        self.be_confined().await?;
        self.resume().await?;
        self.disk_changed().await
    }

    async fn connect_agent(&mut self) -> Result<UnixStream, BackendError> {
        if let Some(agent) = self.agent.take() {
            return Ok(agent);
        }
        UnixStream::connect(&self.agent_socket)
            .await
            .map_err(|source| BackendError::Agent { path: self.agent_socket.clone(), source })
    }

    async fn pause(&mut self) -> Result<(), BackendError> {
        self.monitor.execute(qmp::stop {}).await.map(drop)
    }

    async fn resume(&mut self) -> Result<(), BackendError> {
        self.monitor.execute(qmp::cont {}).await.map(drop)
    }

    async fn save(&mut self, state_file: &Path) -> Result<(), BackendError> {
        self.save_devices(state_file).await
    }

    async fn save_whole(&mut self, file: File, within: Duration) -> Result<u64, BackendError> {
        self.save_everything(file, within).await
    }

    async fn abandon_save(&mut self) {
        self.let_go().await;
    }

    fn monitor(
        &self,
        command: &str,
    ) -> Result<impl Future<Output = Result<Value, BackendError>> + use<> + 'static, BackendError> {
        self.monitor.submit_raw(command)
    }

    fn keys(&self) -> ConsoleKeys {
        self.keys.clone()
    }

    async fn power_off(&mut self) -> Result<(), BackendError> {
        match self.monitor.execute(qmp::quit {}).await {
            // It may be gone before its answer is.
            Ok(_) | Err(BackendError::HungUp { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn process(&self) -> &Process {
        &self.process
    }

    async fn console_kept(&mut self) {
        if let Some(console) = self.console.take() {
            // When somebody else still holds its end there is no end of it.
            let _ = tokio::time::timeout(timeout::LAST_WORDS, console).await;
        }
    }

    fn kill(&self) -> Result<(), BackendError> {
        Ok(self.process.signal(Signal::KILL)?)
    }
}

impl Qemu {
    /// Waits until the VMM is in its control group. It moves while QEMU starts and loads: nothing is lost.
    async fn be_confined(&mut self) -> Result<(), BackendError> {
        let Some(moving) = self.confined.take() else { return Ok(()) };
        match moving.await {
            Ok(moved) => moved.map_err(BackendError::Cgroup),
            Err(_) => Err(BackendError::Cgroup(CgroupError::Unavailable {
                reason: "the move was interrupted".to_owned(),
            })),
        }
    }

    /// Has the guest told what size its own disk has: the one its template was made with was another. Only a running
    /// machine has its disks open for that (QEMU: an inactive node), and setting the size that a disk has anyway
    /// changes nothing but that.
    async fn disk_changed(&mut self) -> Result<(), BackendError> {
        let Some(bytes) = self.disk_bytes else { return Ok(()) };
        let size = i64::try_from(bytes).unwrap_or(i64::MAX);
        let node_name = Some(arguments::SCRATCH_NODE.to_owned());
        self.monitor.execute(qmp::block_resize { device: None, node_name, size }).await.map(drop)
    }
}
