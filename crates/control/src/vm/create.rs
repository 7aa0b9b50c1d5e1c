//! Makes a VM: a name, a spec that is checked now, and a disk.
//!
//! ```text
//!   check ──► HOME/vms/.making-VM (locked) ──► disk ──► HOME/vms/VM ──► row
//!     │ bad input ends here                        an error at any of these undoes what this attempt made
//! ```
//!
//! What is there without a row and without a lock was left by somebody who died at it; `doctor` finds it by its name.

use super::error::VmError;
use super::spec::Resolved;
use crate::clock;
use crate::error::Error;
use crate::incarnation::{lock_alone, take_over};
use crate::request::{RequestError, check_disk, image_of_command};
use crate::site::{Site, SiteError, check_places, home_directory, private_directory};
use outlast_machine::disk::Wanted;
use outlast_machine::image::{Bootable, LibraryError};
use outlast_machine::vmm_root::{self, VmmRoot};
use outlast_machine::{disk, host};
use outlast_model::{DiskSpec, Memory, VmId, VmName, VmSpec};
use outlast_store::{NewVm, Store, StoreError, VmRow};
use outlast_wire::paths::VmDirectory;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

/// Before the name of a VM's directory that is being made.
const MAKING: &str = ".making-";

/// Makes a VM. It is not started.
///
/// # Errors
/// What is wrong with the request or the host; nothing of it is left then.
pub fn create(site: &Site, wanted: Resolved) -> Result<VmRow, Error> {
    let Resolved { name, spec, origins } = wanted;
    check_places(site.places())?;
    check_free(site, &name)?;
    check_machine(site, &spec)?;
    // The host may have no QEMU at all: the tools are those beside the VMM.
    let tools = tools(site)?;
    check_disk(site.places().home(), 0)?;
    let id = clock::new_vm_id().map_err(SiteError::Random)?;
    let made = Making::begin(site, id)?.finish(&name, spec.disk(), &tools)?;
    let new = NewVm { id, name, spec, origins, created_unix_ns: clock::unix_ns() };
    match site.store()?.create_vm(&new) {
        Ok(()) => super::find::reread(site, id),
        Err(error) => {
            // A commit that failed below SQLite may have taken effect: only what is surely not there is undone.
            if matches!(site.store().map(|store| store.vm(id)), Ok(Ok(None))) {
                made.undo();
            }
            Err(match error {
                StoreError::VmExists { name } => VmError::Exists { name }.into(),
                error => error.into(),
            })
        }
    }
}

/// Looked at before the disk is made; of two at the same time the commit decides.
fn check_free(site: &Site, name: &VmName) -> Result<(), Error> {
    let Some(store) = site.existing_store()? else { return Ok(()) };
    match store.vm_by_name(name)? {
        Some(_) => Err(VmError::Exists { name: name.to_string() }.into()),
        None => Ok(()),
    }
}

/// The image is there, and content with so much memory, and so is the host.
fn check_machine(site: &Site, spec: &VmSpec) -> Result<(), Error> {
    let libraries = site.places().libraries();
    let bootable = Bootable::choose(&libraries, image_of_command(&libraries, spec.image())?)?;
    let (asked, least) = (spec.memory(), bootable.needs().min_machine);
    if asked < least {
        let image = bootable.image().name().to_owned();
        return Err(VmError::MemoryTooSmall { asked, least, image }.into());
    }
    let host = Memory::from_bytes(host::memory_total()?.max(1)).expect("at least one byte");
    if asked > host {
        return Err(VmError::MemoryTooLarge { asked, host }.into());
    }
    Ok(())
}

fn tools(site: &Site) -> Result<VmmRoot, Error> {
    match vmm_root::find(&site.places().libraries()) {
        Err(LibraryError::NoVmmRoot) => Err(RequestError::NoQemu.into()),
        found => Ok(found?),
    }
}

/// A VM's directory that is being made, under a name that says so, and locked.
struct Making {
    aside: PathBuf,
    directory: VmDirectory,
    lock: File,
}

