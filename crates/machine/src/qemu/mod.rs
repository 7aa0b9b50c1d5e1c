//! QEMU behind the backend trait: `q35`, direct kernel boot, every device named, driven through QMP.
//!
//! ```text
//!   runner                                   jail (own mount namespace)
//!     listening sockets: monitor, agent ───►   inherited, by number
//!     one end of a socketpair: console ────►   inherited
//!     device state, opened read-only ──────►   inherited
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
mod watch;

pub use cpu::{command_line, cpu_model};

use crate::backend::{Backend, BackendError, Capabilities, GuestLink, LaunchError, LaunchPlan, VmmEvents};
use crate::cgroup::CgroupError;
use crate::process::Process;
use arguments::{INCOMING_SET, OUTGOING_SET};
use monitor::{Monitor, Pending};
use outlast_model::timeout;
use outlast_wire::intent::Machine;
use qapi::qmp::{
    self, MigrationCapability, MigrationCapabilityStatus, MigrationStatus, migrate_set_capabilities,
};
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
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
    boots_from_state: bool,
    /// The size of the machine's own disk, if it has one.
    disk_bytes: Option<u64>,
    saveable: bool,
    restoring: Option<Restoring>,
    /// Whether the VMM is in its control group yet; no vCPU runs before that.
    confined: Option<JoinHandle<Result<(), CgroupError>>>,
    /// Reads the guest's console until the VMM is dead.
    console: Option<JoinHandle<()>>,
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
        if self.boots_from_state {
            return Err(BackendError::NothingToBoot);
        }
        self.be_confined().await?;
        self.resume().await
    }

    async fn restore(&mut self) -> Result<(), BackendError> {
        let restoring = self.restoring.take().ok_or(BackendError::NothingToRestore)?;
        restoring.capabilities.answer().await?;
        restoring.incoming.answer().await?;
        self.migration_completed("restored").await?;
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
        if !self.saveable {
            return Err(BackendError::NotSaveable);
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(state_file, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| BackendError::Open { path: state_file.to_owned(), source: errno.into() })?;
        self.monitor.execute(migration_capabilities()).await?;
        let add = qmp::add_fd { fdset_id: Some(OUTGOING_SET), opaque: None };
        self.monitor.execute_with(add, file).await?;
        self.monitor.forget_migrations();
        let uri = Some(set_uri(OUTGOING_SET));
        self.monitor.execute(qmp::migrate { uri, channels: None, detach: None, resume: None }).await?;
        self.migration_completed("saved").await?;
        self.monitor.execute(qmp::remove_fd { fdset_id: OUTGOING_SET, fd: None }).await.map(drop)
    }

    fn monitor(
        &self,
        command: &str,
    ) -> Result<impl Future<Output = Result<Value, BackendError>> + use<> + 'static, BackendError> {
        self.monitor.submit_raw(command)
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

    async fn migration_completed(&mut self, verb: &'static str) -> Result<(), BackendError> {
        match self.monitor.migrated().await? {
            MigrationStatus::completed => Ok(()),
            status => {
                let info = self.monitor.execute(qmp::query_migrate {}).await;
                let detail = info.ok().and_then(|info| info.error_desc);
                let detail = detail.map_or_else(|| format!("{status:?}"), |text| line::shortened(&text));
                Err(BackendError::Migration { verb, detail })
            }
        }
    }
}

/// Memory stays in its file; every change of a migration's status is told.
fn migration_capabilities() -> migrate_set_capabilities {
    let on = |capability| MigrationCapabilityStatus { capability, state: true };
    migrate_set_capabilities {
        capabilities: vec![on(MigrationCapability::x_ignore_shared), on(MigrationCapability::events)],
    }
}

fn set_uri(set: i64) -> String {
    format!("file:/dev/fdset/{set}")
}

/// A restore on its way. It is sent together with the first command to the monitor: QEMU carries commands out in
/// order, loading state lets no vCPU run, and what the runner does in between costs no time.
#[derive(Debug)]
struct Restoring {
    capabilities: Pending<migrate_set_capabilities>,
    incoming: Pending<qmp::migrate_incoming>,
}

impl Restoring {
    fn begin(monitor: &Monitor) -> Result<Self, BackendError> {
        Ok(Self {
            capabilities: monitor.submit(migration_capabilities())?,
            incoming: monitor.submit(qmp::migrate_incoming {
                uri: Some(set_uri(INCOMING_SET)),
                channels: None,
                // A state that cannot be read is an error with a reason, not a VMM that is gone.
                exit_on_error: Some(false),
            })?,
        })
    }
}
