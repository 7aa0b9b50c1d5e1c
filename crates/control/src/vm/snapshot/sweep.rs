//! What is left of snapshots and restores whose makers died, and its removal.
//!
//! A disk belongs to nobody when the VM's row names another one and no incarnation that lives is about to make it the
//! VM's. A restore that was cut off before its publication leaves its copy so, one that was cut off after it the disk that
//! it replaced.

use super::shelf::Shelf;
use crate::site::Site;
use outlast_machine::disk;
use outlast_model::{IncarnationId, VmId};
use outlast_store::{StoreError, VmRow};
use outlast_wire::paths::VmDirectory;
use std::path::PathBuf;

/// Removes what is left of one VM. What cannot be removed stays visible to `doctor`.
pub(crate) fn sweep(site: &Site, vm: VmId) {
    Shelf::of(site, vm).sweep();
    match disks(site, vm) {
        Ok(disks) => disks.iter().for_each(|path| {
            if let Err(error) = disk::remove(path) {
                tracing::warn!(%error, "a disk that belongs to nobody stays");
            }
        }),
        Err(error) => tracing::warn!(%error, %vm, "it cannot be told which disk is a VM's"),
    }
}

/// The same, told: a word for what it is, and where it lies.
///
/// # Errors
/// Those of the store.
pub(crate) fn left(site: &Site, vm: VmId) -> Result<Vec<(&'static str, PathBuf)>, StoreError> {
    let snapshots = Shelf::of(site, vm).half_made().into_iter().map(|path| ("snapshot", path));
    Ok(snapshots.chain(disks(site, vm)?.into_iter().map(|path| ("disk", path))).collect())
}

/// The disks in a VM's directory that belong to nobody.
fn disks(site: &Site, vm: VmId) -> Result<Vec<PathBuf>, StoreError> {
    let directory = site.places().vm(vm);
    // Order matters: listed first. Who makes a disk has a row before, and the row is read after.
    let there = names(&directory);
    // The usual case costs no question to the store.
    if there.len() < 2 {
        return Ok(Vec::new());
    }
    let Ok(Some(store)) = site.existing_store() else { return Ok(Vec::new()) };
    let Some(row) = store.vm(vm)? else { return Ok(Vec::new()) };
    let stray = there.into_iter().filter(|of| !is_needed(&row, *of));
    Ok(stray.map(|of| directory.disk_of(of)).collect())
}

/// Whether the disk that this incarnation restored, or the one that the VM was made with, is its disk or may become it.
fn is_needed(row: &VmRow, restored_by: Option<IncarnationId>) -> bool {
    let is_becoming = row.state.is_living() && restored_by.is_some() && restored_by == row.incarnation;
    row.disk_of == restored_by || is_becoming
}

fn names(directory: &VmDirectory) -> Vec<Option<IncarnationId>> {
    let Ok(entries) = std::fs::read_dir(directory.path()) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| VmDirectory::disk_named(&name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlast_model::VmState;

    #[test]
    fn a_disk_is_needed_by_the_row_that_names_it_and_by_the_restore_that_lives() {
        let id = |number| IncarnationId::from_parts(1, number);
        let row = |state, disk_of, incarnation| {
            let (_top, _site, made) = crate::vm::testing::site_of_web();
            VmRow { state, disk_of, incarnation, ..made }
        };
        let stopped = row(VmState::Stopped, None, Some(id(1)));
        assert!(is_needed(&stopped, None) && !is_needed(&stopped, Some(id(1))));
        let restoring = row(VmState::Starting, None, Some(id(2)));
        assert!(is_needed(&restoring, None) && is_needed(&restoring, Some(id(2))));
        assert!(!is_needed(&restoring, Some(id(1))), "of an earlier restore");
        let restored = row(VmState::Running, Some(id(2)), Some(id(2)));
        assert!(is_needed(&restored, Some(id(2))) && !is_needed(&restored, None));
        let failed = row(VmState::Failed, Some(id(2)), Some(id(3)));
        assert!(is_needed(&failed, Some(id(2))) && !is_needed(&failed, Some(id(3))));
    }
}
