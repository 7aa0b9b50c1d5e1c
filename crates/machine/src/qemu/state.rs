//! A machine's state going out of QEMU and into it: what its migrations are used for here.
//!
//! ```text
//!   template   devices ──► file           memory stays in its file            clone: devices ◄── file, memory mapped
//!   snapshot   devices, memory ──► pipe ──► file                              restore: both ◄── file
//! ```
//!
//! The whole of a machine goes through a pipe: so QEMU's limit of how large a file it may write holds, it has nothing in
//! its hands afterwards through which what was saved could be changed, and this side decides how much is kept. Not here:
//! what a saved state is named, hashed and compared with.

use super::Qemu;
use super::arguments::{INCOMING_SET, OUTGOING_SET};
use super::line;
use super::monitor::{Monitor, Pending, is_terminal};
use crate::backend::{BackendError, LaunchPlan};
use outlast_model::timeout;
use qapi::qmp::{
    self, MigrateSetParameters, MigrationCapability, MigrationCapabilityStatus, MigrationStatus, RunState,
    migrate_set_capabilities, migrate_set_parameters,
};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

/// The name of the pipe in the monitor's commands.
const PIPE: &str = "state";
/// What the devices of a machine have of state, and marks of the stream, in bytes; a MiB, as a rule.
const DEVICES: u64 = 64 << 20;
/// Of so many bytes of memory one more is written, for the addresses of its pages: 9 of 4096 at most.
const ADDRESSES: u64 = 256;
/// QEMU holds itself back to 128 MiB a second if nobody tells it otherwise, in bytes a second. Nobody shares the pipe.
const BANDWIDTH: u64 = 1 << 40;

/// What is restored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Incoming {
    /// Whether the memory is in it; otherwise it is in a file of its own.
    has_memory: bool,
    /// How long reading it may take.
    patience: Duration,
}

impl Incoming {
    /// What a file of so many bytes is for this plan.
    pub(super) fn of(plan: &LaunchPlan, bytes: u64) -> Self {
        let has_memory = plan.restores_memory();
        let patience = if has_memory { timeout::of_state(bytes) } else { timeout::MONITOR };
        Self { has_memory, patience }
    }
}

/// A restore on its way. It is sent together with the first command to the monitor: QEMU carries commands out in
/// order, loading state lets no vCPU run, and what the runner does in between costs no time.
#[derive(Debug)]
pub(super) struct Restoring {
    capabilities: Pending<migrate_set_capabilities>,
    incoming: Pending<qmp::migrate_incoming>,
    patience: Duration,
}

impl Restoring {
    pub(super) fn begin(monitor: &Monitor, incoming: Incoming) -> Result<Self, BackendError> {
        Ok(Self {
            capabilities: monitor.submit(capabilities(incoming.has_memory))?,
            incoming: monitor.submit(qmp::migrate_incoming {
                uri: Some(set_uri(INCOMING_SET)),
                channels: None,
                // A state that cannot be read is an error with a reason, not a VMM that is gone.
                exit_on_error: Some(false),
            })?,
            patience: incoming.patience,
        })
    }
}

impl Qemu {
    /// Waits until what [`Restoring::begin`] began is loaded.
    pub(super) async fn loaded(&mut self) -> Result<(), BackendError> {
        let Restoring { capabilities, incoming, patience } =
            self.restoring.take().ok_or(BackendError::NothingToRestore)?;
        capabilities.answer().await?;
        // QEMU reads a file without looking up, and answers nothing meanwhile.
        incoming.answer_within(patience).await?;
        self.migration_completed("restored", patience).await
    }

    /// Writes the device state; memory stays in its file.
    pub(super) async fn save_devices(&mut self, state_file: &Path) -> Result<(), BackendError> {
        if !self.saveable {
            return Err(BackendError::NotSaveable);
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(state_file, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| BackendError::Open { path: state_file.to_owned(), source: errno.into() })?;
        self.monitor.execute(capabilities(false)).await?;
        let add = qmp::add_fd { fdset_id: Some(OUTGOING_SET), opaque: None };
        self.monitor.execute_with(add, file).await?;
        self.monitor.forget_migrations();
        self.migrate(set_uri(OUTGOING_SET)).await?;
        self.migration_completed("saved", timeout::MONITOR).await?;
        self.monitor.execute(qmp::remove_fd { fdset_id: OUTGOING_SET, fd: None }).await.map(drop)
    }

    /// Writes devices and memory.
    pub(super) async fn save_everything(
        &mut self,
        file: File,
        within: Duration,
    ) -> Result<u64, BackendError> {
        self.leave_postmigrate().await?;
        self.monitor.execute(capabilities(true)).await?;
        let unhurried = MigrateSetParameters { max_bandwidth: Some(BANDWIDTH), ..Default::default() };
        self.monitor.execute(migrate_set_parameters(unhurried)).await?;
        let (ours, theirs) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|errno| BackendError::Keep(errno.into()))?;
        let limit = largest_state(self.memory);
        let keeping = tokio::task::spawn_blocking(move || keep(ours, file, limit));
        let written = self.write_into(theirs, within).await;
        // Order matters: whatever became of it, QEMU has let go of the pipe by now, so the keeper comes to an end.
        let kept = tokio::time::timeout(timeout::MONITOR, keeping).await;
        match (written, kept) {
            (Ok(()), Ok(Ok(Ok(bytes)))) => Ok(bytes),
            // Order matters: a pipe that nobody reads any more is an error there, too, and ours is the reason.
            (_, Ok(Ok(Err(error)))) | (Err(error), _) => Err(error),
            (Ok(()), Ok(Err(_))) => {
                Err(BackendError::Keep(io::Error::other("the thread that kept it panicked")))
            }
            (Ok(()), Err(_)) => Err(BackendError::Timeout { command: "migrate", within: timeout::MONITOR }),
        }
    }

