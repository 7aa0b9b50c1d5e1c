//! Removes a VM: nobody can start it any more, then what it left goes, then its disk, and its row last of all.
//!
//! Every part can be done again: a removal that was cut off is finished by the next one, which does with the disk what
//! the first one was asked to. Its death certificates stay.

use super::error::VmError;
use super::find::find_for_sure;
use super::stop::{Overdue, StopRequest, bring_down, still_runs};
use crate::clock;
use crate::error::Error;
use crate::reconcile::{cgroups, leftovers, settle};
use crate::site::Site;
use outlast_machine::disk;
use outlast_model::{VmName, VmState};
use outlast_store::{OfDisks, OfLiving, RemovalEnd, RemovalNote, StoreError, VmRow};
use outlast_wire::paths::VmDirectory;
use outlast_wire::vm_view::VmRemovedView;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// So many of its incarnations are looked at for what they left; older ones were looked at by all that came after.
const LOOKED_AT: u32 = 16;

/// How a VM is to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removal {
    /// Whether one that lives is stopped first, and how.
    pub stop: Option<StopRequest>,
    /// Whether its disk stays where it is. A removal that was begun with that word ends with it, whatever a later one
    /// says.
    pub keep_disks: bool,
}

/// Removes a VM.
///
/// # Errors
/// [`VmError::WrongState`] when it lives and is not to be stopped; [`VmError::DiskGoes`] when its disk is to
/// stay, and a removal was begun before in which it is not; [`VmError::StillRuns`] when a stop that was asked for before
/// takes longer than this one waits, and is not cut short; [`VmError::LeftBehind`] when something of it cannot
/// be removed: then its row stays, and the removal can be asked for again.
pub fn remove(site: &Site, name: &str, removal: Removal) -> Result<VmRemovedView, Error> {
    let vm = find_for_sure(site, name)?;
    let of_living = if removal.stop.is_some() { OfLiving::Stop } else { OfLiving::Refuse };
    let directory = site.places().vm(vm.id);
    let asked = if removal.keep_disks { OfDisks::Keep } else { OfDisks::Remove };
    let of_disks = match request(site, &vm, of_living, asked)? {
        RemovalNote::Noted => asked,
        RemovalNote::AlreadyNoted { of_disks: OfDisks::Remove } if removal.keep_disks => {
            return Err(VmError::DiskGoes { name: vm.name.to_string(), disk: disk_of(site, &vm)? }.into());
        }
        RemovalNote::AlreadyNoted { of_disks } => of_disks,
        RemovalNote::Living { state, .. } => return Err(lives(&vm, state).into()),
    };
    loop {
        end(site, &vm, removal.stop.unwrap_or_default())?;
        check_nothing_left(site, &vm)?;
        match of_disks {
            OfDisks::Remove => remove_directory(&vm.name, &directory, &disk_of(site, &vm)?)?,
            OfDisks::Keep => remove_snapshots(&directory)?,
        }
        match site.store()?.finish_removal(vm.id, clock::unix_ns())? {
            RemovalEnd::Removed | RemovalEnd::AlreadyRemoved => break,
            // It was started before the wish was written, and its row was not read by then.
            RemovalEnd::Living { .. } => {}
        }
    }
    let kept = match of_disks {
        OfDisks::Keep => Some(disk_of(site, &vm)?.display().to_string()),
        OfDisks::Remove => None,
    };
    Ok(VmRemovedView { id: vm.id.to_string(), removed: vm.name.to_string(), kept })
}

/// Where its disk is, as its row says by now.
fn disk_of(site: &Site, vm: &VmRow) -> Result<PathBuf, Error> {
    let vm = super::find::reread(site, vm.id)?;
    Ok(site.places().vm(vm.id).disk_of(vm.disk_of))
}

fn request(site: &Site, vm: &VmRow, of_living: OfLiving, of_disks: OfDisks) -> Result<RemovalNote, Error> {
    let noted = site.store()?.request_removal(vm.id, of_living, of_disks, clock::unix_ns());
    noted.map_err(|error| match error {
        StoreError::VmRemoved { name } => VmError::NotFound { name, near: Vec::new() }.into(),
        error => error.into(),
    })
}

fn lives(vm: &VmRow, state: VmState) -> VmError {
    VmError::WrongState {
        name: vm.name.to_string(),
        state,
        so: "; it is removed once it is stopped, or with --force",
    }
}

/// Brings down what lives of it, and has what is over swept.
fn end(site: &Site, vm: &VmRow, request: StopRequest) -> Result<(), Error> {
    let vm = super::find::reread(site, vm.id)?;
    let Some(incarnation) = vm.incarnation else { return Ok(()) };
    if vm.state.is_living() {
        bring_down(site, incarnation, request, overdue(&vm))
            .map_err(|error| still_runs(error, vm.name.as_str()))?;
    } else {
        settle(site, incarnation)?;
    }
    Ok(())
}