/// A VM's directory without a row, locked until it has one.
struct Made {
    directory: VmDirectory,
    _lock: File,
}

impl Making {
    fn begin(site: &Site, id: VmId) -> Result<Self, Error> {
        let places = site.places();
        home_directory(places)?;
        private_directory(&places.vms())?;
        let aside = places.vms().join(format!("{MAKING}{id}"));
        // Not recursive: it must be new.
        let made = DirBuilder::new().mode(0o700).create(&aside).and_then(|()| {
            let lock = File::open(&aside)?;
            lock_alone(&lock)?;
            Ok(lock)
        });
        let lock = made.map_err(|source| VmError::Keep { operation: "make", path: aside.clone(), source })?;
        Ok(Self { aside, directory: places.vm(id), lock })
    }

    /// Makes the disk and gives the directory its name.
    fn finish(self, name: &VmName, spec: DiskSpec, tools: &VmmRoot) -> Result<Made, Error> {
        let path = VmDirectory::at(self.aside.clone()).disk();
        let wanted = Wanted { format: spec.format(), bytes: spec.size().bytes(), beyond_free: false };
        let made = disk::create(&path, wanted, tools)
            .map_err(|source| Error::from(VmError::Disk { name: name.to_string(), source }))
            .and_then(|()| {
                let path = self.directory.path();
                let named = std::fs::rename(&self.aside, path).and_then(|()| sync_parent(path));
                let failed = |source| VmError::Keep { operation: "make", path: path.to_owned(), source };
                Ok(named.map_err(failed)?)
            });
        match made {
            Ok(()) => Ok(Made { directory: self.directory, _lock: self.lock }),
            Err(error) => {
                remove_tree(&self.aside);
                remove_tree(self.directory.path());
                Err(error)
            }
        }
    }
}

impl Made {
    fn undo(self) {
        remove_tree(self.directory.path());
    }
}

fn sync_parent(path: &std::path::Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

fn remove_tree(path: &std::path::Path) {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "what was made for a VM that is not made stays");
        }
        _ => {}
    }
}

/// Directories of VMs that there are not, of which nobody is making one: what a creation that died has left.
///
/// # Errors
/// Those of the store.
pub(crate) fn half_made(site: &Site, store: &Store) -> Result<Vec<PathBuf>, StoreError> {
    let Ok(entries) = std::fs::read_dir(site.places().vms()) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(id) = name.strip_prefix(MAKING).unwrap_or(&name).parse::<VmId>() else { continue };
        let Some(_lock) = take_over(&entry.path()) else { continue };
        // Order matters: under the lock no row can be written any more; before it one may have been. A removed VM's
        // disk that was to be kept has a row, too.
        if name.starts_with(MAKING) || store.vm(id)?.is_none() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::spec::{Field, Said, Words, resolve};
    use outlast_wire::paths::Places;

    fn site() -> (tempfile::TempDir, Site) {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        let site = Site::new(Places::new(at("home"), at("run"), at("library")), at("bin"));
        (top, site)
    }

    #[test]
    fn bad_input_ends_before_anything_is_made() {
        let (top, site) = site();
        let words =
            ["web", "no-such-image"].map(|text| Said { text: text.to_owned(), origin: String::new() });
        let words: Words = [Field::Name, Field::Image].into_iter().zip(words).collect();
        create(&site, resolve(&[&words]).unwrap()).unwrap_err();
        assert!(!top.path().join("home").exists());
    }

    #[test]
    fn what_a_creation_that_died_left_is_found_and_one_that_goes_on_is_not() {
        let (_top, site) = site();
        let dead = Making::begin(&site, clock::new_vm_id().unwrap()).unwrap();
        let left = dead.aside.clone();
        drop(dead);
        let _busy = Making::begin(&site, clock::new_vm_id().unwrap()).unwrap();
        assert_eq!(half_made(&site, site.store().unwrap()).unwrap(), [left]);
    }
}
