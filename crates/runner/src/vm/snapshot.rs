//! Taking a snapshot: the disk, the devices and the memory of one moment, in a directory that somebody else names.
//!
//! ```text
//!   room? ─► programs stand still, all that was said is heard ─► vCPUs stop ─► disk copied ─► devices, memory saved
//!                                                                                                    │
//!                  synced ◄─ programs go on ◄─ certified anew ◄─ vCPUs run ◄─────────────────────────┘ or failed
//! ```
//!
//! A VM that was paused is taken as it stands, and stays paused. Whatever fails in between, one that ran runs on: the
//! snapshot is what failed. A stop that is asked for meanwhile wins. The disk is copied first, and memory saved last,
//! because only that changes what QEMU takes the machine for; both see the same moment, for nothing runs in between.

use super::ask::{Asks, Taken};
use super::pause::{Cut, freeze, go_on};
use crate::boot::{Core, chain};
use crate::copying::Copying;
use crate::event::Sources;
use outlast_machine::backend::{Backend, BackendError};
use outlast_machine::disk::{self, DiskError};
use outlast_machine::host::{self, HostError};
use outlast_model::timeout;
use outlast_wire::guest::{HostMessage, Thaw};
use outlast_wire::journal::JournalEntry;
use outlast_wire::paths::SnapshotDirectory;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;
use tokio::time::Instant;

