//! What a decision about a VM rests on, read under the write lock, and the change that is tied to it.

use super::types::OfDisks;
use crate::decode::{Columns, stored};
use crate::error::{Fault, StoreError};
use crate::sql;
use outlast_model::{IncarnationId, VmEvent, VmId, VmState};
use rusqlite::{Transaction, params};

/// A VM as it stands.
#[derive(Debug)]
pub(crate) struct VmRecord {
    pub(crate) number: i64,
    pub(crate) id: VmId,
    pub(crate) name: String,
    pub(crate) state: VmState,
    /// Its living or newest incarnation.
    pub(crate) incarnation: Option<IncarnationId>,
    pub(crate) stop_wanted: bool,
    pub(crate) removal_wanted: bool,
    /// What the removal that is wanted does with the disk.
    pub(crate) of_disks: OfDisks,
}

impl VmRecord {
    /// One that is not removed.
    pub(crate) fn read(transaction: &Transaction<'_>, id: VmId) -> Result<Self, Fault> {
        let (record, removed) = Self::read_any(transaction, id)?;
        if removed { Err(StoreError::VmRemoved { name: record.name }.into()) } else { Ok(record) }
    }

    /// One that may be removed, and whether it is.
    pub(crate) fn read_any(transaction: &Transaction<'_>, id: VmId) -> Result<(Self, bool), Fault> {
        let mut statement = transaction.prepare_cached(sql::VM_STANDING)?;
        let mut rows = statement.query([id.to_string()])?;
        let row = rows.next()?.ok_or(StoreError::NoVm { id })?;
        let columns = Columns::new(row, "VM", "vm");
        let noted = |column| -> Result<bool, Fault> { Ok(columns.get::<Option<i64>>(column)?.is_some()) };
        let record = Self {
            number: columns.get("vm_number")?,
            id,
            name: columns.get("vm_name")?,
            state: columns.vm_state("vm_state")?,
            incarnation: columns.parsed_or_null("vm_incarnation")?,
            stop_wanted: noted("stop_requested_unix_ns")?,
            removal_wanted: noted("removal_requested_unix_ns")?,
            of_disks: columns.of_disks("keep_disks")?,
        };
        Ok((record, noted("removed_unix_ns")?))
    }

    /// The VM's incarnation while it lives.
    pub(crate) fn living(&self) -> Result<Option<IncarnationId>, Fault> {
        if !self.state.is_living() {
            return Ok(None);
        }
        let missing = || StoreError::BadRow {
            row: format!("VM {}", self.id),
            column: "incarnation",
            problem: format!("none, while it is {}", self.state.name()),
        };
        Ok(Some(self.incarnation.ok_or_else(missing)?))
    }

    /// The state after `event`, if the life cycle has that edge.
    pub(crate) fn must_step(&self, event: VmEvent) -> Result<VmState, StoreError> {
        let name = &self.name;
        self.state.step(event).map_err(|source| StoreError::IllegalVm { name: name.clone(), source })
    }

    /// Takes the edge of `event`. A state that stays the same stays as old as it is.
    pub(crate) fn step(
        &self,
        transaction: &Transaction<'_>,
        event: VmEvent,
        unix_ns: u64,
    ) -> Result<VmState, Fault> {
        let next = self.must_step(event)?;
        if next != self.state {
            let values = params![self.number, self.state.name(), next.name(), stored("the time", unix_ns)?];
            self.must_have_changed(transaction.prepare_cached(sql::STEP_VM)?.execute(values)?)?;
        }
        Ok(next)
    }

    /// Makes the disk that an incarnation of it has restored its own. Its state is that after the publication.
    pub(crate) fn take_disk(
        &self,
        transaction: &Transaction<'_>,
        state: VmState,
        restored_by: IncarnationId,
    ) -> Result<(), Fault> {
        let values = params![self.number, state.name(), restored_by.to_string()];
        self.must_have_changed(transaction.prepare_cached(sql::TAKE_DISK)?.execute(values)?)
    }

    /// The row was read under the same write lock, so it is still there, in that state.
    pub(crate) fn must_have_changed(&self, changed: usize) -> Result<(), Fault> {
        if changed == 1 { Ok(()) } else { Err(StoreError::NoVm { id: self.id }.into()) }
    }
}
