//! Lists, verifies and removes snapshots, and reads one for whoever wants to restore it.

use super::error::{Damage, Part, SnapshotError};
use super::part::{self, Damaged};
use super::shelf::{Shelf, bytes_in};
use crate::clock;
use crate::error::{Error, chain};
use crate::site::{Site, SiteError};
use crate::vm::error::VmError;
use crate::vm::find::{find, find_for_sure};
use outlast_model::near::near;
use outlast_model::{SnapshotName, VmId, VmState};
use outlast_store::VmRow;
use outlast_wire::snapshot::SnapshotManifest;
use outlast_wire::vm_snapshot_view::{SnapshotRemovedView, SnapshotVerifiedView, SnapshotView};

/// So many names that may have been meant are told.
const NEAR: usize = 3;
/// Of a name that is none, so much is repeated.
const SHOWN: usize = 70;

/// The snapshots of a VM, newest first; those that are seen to be damaged last.
///
/// # Errors
/// [`VmError::NotFound`], and what keeps them from being listed.
pub fn list(site: &Site, vm: &str) -> Result<Vec<SnapshotView>, Error> {
    let vm = find(site, vm)?;
    Ok(views(site, vm.id).map_err(VmError::from)?)
}

/// The same of a VM by its id.
pub(in crate::vm) fn views(site: &Site, vm: VmId) -> Result<Vec<SnapshotView>, SnapshotError> {
    let shelf = Shelf::of(site, vm);
    let mut views: Vec<SnapshotView> = Vec::new();
    for name in shelf.names()? {
        let manifest = manifest_of(&shelf, vm, &name);
        // One that is removed at this moment is not damaged.
        if manifest.is_ok() || shelf.has(&name) {
            views.push(view_of(&shelf, &name, manifest.as_ref()));
        }
    }
    views.sort_by_key(|view| std::cmp::Reverse(view.created_unix_ns));
    Ok(views)
}

/// Reads every byte of a snapshot, or of all of them when none is named.
///
/// # Errors
/// [`SnapshotError::NotFound`]. What is damaged is told, and no error.
pub fn verify(site: &Site, vm: &str, snapshot: Option<&str>) -> Result<Vec<SnapshotVerifiedView>, Error> {
    let vm = find(site, vm)?;
    let shelf = Shelf::of(site, vm.id);
    let names = match snapshot {
        Some(text) => vec![existing(&shelf, &vm, text).map_err(VmError::from)?],
        None => shelf.names().map_err(VmError::from)?,
    };
    let verified = names.iter().filter_map(|name| verify_one(&shelf, &vm, name));
    Ok(verified.collect())
}

/// `None` for one that was removed meanwhile.
fn verify_one(shelf: &Shelf, vm: &VmRow, name: &SnapshotName) -> Option<SnapshotVerifiedView> {
    let read = manifest_of(shelf, vm.id, name)
        .and_then(|manifest| part::read_through(&shelf.directory(name), &manifest));
    let view = |bytes, damaged: Option<&Damaged>| SnapshotVerifiedView {
        vm_name: vm.name.to_string(),
        name: name.to_string(),
        whole: damaged.is_none(),
        part: damaged.map(|(part, _)| part.name().to_owned()),
        damage: damaged.map(sentence),
        bytes,
    };
    match read {
        Ok(bytes) => Some(view(bytes, None)),
        Err(_) if !shelf.has(name) => None,
        Err(damaged) => Some(view(0, Some(&damaged))),
    }
}

/// Removes a snapshot. A VM that was restored from it goes on.
///
/// # Errors
/// [`SnapshotError::NotFound`], and [`SnapshotError::InUse`] while the VM is being restored from it.
pub fn remove(site: &Site, vm: &str, snapshot: &str) -> Result<SnapshotRemovedView, Error> {
    let vm = find_for_sure(site, vm)?;
    let shelf = Shelf::of(site, vm.id);
    let name = existing(&shelf, &vm, snapshot).map_err(VmError::from)?;
    if vm.state == VmState::Starting {
        let incarnation = crate::vm::find::newest(site, &vm)?;
        if incarnation.intent.start.restored_from() == Some(name.as_str()) {
            let (vm, name) = (vm.name.to_string(), name.to_string());
            return Err(VmError::from(SnapshotError::InUse { vm, name }).into());
        }
    }
    let removal = clock::new_snapshot_id().map_err(SiteError::Random)?;
    if !shelf.remove(&name, removal).map_err(VmError::from)? {
        return Err(VmError::from(not_found(&shelf, &vm, snapshot)).into());
    }
    Ok(SnapshotRemovedView { vm_name: vm.name.to_string(), removed: name.to_string() })
}