/// Why no snapshot came of it.
#[derive(Debug, Error)]
enum SnapshotError {
    /// The client named something that is no directory to write into.
    #[error("{path} is no directory that a snapshot can be written to")]
    NoDirectory {
        /// What it named.
        path: PathBuf,
    },
    /// It might not fit.
    #[error(
        "a snapshot may take {needed} bytes ({memory} of memory, {disk} of the disk), and {path} has {free} bytes free"
    )]
    TooLittleSpace {
        /// Where.
        path: PathBuf,
        /// Bytes free there.
        free: u64,
        /// Both parts together.
        needed: u64,
        /// The machine's memory.
        memory: u64,
        /// What the disk takes now.
        disk: u64,
    },
    /// How much is free cannot be told.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A file could not be made.
    #[error("cannot make {path}")]
    Make {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The copy of the disk, in the words of whoever made it.
    #[error("the disk could not be copied: {0}")]
    Copy(String),
    /// A part took longer than a disk that is not broken takes.
    #[error("{what} took longer than {} s", limit.as_secs())]
    TooSlow {
        /// Which part.
        what: &'static str,
        /// The deadline.
        limit: Duration,
    },
    /// The agent did not say that no program runs and that it has heard everything.
    #[error("the guest does not stand still: {0}")]
    Agent(String),
    /// The boot left out a part.
    #[error("there is no {0}")]
    Missing(&'static str),
    /// The VMM.
    #[error(transparent)]
    Vmm(#[from] BackendError),
    /// The thread that syncs.
    #[error("the thread that synced it panicked")]
    Sync,
}

/// Where to and from, checked.
struct Plan {
    directory: SnapshotDirectory,
    disk: PathBuf,
    /// What the disk takes, in bytes.
    allocated: u64,
    /// The machine's memory, in bytes.
    memory: u64,
}

/// Takes one. The inner error is for whoever asked; the VM is what it was then.
pub(super) async fn take<B: Backend>(
    core: &mut Core<B>,
    (sources, asks): (&mut Sources, &mut Asks),
    directory: &Path,
) -> Result<Result<Taken, String>, Cut> {
    note(core, "began", Some(directory.display().to_string()));
    let taken = attempt(core, (sources, asks), directory).await?;
    Ok(taken.map_err(|error| {
        let said = chain(&error);
        note(core, "failed", Some(said.clone()));
        said
    }))
}

async fn attempt<B: Backend>(
    core: &mut Core<B>,
    (sources, asks): (&mut Sources, &mut Asks),
    directory: &Path,
) -> Result<Result<Taken, SnapshotError>, Cut> {
    let plan = match Plan::check(core, directory) {
        Ok(plan) => plan,
        Err(error) => return Ok(Err(error)),
    };
    let since = match unless_cut((sources, asks), stand_still(core)).await? {
        Ok(since) => since,
        // It was told to stand still, and may do so although its answer did not come.
        Err(error) if core.paused => return go_on(core, sources, Instant::now()).await.map(|_| Err(error)),
        Err(error) => return Ok(Err(error)),
    };
    note(core, "stopped", None);
    let saved = match unless_cut((sources, asks), plan.save(core)).await {
        Ok(saved) => saved,
        Err(cut) => {
            abandon(core, &cut).await;
            return Err(cut);
        }
    };
    let paused = match since {
        Some(since) => {
            let paused = go_on(core, sources, since).await?;
            note(core, "resumed", None);
            paused
        }
        None => Duration::ZERO,
    };
    let (machine_bytes, disk_bytes) = match saved {
        Ok(lengths) => lengths,
        Err(error) => return Ok(Err(error)),
    };
    if let Err(error) = unless_cut((sources, asks), plan.sync(machine_bytes)).await? {
        return Ok(Err(error));
    }
    note(core, "synced", None);
    Ok(Ok(Taken { paused, machine_bytes, disk_bytes }))
}

/// Does it unless something happens that means the VM's end, or somebody wants it stopped.
async fn unless_cut<T>(
    (sources, asks): (&mut Sources, &mut Asks),
    work: impl Future<Output = T>,
) -> Result<T, Cut> {
    tokio::select! {
        biased;
        interrupt = sources.next() => Err(Cut::Interrupt(interrupt)),
        (order, reply) = asks.stop() => {
            let _ = reply.send(Ok(()));
            Err(Cut::Stop(order))
        }
        done = work => Ok(done),
    }
}

/// Stops the vCPUs when no program runs any more and the agent has heard all that was said to it: half a message in its
/// memory would wait for the other half after a restore. Since when they stand still; `None` when they did before.
async fn stand_still<B: Backend>(core: &mut Core<B>) -> Result<Option<Instant>, SnapshotError> {
    if core.paused {
        return Ok(None);
    }
    if let Err(error) = freeze(core).await {
        let said = chain(&error);
        thaw_unheard(core);
        return Err(SnapshotError::Agent(said));
    }
    let vmm = core.vmm.as_mut().ok_or(SnapshotError::Missing("VMM"))?;
    // Order matters: the command may be carried out although its answer does not come.
    core.paused = true;
    let since = Instant::now();
    vmm.pause().await?;
    Ok(Some(since))
}

/// Programs that stand still although the agent did not say so in time go on when it comes to that.
fn thaw_unheard<B: Backend>(core: &mut Core<B>) {
    if let Some(link) = core.link.as_mut().filter(|_| core.frozen) {
        let stream = link.open_stream();
        // A link that takes nothing any more is noticed by whoever listens to it.
        let _ = link.queue(stream, HostMessage::Thaw(Thaw {}));
    }
    core.frozen = false;
}

/// What was begun is ended, so that the guest can be let run for its last moments. Force does not wait for that.
async fn abandon<B: Backend>(core: &mut Core<B>, cut: &Cut) {
    let forced = matches!(cut, Cut::Stop(order) if order.force);
    if let Some(vmm) = core.vmm.as_mut().filter(|_| !forced) {
        if tokio::time::timeout(timeout::CONTROL, vmm.abandon_save()).await.is_err() {
            tracing::debug!("the VMM does not say that it has given its state up");
        }
    }
    note(core, "failed", Some(cut.told()));
}

impl Plan {
    fn check<B: Backend>(core: &Core<B>, path: &Path) -> Result<Self, SnapshotError> {
        if !path.is_absolute() || !fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
            return Err(SnapshotError::NoDirectory { path: path.to_owned() });
        }
        let machine = &core.intent.machine;
        let scratch = machine.scratch.as_ref().ok_or(SnapshotError::Missing("disk"))?;
        let (memory, allocated) = (machine.memory, disk::allocated(&scratch.path)?);
        let (needed, free) = (memory.saturating_add(allocated), host::disk_free(path)?);
        if free < needed {
            let path = path.to_owned();
            return Err(SnapshotError::TooLittleSpace { path, free, needed, memory, disk: allocated });
        }
        let directory = SnapshotDirectory::at(path.to_owned());
        Ok(Self { directory, disk: scratch.path.clone(), allocated, memory })
    }

    /// Copies the disk and saves the rest: their lengths, in bytes.
    async fn save<B: Backend>(&self, core: &mut Core<B>) -> Result<(u64, u64), SnapshotError> {
        let disk_bytes = self.copy_disk().await?;
        note(core, "copied", None);
        let file = make(self.directory.machine())?;
        let vmm = core.vmm.as_mut().ok_or(SnapshotError::Missing("VMM"))?;
        let machine_bytes = vmm.save_whole(file, timeout::of_state(self.memory)).await?;
        note(core, "saved", None);
        Ok((machine_bytes, disk_bytes))
    }

    async fn copy_disk(&self) -> Result<u64, SnapshotError> {
        let limit = timeout::of_state(self.allocated);
        // Dropped, because this was cut short, it is given up.
        let mut copying = Copying::begin(self.disk.clone(), self.directory.disk(), false);
        match tokio::time::timeout(limit, copying.done()).await {
            Ok(copied) => copied.map(|copied| copied.bytes).map_err(SnapshotError::Copy),
            Err(_) => Err(SnapshotError::TooSlow { what: "the copy of the disk", limit }),
        }
    }

    /// Puts both parts on the disk for good, while the VM runs again.
    async fn sync(&self, machine_bytes: u64) -> Result<(), SnapshotError> {
        let limit = timeout::of_state(machine_bytes.saturating_add(self.allocated));
        let parts = [self.directory.machine(), self.directory.disk()];
        let syncing = tokio::task::spawn_blocking(move || parts.iter().try_for_each(|part| disk::sync(part)));
        match tokio::time::timeout(limit, syncing).await {
            Ok(synced) => Ok(synced.map_err(|_| SnapshotError::Sync)??),
            Err(_) => Err(SnapshotError::TooSlow { what: "syncing it", limit }),
        }
    }
}

/// A file that is not there yet, for its owner alone.
fn make(path: PathBuf) -> Result<File, SnapshotError> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    made.map_err(|source| SnapshotError::Make { path, source })
}

fn note<B: Backend>(core: &mut Core<B>, phase: &str, detail: Option<String>) {
    core.journal.note(JournalEntry::Snapshot { phase: phase.to_owned(), detail });
}
