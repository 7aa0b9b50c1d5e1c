//! Takes a snapshot: the VM's runner writes machine and disk, what they are is written down here, and then it has its
//! name.
//!
//! ```text
//!   name free? room? ─► .new-ID (locked) ─► the runner's socket ─► machine, disk (synced) ─► hashes ─► manifest ─► NAME
//!                                             │ refused, dead                                              (by rename)
//!                                             └─► .new-ID goes, and the VM is what it was
//! ```
//!
//! Whoever dies before the rename leaves what the next one who looks removes. Nobody is told of a snapshot that has not
//! got its name on the disk.

use super::error::{Damage, Part, SnapshotError};
use super::look::view_of;
use super::part;
use super::shelf::{Making, Publication, Shelf, failed};
use crate::clock;
use crate::error::Error;
use crate::notice::{Notice, Notify};
use crate::runner_link::LinkError;
use crate::site::{Site, SiteError};
use crate::vm::error::VmError;
use crate::vm::living::{Living, living};
use outlast_machine::digest::sha256_bytes;
use outlast_machine::host;
use outlast_model::limit::DISK_RESERVE;
use outlast_model::{SnapshotId, SnapshotName, timeout};
use outlast_wire::control::{Answer, GENERATION_OF_SNAPSHOTS, Request};
use outlast_wire::snapshot::SnapshotManifest;
use outlast_wire::template::TemplateIngredients;
use outlast_wire::vm_snapshot_view::VmSnapshotView;

/// Takes a snapshot of a VM that runs or is paused; it is that again afterwards.
///
/// # Errors
/// [`SnapshotError::Exists`], [`SnapshotError::TooLittleSpace`] before anything is made; [`VmError::NotRunning`] when
/// nothing of it lives, or ends meanwhile; [`VmError::Refused`] when its runner could not. Nothing is left of it then.
pub fn take(site: &Site, vm: &str, snapshot: &str, notify: Notify<'_>) -> Result<VmSnapshotView, Error> {
    let name: SnapshotName = snapshot.parse().map_err(SnapshotError::from).map_err(VmError::from)?;
    let living = living(site, vm)?;
    if living.vm.removal_requested_unix_ns.is_some() {
        return Err(VmError::BeingRemoved { name: living.name() }.into());
    }
    let shelf = Shelf::of(site, living.vm.id);
    if shelf.has(&name) {
        return Err(VmError::from(exists(&living, &name)).into());
    }
    let machine = ingredients(&living).map_err(VmError::from)?;
    let state_bytes = check_space(site, &living)?;
    let id = clock::new_snapshot_id().map_err(SiteError::Random)?;
    let making = shelf.begin(id).map_err(VmError::from)?;
    notify(Notice::TakingSnapshot { vm });
    let wanted = Wanted { id, name, machine, state_bytes };
    let taken = fill(site, &living, &making, wanted, notify);
    notify(Notice::Done);
    match taken {
        Ok((manifest, paused_us)) => Ok(VmSnapshotView {
            vm: living.vm.id.to_string(),
            vm_name: living.name(),
            incarnation: living.row.id.to_string(),
            snapshot: view_of(&shelf, &manifest.name, Ok(&manifest)),
            paused_us,
        }),
        Err(error) => {
            making.discard();
            Err(error)
        }
    }
}

/// What is to be taken.
struct Wanted {
    id: SnapshotId,
    name: SnapshotName,
    machine: TemplateIngredients,
    /// Memory and disk, in bytes.
    state_bytes: u64,
}

/// Has it made, and gives it its name; with how long the vCPUs stood still, in microseconds.
fn fill(
    site: &Site,
    living: &Living,
    making: &Making,
    wanted: Wanted,
    notify: Notify<'_>,
) -> Result<(SnapshotManifest, u64), Error> {
    let taken_unix_ns = clock::unix_ns();
    let paused_us = ask(site, living, making, wanted.state_bytes)?;
    notify(Notice::HashingSnapshot { vm: living.vm.name.as_str() });
    let directory = making.directory();
    let describe =
        |part: Part, path| part::measure(path).map_err(|damage| damaged(living, &wanted.name, part, damage));
    let manifest = SnapshotManifest {
        id: wanted.id,
        machine_part: describe(Part::Machine, &directory.machine())?,
        disk_part: describe(Part::Disk, &directory.disk())?,
        name: wanted.name.clone(),
        vm: living.vm.id,
        taken_unix_ns,
        spec: living.vm.spec.clone(),
        machine: wanted.machine,
    };
    let text = manifest.encode(sha256_bytes);
    let text = text.map_err(|error| damaged(living, &manifest.name, Part::Manifest, error.into()))?;
    let path = directory.manifest();
    part::write_manifest(&path, &text).map_err(|error| VmError::from(failed("write", &path)(error)))?;
    match making.publish(&manifest.name).map_err(VmError::from)? {
        Publication::Done => Ok((manifest, paused_us)),
        Publication::Taken => Err(VmError::from(exists(living, &manifest.name)).into()),
        Publication::Vanished => {
            let (vm, name) = (living.name(), manifest.name.to_string());
            Err(VmError::from(SnapshotError::RemovedMeanwhile { vm, name }).into())
        }
    }
}

