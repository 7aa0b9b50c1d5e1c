//! Wishes about VMs that live: they are written down here, seen by the runner within a second, and by whoever
//! reconciles when there is no runner any more. Removal is a wish first, and a fact once everything else is gone.

use super::standing::VmRecord;
use super::types::{OfDisks, OfLiving, RemovalEnd, RemovalNote, StopNote};
use crate::audit::chain::{Entry, append};
use crate::decode::stored;
use crate::error::{Fault, StoreError};
use crate::event::{EventKind, Subject};
use crate::sql;
use crate::store::Store;
use outlast_model::{VmEvent, VmId, VmState};
use rusqlite::{Transaction, params};
use serde_json::json;

impl Store {
    /// Writes down that somebody wants the VM stopped: it is `stopping` from then on, until it is proved over.
    ///
    /// # Errors
    /// [`StoreError::NoVm`] and [`StoreError::VmRemoved`].
    pub fn request_stop(&self, vm: VmId, unix_ns: u64) -> Result<StopNote, StoreError> {
        self.write("note a wish to stop", |transaction| {
            let vm = VmRecord::read(transaction, vm)?;
            let Some(incarnation) = vm.living()? else {
                return Ok(StopNote::NotLiving(vm.state));
            };
            if vm.state == VmState::Stopping {
                return Ok(StopNote::AlreadyNoted { incarnation });
            }
            note_stop(transaction, &vm, unix_ns)?;
            let body = json!({ "name": vm.name, "incarnation": incarnation.to_string() });
            self.tell_of_vm(transaction, unix_ns, EventKind::VmStopRequested, vm.id, body)?;
            Ok(StopNote::Noted { incarnation })
        })
    }

    /// Writes down that somebody wants the VM removed: from then on it cannot be started. One that lives is to stop as
    /// well, or the wish is not written down, as `of_living` says. What becomes of its disk is part of the wish: whoever
    /// finishes the removal reads it there, and a later wish does not change it.
    ///
    /// # Errors
    /// [`StoreError::NoVm`] and [`StoreError::VmRemoved`].
    pub fn request_removal(
        &self,
        vm: VmId,
        of_living: OfLiving,
        of_disks: OfDisks,
        unix_ns: u64,
    ) -> Result<RemovalNote, StoreError> {
        self.write("note a wish to remove", |transaction| {
            let vm = VmRecord::read(transaction, vm)?;
            if vm.removal_wanted {
                return Ok(RemovalNote::AlreadyNoted { of_disks: vm.of_disks });
            }
            match (vm.living()?, of_living) {
                (Some(incarnation), OfLiving::Refuse) => {
                    return Ok(RemovalNote::Living { incarnation, state: vm.state });
                }
                (Some(_), OfLiving::Stop) if vm.state != VmState::Stopping => {
                    note_stop(transaction, &vm, unix_ns)?;
                }
                (Some(_), OfLiving::Stop) | (None, _) => {}
            }
            let keep = of_disks == OfDisks::Keep;
            let values = params![vm.number, stored("the time", unix_ns)?, keep];
            vm.must_have_changed(transaction.prepare_cached(sql::NOTE_REMOVAL)?.execute(values)?)?;
            let body = json!({ "name": vm.name, "was": vm.state.name(), "keep_disks": keep });
            self.tell_of_vm(transaction, unix_ns, EventKind::VmRemovalRequested, vm.id, body)?;
            Ok(RemovalNote::Noted)
        })
    }

    /// Says that nothing of the VM is left on the host: its name is free. Its incarnations, and why they ended, stay.
    ///
    /// # Errors
    /// [`StoreError::NoVm`]; [`StoreError::RemovalNotAsked`] when nobody asked for it.
    pub fn finish_removal(&self, vm: VmId, unix_ns: u64) -> Result<RemovalEnd, StoreError> {
        self.write("remove a VM", |transaction| {
            let (vm, removed) = VmRecord::read_any(transaction, vm)?;
            if removed {
                return Ok(RemovalEnd::AlreadyRemoved);
            }
            if let Some(incarnation) = vm.living()? {
                return Ok(RemovalEnd::Living { incarnation, state: vm.state });
            }
            if !vm.removal_wanted {
                return Err(StoreError::RemovalNotAsked { name: vm.name }.into());
            }
            let values = params![vm.number, vm.state.name(), stored("the time", unix_ns)?];
            vm.must_have_changed(transaction.prepare_cached(sql::REMOVE_VM)?.execute(values)?)?;
            let body = json!({ "name": vm.name });
            self.tell_of_vm(transaction, unix_ns, EventKind::VmRemoved, vm.id, body)?;
            Ok(RemovalEnd::Removed)
        })
    }

    pub(super) fn tell_of_vm(
        &self,
        transaction: &Transaction<'_>,
        unix_ns: u64,
        kind: EventKind,
        vm: VmId,
        body: serde_json::Value,
    ) -> Result<(), Fault> {
        let entry = Entry { unix_ns, kind, subject: Subject::Vm(vm), body };
        append(transaction, self.id(), &entry)
    }
}

fn note_stop(transaction: &Transaction<'_>, vm: &VmRecord, unix_ns: u64) -> Result<(), Fault> {
    let next = vm.must_step(VmEvent::StopAsked)?;
    let values = params![vm.number, vm.state.name(), next.name(), stored("the time", unix_ns)?];
    vm.must_have_changed(transaction.prepare_cached(sql::NOTE_STOP)?.execute(values)?)
}