/// The name of a snapshot that there is.
pub(super) fn existing(shelf: &Shelf, vm: &VmRow, text: &str) -> Result<SnapshotName, SnapshotError> {
    let name = text.parse::<SnapshotName>().ok().filter(|name| shelf.has(name));
    name.ok_or_else(|| not_found(shelf, vm, text))
}

fn not_found(shelf: &Shelf, vm: &VmRow, text: &str) -> SnapshotError {
    let names = shelf.names().unwrap_or_default();
    let near = near(text, names.iter().map(SnapshotName::as_str), NEAR);
    SnapshotError::NotFound {
        vm: vm.name.to_string(),
        name: text.chars().take(SHOWN).flat_map(char::escape_debug).collect(),
        near: near.into_iter().map(str::to_owned).collect(),
    }
}

/// A snapshot's manifest that is this VM's and this snapshot's.
fn manifest_of(shelf: &Shelf, vm: VmId, name: &SnapshotName) -> Result<SnapshotManifest, Damaged> {
    let manifest = part::glance(&shelf.directory(name))?;
    if manifest.vm != vm || manifest.name != *name {
        let other = format!("{} of the VM with id {}", manifest.name, manifest.vm);
        return Err((Part::Manifest, Damage::OfAnother(other)));
    }
    Ok(manifest)
}

/// The same for whoever wants to restore it, to whom another VM's is another VM's.
pub(super) fn manifest_to_restore(
    shelf: &Shelf,
    vm: &VmRow,
    name: &SnapshotName,
) -> Result<SnapshotManifest, SnapshotError> {
    let manifest = part::glance(&shelf.directory(name)).map_err(|found| damaged(vm, name, found))?;
    let (vm_name, name_text) = (vm.name.to_string(), name.to_string());
    if manifest.vm != vm.id {
        return Err(SnapshotError::Foreign { vm: vm_name, name: name_text, of: manifest.vm.to_string() });
    }
    if manifest.name != *name {
        return Err(damaged(vm, name, (Part::Manifest, Damage::OfAnother(manifest.name.to_string()))));
    }
    if manifest.spec != vm.spec {
        let differences = vec!["it was taken when the VM was to be another machine".to_owned()];
        return Err(SnapshotError::Mismatch { vm: vm_name, name: name_text, differences });
    }
    Ok(manifest)
}

pub(super) fn damaged(vm: &VmRow, name: &SnapshotName, (part, source): Damaged) -> SnapshotError {
    SnapshotError::Damaged { vm: vm.name.to_string(), name: name.to_string(), part, source }
}

/// What is told of a snapshot.
pub(super) fn view_of(
    shelf: &Shelf,
    name: &SnapshotName,
    manifest: Result<&SnapshotManifest, &Damaged>,
) -> SnapshotView {
    let bytes = bytes_in(shelf.directory(name).path());
    match manifest {
        Ok(manifest) => SnapshotView {
            name: name.to_string(),
            id: Some(manifest.id.to_string()),
            state: "ready".to_owned(),
            damage: None,
            created_unix_ns: manifest.taken_unix_ns,
            bytes,
        },
        Err(damage) => SnapshotView {
            name: name.to_string(),
            id: None,
            state: "damaged".to_owned(),
            damage: Some(sentence(damage)),
            created_unix_ns: 0,
            bytes,
        },
    }
}

fn sentence((part, damage): &Damaged) -> String {
    format!("its {part}: {}", chain(damage))
}

#[cfg(test)]
mod tests {
    use super::super::part::tests::fill;
    use super::*;
    use crate::vm::testing::{add, site_of_web};
    use outlast_wire::exit_code::FailureKind;
    use std::fs;

    /// Puts a snapshot there that says it is of this VM.
    fn put(site: &Site, vm: &VmRow, name: &str, of: VmId) -> SnapshotManifest {
        let name: SnapshotName = name.parse().unwrap();
        let directory = Shelf::of(site, vm.id).directory(&name);
        fs::create_dir_all(directory.path()).unwrap();
        fill(&directory, of, &name)
    }

