//! Disks: every file the VMM will read is there, and held with a shared lock so that nobody removes the
//! image it belongs to while this incarnation lives.
//!
//! What belongs to another user's library is held by its manifest: its directory can be passed through and not opened, so
//! that nobody but its owner can lock others out of it.
//!
//! What the files hold was verified by whoever chose them; here they are only opened. Nothing is made, so
//! nothing is left.

use super::{Core, Presence, Stumble};
use outlast_machine::backend::Backend;
use outlast_wire::intent::{Machine, Start};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// What a visitor locks of an image or VMM root.
const MANIFEST: &str = "manifest.json";

pub(super) fn make<B: Backend>(core: &mut Core<B>) -> Result<(), Stumble> {
    let leases: Result<Vec<_>, _> =
        directories(&core.intent.machine, &core.intent.start).iter().map(|d| lease(d)).collect();
    core.leases = leases?;
    files(&core.intent.machine).iter().try_for_each(|file| readable(file))
}

/// The directories whose contents this incarnation uses.
fn directories(machine: &Machine, start: &Start) -> BTreeSet<PathBuf> {
    let mut directories: BTreeSet<_> =
        files(machine).iter().filter_map(|f| f.parent().map(Path::to_path_buf)).collect();
    // The tree itself can be opened by everybody who runs it, and so locked by anybody.
    directories.insert(machine.vmm_root.parent().unwrap_or(&machine.vmm_root).to_owned());
    if let Start::Clone { template, .. } = start {
        directories.insert(template.clone());
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

#[expect(clippy::unnecessary_wraps, reason = "one shape for the undo of every step")]
pub(super) fn undo<B: Backend>(core: &mut Core<B>) -> Result<(), String> {
    core.leases.clear();
    Ok(())
}

pub(super) fn probe<B: Backend>(core: &Core<B>) -> Presence {
    if core.leases.is_empty() { Presence::Absent } else { Presence::Present }
}
