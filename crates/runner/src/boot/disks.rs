//! Disks: every file the VMM will read is there, and held with a shared lock so that nobody removes the
//! image it belongs to while this incarnation lives.
//!
//! What belongs to another user's library is held by its manifest: its directory can be passed through and not opened, so
//! that nobody but its owner can lock others out of it.
//!
//! What the files hold was verified by whoever chose them; here they are only opened. One thing is made, when a VM is
//! restored: the snapshot's disk is copied to a file that has this incarnation's name, and is the VM's disk from the
//! publication on. Before that it is removed again; after it, the one that the VM had before is.

use super::{Core, Presence, Stumble, chain};
use crate::copying::Copying;
use outlast_machine::backend::Backend;
use outlast_wire::intent::{Machine, Purpose, Start};
use outlast_wire::paths::{SnapshotDirectory, VmDirectory};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// What a visitor locks of an image or VMM root.
const MANIFEST: &str = "manifest.json";

pub(super) async fn make<B: Backend>(core: &mut Core<B>) -> Result<(), Stumble> {
    let leases: Result<Vec<_>, _> =
        directories(&core.intent.machine, &core.intent.start).iter().map(|d| lease(d)).collect();
    core.leases = leases?;
    files(&core.intent.machine).iter().try_for_each(|file| readable(file))?;
    let Start::Restore { directory, .. } = &core.intent.start else { return Ok(()) };
    let from = SnapshotDirectory::at(directory.clone()).disk();
    let to = restored_disk(core).ok_or_else(|| Stumble::Failed("there is no disk to restore".to_owned()))?;
    core.copying
        .insert(Copying::begin(from, to, true))
        .done()
        .await
        .map(drop)
        .map_err(|said| Stumble::Failed(format!("cannot restore the disk: {said}")))
}

/// The disk that is this incarnation's to make, if it is one that restores. That no other is, its name says.
fn restored_disk<B: Backend>(core: &Core<B>) -> Option<PathBuf> {
    let (Start::Restore { .. }, Some(scratch)) = (&core.intent.start, &core.intent.machine.scratch) else {
        return None;
    };
    let name = scratch.path.file_name()?.to_str()?;
    (VmDirectory::disk_named(name) == Some(Some(core.id))).then(|| scratch.path.clone())
}

/// Removes the disks that are the VM's no more, now that this incarnation's is. What cannot be removed now is found by its
/// name by whoever reconciles.
pub(super) fn remove_former<B: Backend>(core: &Core<B>) {
    let Some(disk) = restored_disk(core) else { return };
    let Some(entries) = disk.parent().map(std::fs::read_dir) else { return };
    for entry in entries.into_iter().flatten().flatten() {
        let of = entry.file_name().to_str().and_then(VmDirectory::disk_named);
        if of.is_some_and(|of| of != Some(core.id)) {
            if let Err(error) = std::fs::remove_file(entry.path()) {
                tracing::warn!(%error, path = %entry.path().display(), "the VM's former disk stays");
            }
        }
    }
}

/// The directories whose contents this incarnation uses.
fn directories(machine: &Machine, start: &Start) -> BTreeSet<PathBuf> {
    let mut directories: BTreeSet<_> =
        files(machine).iter().filter_map(|f| f.parent().map(Path::to_path_buf)).collect();
    // The tree itself can be opened by everybody who runs it, and so locked by anybody.
    directories.insert(machine.vmm_root.parent().unwrap_or(&machine.vmm_root).to_owned());
    match start {
        Start::Clone { template: directory, .. } | Start::Restore { directory, .. } => {
            directories.insert(directory.clone());
        }
        Start::Boot => {}
    }
    directories
}

fn files(machine: &Machine) -> Vec<&Path> {
    let mut files = vec![machine.kernel.as_path(), machine.initramfs.as_path()];
    files.extend(machine.rootfs.as_deref());
    files
}

fn lease(directory: &Path) -> Result<OwnedFd, Stumble> {
    let open =
        |path: &Path, flags| rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | flags, Mode::empty());
    let opened = match open(directory, OFlags::DIRECTORY) {
        Err(Errno::ACCESS) => open(&directory.join(MANIFEST), OFlags::empty()),
        opened => opened,
    };
    let held = opened.and_then(|fd| {
        rustix::fs::flock(&fd, FlockOperation::NonBlockingLockShared)?;
        Ok(fd)
    });
    held.map_err(|error| Stumble::Failed(format!("cannot hold {}: {error}", directory.display())))
}

fn readable(file: &Path) -> Result<(), Stumble> {
    let opened = rustix::fs::open(file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    opened.map(drop).map_err(|error| Stumble::Failed(format!("cannot read {}: {error}", file.display())))
}

pub(super) async fn undo<B: Backend>(core: &mut Core<B>) -> Result<(), String> {
    core.leases.clear();
    if let Some(copying) = core.copying.take() {
        // Order matters: nobody writes there any more when it is removed.
        copying.abandon().await;
    }
    match restored_disk(core) {
        Some(disk) if !core.published => remove_unless_taken(core, &disk).await,
        Some(_) | None => Ok(()),
    }
}

/// A publication that was not told to us may be there all the same, and with it the VM's only disk: so it is the row that
/// says whether it is the VM's.
async fn remove_unless_taken<B: Backend>(core: &Core<B>, disk: &Path) -> Result<(), String> {
    let Purpose::Vm { vm, .. } = &core.intent.purpose else { return Ok(()) };
    let vm = vm.parse().map_err(|_| "whose disk it is cannot be told".to_owned())?;
    let row = core.ledger.call(move |store| store.vm(vm)).await.map_err(|error| chain(&error))?;
    let row = row.map_err(|error| chain(&error))?.ok_or("the VM has no row")?;
    if row.disk_of == Some(core.id) {
        return Ok(());
    }
    match std::fs::remove_file(disk) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(chain(&error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

pub(super) fn probe<B: Backend>(core: &Core<B>) -> Presence {
    let disk = restored_disk(core).filter(|_| !core.published).map(|disk| disk.try_exists());
    match (core.leases.is_empty(), disk) {
        (false, _) | (true, Some(Ok(true))) => Presence::Present,
        (true, None | Some(Ok(false))) => Presence::Absent,
        (true, Some(Err(_))) => Presence::Unknown,
    }
}