    fn flip(path: &std::path::Path) {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn snapshots_are_listed_verified_and_removed() {
        let (_top, site, vm) = site_of_web();
        assert!(list(&site, "web").unwrap().is_empty());
        put(&site, &vm, "one", vm.id);
        put(&site, &vm, "two", vm.id);
        let disk = Shelf::of(&site, vm.id).directory(&"two".parse().unwrap()).disk();
        flip(&disk);
        let listed: Vec<_> = list(&site, "web").unwrap().into_iter().map(|v| (v.name, v.state)).collect();
        assert_eq!(listed, [("one", "ready"), ("two", "ready")].map(|(n, s)| (n.to_owned(), s.to_owned())));
        let verified = verify(&site, "web", None).unwrap();
        assert!(verified[0].whole && !verified[1].whole, "{verified:?}");
        assert_eq!(verified[1].part.as_deref(), Some("disk"));
        assert_eq!(verify(&site, "web", Some("one")).unwrap().len(), 1);
        fs::write(&disk, b"short").unwrap();
        let damaged = list(&site, "web").unwrap().pop().unwrap();
        assert_eq!((damaged.name.as_str(), damaged.state.as_str()), ("two", "damaged"));
        assert_eq!(remove(&site, "web", "two").unwrap().removed, "two");
        assert_eq!(list(&site, "web").unwrap().len(), 1);
        assert_eq!(crate::vm::show(&site, "web").unwrap().snapshots.len(), 1);
    }

    #[test]
    fn one_that_is_not_there_is_told_with_what_may_be_meant() {
        let (_top, site, vm) = site_of_web();
        put(&site, &vm, "before", vm.id);
        for result in [
            remove(&site, "web", "befor").map(drop),
            verify(&site, "web", Some("befor")).map(drop),
            verify(&site, "web", Some("../before")).map(drop),
        ] {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), FailureKind::NotFound, "{error}");
        }
        let error = remove(&site, "web", "befor").unwrap_err();
        assert_eq!(error.to_string(), "web has no snapshot 'befor' (is before meant?)");
    }

    #[test]
    fn anothers_snapshot_and_a_renamed_one_are_not_restored() {
        let (_top, site, vm) = site_of_web();
        let other = add(&site, "other");
        put(&site, &vm, "theirs", other.id);
        put(&site, &vm, "mine", vm.id);
        let shelf = Shelf::of(&site, vm.id);
        let read = |name: &str| manifest_to_restore(&shelf, &vm, &name.parse().unwrap());
        assert!(
            matches!(read("theirs"), Err(SnapshotError::Foreign { of, .. }) if of == other.id.to_string())
        );
        let path = shelf.directory(&"mine".parse().unwrap()).path().to_owned();
        fs::rename(&path, path.with_file_name("moved")).unwrap();
        let moved = read("moved").unwrap_err();
        assert!(matches!(moved, SnapshotError::Damaged { part: Part::Manifest, .. }), "{moved}");
        assert_eq!(list(&site, "web").unwrap().iter().filter(|view| view.state == "damaged").count(), 2);
    }

    #[test]
    fn one_of_a_machine_that_the_vm_is_not_is_a_mismatch() {
        let (_top, site, vm) = site_of_web();
        put(&site, &vm, "mine", vm.id);
        let shelf = Shelf::of(&site, vm.id);
        let error = manifest_to_restore(&shelf, &vm, &"mine".parse().unwrap()).unwrap_err();
        assert!(matches!(error, SnapshotError::Mismatch { .. }), "its memory and disk differ: {error}");
        let manifest = part::glance(&shelf.directory(&"mine".parse().unwrap())).unwrap();
        let vm = VmRow { spec: manifest.spec, ..vm };
        manifest_to_restore(&shelf, &vm, &"mine".parse().unwrap()).unwrap();
    }

    #[test]
    fn what_is_half_made_goes_when_anybody_looks_and_doctor_tells_of_it_before() {
        let (_top, site, vm) = site_of_web();
        put(&site, &vm, "one", vm.id);
        let directory = site.places().vm(vm.id);
        let left = directory.new_snapshot(clock::new_snapshot_id().unwrap());
        fs::create_dir(left.path()).unwrap();
        fs::write(left.machine(), b"half").unwrap();
        let stray = directory.disk_of(Some(clock::new_incarnation_id().unwrap()));
        fs::write(&stray, b"a copy").unwrap();
        let told = super::super::left(&site, vm.id).unwrap();
        assert_eq!(told, [("snapshot", left.path().to_owned()), ("disk", stray.clone())]);
        assert_eq!(list(&site, "web").unwrap().len(), 1);
        assert!(!left.path().exists() && !stray.exists() && directory.disk().exists());
        assert!(super::super::left(&site, vm.id).unwrap().is_empty());
    }
}
