//! VMs by name, looked at before anything is said of them.

use super::error::VmError;
use super::snapshot;
use super::words::why_not_running;
use crate::error::Error;
use crate::reconcile::reconcile;
use crate::site::Site;
use outlast_model::{VmId, VmName};
use outlast_store::{IncarnationRow, StoreError, VmRow};

/// So many names that may have been meant are told.
const NEAR: usize = 3;
/// Of a name that is none, so much is repeated.
const SHOWN: usize = 70;

/// Finds a VM by its name, clears away what is half made of its snapshots, and brings its row into line with what is. What cannot be told of its runner is no reason
/// not to find it: whoever goes on to need the runner is told then.
///
/// # Errors
/// [`VmError::NotFound`] with near matches, and those of the store.
pub(super) fn find(site: &Site, name: &str) -> Result<VmRow, Error> {
    let vm = as_written(site, name)?;
    snapshot::sweep(site, vm.id);
    let Some(incarnation) = vm.incarnation.filter(|_| vm.state.is_living()) else { return Ok(vm) };
    match reconcile(site, incarnation) {
        Ok(_) | Err(Error::Reconcile(_)) => reread(site, vm.id),
        Err(error) => Err(error),
    }
}

/// As [`find`], but anything that cannot be told of its runner is an error.
pub(super) fn find_for_sure(site: &Site, name: &str) -> Result<VmRow, Error> {
    let vm = as_written(site, name)?;
    snapshot::sweep(site, vm.id);
    if let Some(incarnation) = vm.incarnation.filter(|_| vm.state.is_living()) {
        reconcile(site, incarnation)?;
    }
    reread(site, vm.id)
}

/// A VM as the store has it.
pub(super) fn reread(site: &Site, id: VmId) -> Result<VmRow, Error> {
    Ok(site.store()?.vm(id)?.ok_or(StoreError::NoVm { id })?)
}

/// The row of a VM's newest incarnation.
///
/// # Errors
/// [`VmError::NotRunning`] when it was never started.
pub(super) fn newest(site: &Site, vm: &VmRow) -> Result<IncarnationRow, Error> {
    let Some(id) = vm.incarnation else { return Err(not_running(vm).into()) };
    Ok(site.store()?.incarnation(id)?.ok_or(StoreError::NoIncarnation { id })?)
}

/// What is said of a VM of which nothing lives.
pub(super) fn not_running(vm: &VmRow) -> VmError {
    VmError::NotRunning { name: vm.name.to_string(), why: why_not_running(vm) }
}

fn as_written(site: &Site, text: &str) -> Result<VmRow, Error> {
    let shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    let Some(store) = site.existing_store()? else {
        return Err(VmError::NotFound { name: shown, near: Vec::new() }.into());
    };
    let found = match text.parse::<VmName>() {
        Ok(name) => store.vm_by_name(&name)?,
        Err(_) => None,
    };
    if let Some(vm) = found {
        return Ok(vm);
    }
    let near = store.vm_names_like(text, NEAR)?.iter().map(ToString::to_string).collect();
    Err(VmError::NotFound { name: shown, near }.into())
}