    async fn write_into(&mut self, pipe: OwnedFd, within: Duration) -> Result<(), BackendError> {
        self.monitor.execute_with(qmp::getfd { fdname: PIPE.to_owned() }, pipe).await?;
        self.monitor.forget_migrations();
        let written = match self.migrate(format!("fd:{PIPE}")).await {
            Ok(()) => self.migration_completed("saved", within).await,
            refused => refused,
        };
        if written.is_err() {
            self.let_go().await;
        }
        written
    }

    /// After a failure, or when nobody waits any more: nothing of a migration goes on, and nobody holds the pipe.
    pub(super) async fn let_go(&mut self) {
        // Each is refused when there is nothing to end, which is as good.
        let cancelled = self.monitor.execute(qmp::migrate_cancel {}).await;
        let closed = self.monitor.execute(qmp::closefd { fdname: PIPE.to_owned() }).await;
        tracing::debug!(?cancelled, ?closed, "a state that was not saved");
        let status = self.monitor.execute(qmp::query_migrate {}).await.ok().and_then(|info| info.status);
        if status.is_some_and(|status| !is_terminal(status) && status != MigrationStatus::none) {
            let ended = self.monitor.migrated(timeout::CONTROL).await;
            tracing::debug!(?ended, "a state that is not saved any more");
        }
    }

    /// A machine that was saved and did not go on is not saved again by QEMU ("paused due to previous migration"), until
    /// it has run. It is let run, and stopped at once.
    async fn leave_postmigrate(&mut self) -> Result<(), BackendError> {
        let status = self.monitor.execute(qmp::query_status {}).await?.status;
        if status == RunState::postmigrate {
            let going = self.monitor.submit(qmp::cont {})?;
            let stopped = self.monitor.submit(qmp::stop {})?;
            going.answer().await?;
            stopped.answer().await?;
        }
        Ok(())
    }

    async fn migrate(&mut self, uri: String) -> Result<(), BackendError> {
        let migrate = qmp::migrate { uri: Some(uri), channels: None, detach: None, resume: None };
        self.monitor.execute(migrate).await.map(drop)
    }

    async fn migration_completed(
        &mut self,
        verb: &'static str,
        patience: Duration,
    ) -> Result<(), BackendError> {
        match self.monitor.migrated(patience).await? {
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

/// What a machine with so much memory writes at most, in bytes.
fn largest_state(memory: u64) -> u64 {
    memory.saturating_add(memory / ADDRESSES).saturating_add(DEVICES)
}

/// Keeps what comes out of the pipe until its end. When it returns nobody reads the pipe any more.
fn keep(pipe: OwnedFd, mut file: File, limit: u64) -> Result<u64, BackendError> {
    let mut pipe = File::from(pipe).take(limit.saturating_add(1));
    let bytes = io::copy(&mut pipe, &mut file).map_err(BackendError::Keep)?;
    if bytes > limit { Err(BackendError::TooMuch { limit }) } else { Ok(bytes) }
}

/// What is memory in a file of its own is in the stream, too, or not; every change of a migration's status is told.
fn capabilities(with_memory: bool) -> migrate_set_capabilities {
    let set = |capability, state| MigrationCapabilityStatus { capability, state };
    migrate_set_capabilities {
        capabilities: vec![
            set(MigrationCapability::x_ignore_shared, !with_memory),
            set(MigrationCapability::events, true),
        ],
    }
}

fn set_uri(set: i64) -> String {
    format!("file:/dev/fdset/{set}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn what_is_kept_has_a_limit_and_an_end() {
        let root = tempfile::tempdir().unwrap();
        let kept = |bytes: usize, limit| {
            let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC).unwrap();
            let writer = std::thread::spawn(move || File::from(theirs).write_all(&vec![7; bytes]));
            let path = root.path().join("state");
            let kept = keep(ours, File::create(&path).unwrap(), limit);
            // One that writes more than is kept is told by its pipe.
            let _ = writer.join().unwrap();
            (kept, std::fs::metadata(&path).unwrap().len())
        };
        assert!(matches!(kept(200_000, 200_000), (Ok(200_000), 200_000)));
        let (refused, length) = kept(400_000, 200_000);
        assert!(matches!(refused, Err(BackendError::TooMuch { limit: 200_000 })), "{refused:?}");
        assert_eq!(length, 200_001);
    }

    #[test]
    fn there_is_room_for_every_page_with_its_address() {
        let memory = 1 << 30;
        assert!(largest_state(memory) - memory > memory / 4096 * 9);
        assert_eq!(largest_state(u64::MAX), u64::MAX);
    }
}