/// A stop that somebody asked for before may have been given more time than this removal gives. A removal that asks for
/// the stop itself does both in one transaction, with one time; which of two times is the earlier says nothing, for
/// clocks are stepped.
fn overdue(vm: &VmRow) -> Overdue {
    match (vm.stop_requested_unix_ns, vm.removal_requested_unix_ns) {
        (Some(stop), Some(removal)) if stop != removal => Overdue::Leave,
        _ => Overdue::PutDown,
    }
}

/// The row goes only when everything else is gone. What an incarnation before the newest left is cleared away here, for
/// nobody has looked at that one any more.
fn check_nothing_left(site: &Site, vm: &VmRow) -> Result<(), Error> {
    let store = site.store()?;
    let groups = cgroups(store.id());
    for row in store.incarnations_of(vm.id, LOOKED_AT)? {
        if leftovers(site, &row, &groups).is_empty() {
            continue;
        }
        settle(site, row.id)?;
        if let Some(leftover) = leftovers(site, &row, &cgroups(store.id())).first() {
            let (name, what) = (vm.name.to_string(), leftover.name(site));
            return Err(VmError::LeftBehind { name, what }.into());
        }
    }
    Ok(())
}

/// They are of use to this VM alone, and hold its memory.
fn remove_snapshots(directory: &VmDirectory) -> Result<(), VmError> {
    let path = directory.snapshots();
    let removed = unless_gone(std::fs::remove_dir_all(&path));
    removed.map_err(|source| VmError::Keep { operation: "remove", path, source })
}

/// The disk goes last of what lies in there.
fn remove_directory(name: &VmName, directory: &VmDirectory, disk: &Path) -> Result<(), VmError> {
    let failed = |path: &Path, source| VmError::Keep { operation: "remove", path: path.to_owned(), source };
    let path = directory.path();
    remove_snapshots(directory)?;
    disk::remove(disk).map_err(|source| VmError::Disk { name: name.to_string(), source })?;
    unless_gone(std::fs::remove_dir_all(path)).map_err(|error| failed(path, error))?;
    // Order matters: the row may go only when the name is off the disk for good.
    let synced =
        path.parent().map_or(Ok(()), |parent| unless_gone(File::open(parent).and_then(|d| d.sync_all())));
    synced.map_err(|error| failed(path, error))
}

fn unless_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::half_made;
    use crate::vm::testing::site_of_web;

    /// Cut off, that removal has written down its wish and done nothing else; a plain one finishes it.
    #[test]
    fn a_disk_that_was_to_be_kept_outlives_a_later_removal() {
        let (_top, site, vm) = site_of_web();
        assert_eq!(request(&site, &vm, OfLiving::Refuse, OfDisks::Keep).unwrap(), RemovalNote::Noted);
        std::fs::create_dir_all(site.places().vm(vm.id).snapshot(&"one".parse().unwrap()).path()).unwrap();
        let view = remove(&site, "web", Removal::default()).unwrap();
        let disk = site.places().vm(vm.id).disk();
        assert_eq!(view.kept, Some(disk.display().to_string()));
        assert_eq!(std::fs::read(&disk).unwrap(), b"x");
        assert!(!site.places().vm(vm.id).snapshots().exists(), "nobody can restore them any more");
        assert_eq!(half_made(&site, site.store().unwrap()).unwrap(), Vec::<std::path::PathBuf>::new());
    }

    #[test]
    fn a_disk_that_goes_already_cannot_be_kept_any_more() {
        let (_top, site, vm) = site_of_web();
        assert_eq!(request(&site, &vm, OfLiving::Refuse, OfDisks::Remove).unwrap(), RemovalNote::Noted);
        let keep = Removal { keep_disks: true, ..Removal::default() };
        let refused = remove(&site, "web", keep);
        assert!(matches!(refused, Err(Error::Vm(VmError::DiskGoes { .. }))), "{refused:?}");
        assert!(site.places().vm(vm.id).disk().exists(), "what is refused does nothing");
        assert_eq!(remove(&site, "web", Removal::default()).unwrap().kept, None);
        assert!(!site.places().vm(vm.id).path().exists());
    }

    #[test]
    fn what_a_vm_keeps_is_removed_whole_and_twice() {
        let top = tempfile::tempdir().unwrap();
        let directory = VmDirectory::at(top.path().join("vms/01"));
        std::fs::create_dir_all(directory.snapshot(&"one".parse().unwrap()).path()).unwrap();
        std::fs::write(directory.disk(), "x").unwrap();
        let name = "web".parse().unwrap();
        remove_directory(&name, &directory, &directory.disk()).unwrap();
        assert!(!directory.path().exists());
        remove_directory(&name, &directory, &directory.disk()).unwrap();
    }
}
