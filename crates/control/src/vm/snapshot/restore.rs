//! Restores a VM: a start that goes on from a snapshot, and never a boot in its place.
//!
//! Everything that can be known is known before anything is made, and before anything that lives is killed for it: the
//! snapshot is this VM's, the machine that would be started is the one that was saved, every byte is what it was, and
//! there is room for the disk.

use super::differ::differences;
use super::error::SnapshotError;
use super::look::{damaged, existing, manifest_to_restore};
use super::part;
use super::shelf::Shelf;
use crate::accelerator::AcceleratorChoice;
use crate::error::Error;
use crate::evidence;
use crate::incarnation::{self, Made};
use crate::notice::{Notice, Notify};
use crate::site::Site;
use crate::vm::error::VmError;
use crate::vm::find::{find_for_sure, reread};
use crate::vm::list::started_view;
use crate::vm::start::{Footing, await_start, bring_up, footing, write_down};
use crate::vm::stop::{StopRequest, stop};
use outlast_machine::host;
use outlast_machine::image::Lease as Lock;
use outlast_model::limit::DISK_RESERVE;
use outlast_model::{IncarnationId, SnapshotName, timeout};
use outlast_store::{StartNote, VmRow};
use outlast_wire::intent::Start;
use outlast_wire::vm_snapshot_view::VmRestoredView;

/// What a restore means for a VM that lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfLiving {
    /// Nothing: it is refused.
    Refuse,
    /// It is killed first, as by a stop with force.
    Kill,
}

/// Starts a VM from a snapshot of it, and waits until it runs.
///
/// # Errors
/// [`SnapshotError::NotFound`], [`SnapshotError::Damaged`] with the part, [`SnapshotError::Foreign`],
/// [`SnapshotError::Mismatch`] with what differs, [`VmError::WrongState`] when it lives and is not to be killed: nothing
/// was done then. [`VmError::StartFailed`] with step and cause when it did not start: it has the disk that it had.
pub fn restore(
    site: &Site,
    vm: &str,
    snapshot: &str,
    of_living: OfLiving,
    notify: Notify<'_>,
) -> Result<VmRestoredView, Error> {
    let vm = find_for_sure(site, vm)?;
    if vm.removal_requested_unix_ns.is_some() {
        return Err(VmError::BeingRemoved { name: vm.name.to_string() }.into());
    }
    let shelf = Shelf::of(site, vm.id);
    let name = existing(&shelf, &vm, snapshot).map_err(VmError::from)?;
    if vm.state.is_living() && of_living == OfLiving::Refuse {
        return Err(lives(&vm));
    }
    site.require_namespaces()?;
    let incarnation = incarnation::new_id()?;
    let (made, locks) = ready(site, &vm, (&shelf, &name), incarnation, notify)?;
    if vm.state.is_living() {
        stop(site, vm.name.as_str(), StopRequest { force: true, ..StopRequest::default() })?;
    }
    match write_down(site, &vm, incarnation, made)? {
        StartNote::New => {}
        StartNote::AlreadyLiving { .. } => return Err(lives(&reread(site, vm.id)?)),
    }
    bring_up(site, incarnation, &locks)?;
    evidence::retain(site);
    let row = await_start(site, &vm, incarnation)?;
    Ok(VmRestoredView { started: started_view(&vm, &row, false), restored_from: name.to_string() })
}

fn lives(vm: &VmRow) -> Error {
    let so = ": it is restored once it is stopped, or with --force";
    VmError::WrongState { name: vm.name.to_string(), state: vm.state, so }.into()
}

/// Everything the runner needs, checked.
fn ready(
    site: &Site,
    vm: &VmRow,
    (shelf, name): (&Shelf, &SnapshotName),
    incarnation: IncarnationId,
    notify: Notify<'_>,
) -> Result<(Made, Vec<Lock>), Error> {
    let manifest = manifest_to_restore(shelf, vm, name).map_err(VmError::from)?;
    // Never one that does not work here: that it is another one than the snapshot's is found below.
    let accelerator = match manifest.machine.accelerator.as_str() {
        "tcg" => AcceleratorChoice::Tcg,
        _ => AcceleratorChoice::Auto,
    };
    let disk = site.places().vm(vm.id).disk_of(Some(incarnation));
    let Footing { ground, machine, purpose, ingredients } = footing(site, vm, disk, accelerator, notify)?;
    let differences = differences(&manifest.machine, &ingredients);
    if !differences.is_empty() {
        let (vm, name) = (vm.name.to_string(), name.to_string());
        return Err(VmError::from(SnapshotError::Mismatch { vm, name, differences }).into());
    }
    let directory = shelf.directory(name);
    check_space(site, &directory.disk())?;
    notify(Notice::HashingSnapshot { vm: vm.name.as_str() });
    let read = part::read_through(&directory, &manifest);
    notify(Notice::Done);
    let bytes = read.map_err(|found| VmError::from(damaged(vm, name, found)))?;
    let start = Start::Restore {
        snapshot: manifest.id.to_string(),
        name: name.to_string(),
        directory: directory.path().to_owned(),
    };
    // As long as a boot, and as much more as reading so much takes.
    let boot_timeout = timeout::BOOT + timeout::of_state(bytes).saturating_sub(timeout::STATE);
    let locks = ground.locks();
    Ok((
        Made { purpose, machine, start, boot_timeout, fell_back: None, ingredients: Some(ingredients) },
        locks,
    ))
}

/// The disk is copied, and the one that it replaces stays until the copy runs.
fn check_space(site: &Site, disk: &std::path::Path) -> Result<(), Error> {
    let found = disk.metadata();
    let found = found.map_err(|error| VmError::from(super::shelf::failed("look at", disk)(error)))?;
    let (bytes, home) = (host::bytes_on_disk(&found), site.places().home());
    let (free, needed) = (host::disk_free(home)?, bytes.saturating_add(DISK_RESERVE));
    if free < needed {
        let what = format!("a copy of its disk of {} MiB", bytes.div_ceil(1 << 20));
        let path = home.to_owned();
        return Err(VmError::from(SnapshotError::TooLittleSpace { path, free, needed, what }).into());
    }
    Ok(())
}