/// Asks the runner. That the parts are as long as it says is not the same as that they are whole, and is what can be
/// compared with somebody else's word.
fn ask(site: &Site, living: &Living, making: &Making, state_bytes: u64) -> Result<u64, Error> {
    let directory = making.directory();
    let request = Request::Snapshot { directory: directory.path().to_owned() };
    let within = timeout::of_state(state_bytes) + timeout::VM_REQUEST + timeout::CONTROL;
    let link = living.connect(site).and_then(|link| link.of_generation(GENERATION_OF_SNAPSHOTS));
    match link.and_then(|mut link| link.ask(&request, within)) {
        Ok(Answer::Snapshotted { paused_us, machine_bytes, disk_bytes }) => {
            for (part, path, expected) in [
                (Part::Machine, directory.machine(), machine_bytes),
                (Part::Disk, directory.disk(), disk_bytes),
            ] {
                let found =
                    path.metadata().map_err(|error| VmError::from(failed("look at", &path)(error)))?.len();
                if found != expected {
                    let damage = Damage::Length { found, expected };
                    return Err(VmError::Snapshot(SnapshotError::Damaged {
                        vm: living.name(),
                        name: directory.path().display().to_string(),
                        part,
                        source: damage,
                    })
                    .into());
                }
            }
            Ok(paused_us)
        }
        Ok(_) => living.explained(site, LinkError::Unexpected),
        Err(error) => living.explained(site, error),
    }
}

/// What the machine that runs was made of when it was started, which may be long ago.
fn ingredients(living: &Living) -> Result<TemplateIngredients, SnapshotError> {
    let ingredients = living.row.intent.ingredients.as_deref();
    let ingredients = ingredients.ok_or_else(|| SnapshotError::Unknown { vm: living.name() })?;
    Ok(ingredients.clone())
}

/// Looks whether all of it fits at the worst: every page of the memory, and what the disk takes on the host.
fn check_space(site: &Site, living: &Living) -> Result<u64, Error> {
    let disk = site.places().vm(living.vm.id).disk_of(living.vm.disk_of);
    let found = disk.metadata().map_err(|error| VmError::from(failed("look at", &disk)(error)))?;
    let allocated = host::bytes_on_disk(&found);
    let memory = living.vm.spec.memory().bytes();
    let (state, home) = (memory.saturating_add(allocated), site.places().home());
    let (free, needed) = (host::disk_free(home)?, state.saturating_add(DISK_RESERVE));
    if free < needed {
        let what =
            format!("memory of {} MiB and a disk of {} MiB", memory >> 20, allocated.div_ceil(1 << 20));
        let path = home.to_owned();
        return Err(VmError::from(SnapshotError::TooLittleSpace { path, free, needed, what }).into());
    }
    Ok(state)
}

fn exists(living: &Living, name: &SnapshotName) -> SnapshotError {
    SnapshotError::Exists { vm: living.name(), name: name.to_string() }
}

fn damaged(living: &Living, name: &SnapshotName, part: Part, source: Damage) -> VmError {
    SnapshotError::Damaged { vm: living.name(), name: name.to_string(), part, source }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::testing::site_of_web;
    use outlast_wire::exit_code::FailureKind;

    #[test]
    fn what_cannot_be_taken_is_refused_before_anything_is_made() {
        let (_top, site, vm) = site_of_web();
        let refused = |vm: &str, name: &str| take(&site, vm, name, &mut |_| {}).unwrap_err();
        assert_eq!(refused("web", "Before").kind(), FailureKind::BadInput);
        assert_eq!(refused("wbe", "before").kind(), FailureKind::NotFound);
        let error = refused("web", "before");
        assert_eq!(error.kind(), FailureKind::Conflict);
        assert_eq!(error.to_string(), "web is not running (it was never started)");
        assert!(!site.places().vm(vm.id).snapshots().exists());
    }
}
