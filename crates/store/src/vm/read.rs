//! Reading VMs. Every read is one statement on one snapshot; lists have a limit.

use super::types::{VmPage, VmRow, VmStanding};
use crate::decode::{self, Columns};
use crate::error::{Fault, StoreError};
use crate::row::IncarnationRow;
use crate::sql;
use crate::store::Store;
use outlast_model::near::near;
use outlast_model::{IncarnationId, VmId, VmName, VmSpec};
use outlast_wire::vm::VmSpecRecord;
use rusqlite::{Row, params};

impl Store {
    /// The VM of that name that is not removed.
    pub fn vm_by_name(&self, name: &VmName) -> Result<Option<VmRow>, StoreError> {
        let rows = self.rows("read a VM", sql::VM_BY_NAME, [name.as_str()], vm)?;
        Ok(rows.into_iter().next())
    }

    /// The VM of that id, removed or not.
    pub fn vm(&self, id: VmId) -> Result<Option<VmRow>, StoreError> {
        let rows = self.rows("read a VM", sql::VM, [id.to_string()], vm)?;
        Ok(rows.into_iter().next())
    }

    /// A part of the list of VMs that are not removed, by name.
    pub fn vms(&self, page: &VmPage) -> Result<Vec<VmRow>, StoreError> {
        let after = page.after.as_ref().map_or("", VmName::as_str);
        self.rows("list VMs", sql::VMS, params![after, page.limit], vm)
    }

    /// VMs that had that name and were removed, the latest created first, at most `limit`.
    pub fn removed_vms(&self, name: &VmName, limit: u32) -> Result<Vec<VmRow>, StoreError> {
        self.rows("list removed VMs", sql::VMS_REMOVED, params![name.as_str(), limit], vm)
    }

    /// Names of VMs that `text`, which is none, may have been meant to be, the likeliest first, at most `most`.
    /// Reads the names of all that are not removed.
    pub fn vm_names_like(&self, text: &str, most: usize) -> Result<Vec<VmName>, StoreError> {
        let names = self.rows("look for the names of VMs", sql::VM_NAMES, [], name)?;
        let like = near(text, names.iter().map(VmName::as_str), most);
        Ok(like.into_iter().filter_map(|text| text.parse().ok()).collect())
    }

    /// A VM's incarnations, newest first, at most `limit`; those of a removed VM are kept.
    pub fn incarnations_of(&self, vm: VmId, limit: u32) -> Result<Vec<IncarnationRow>, StoreError> {
        let parameters = params![vm.to_string(), limit];
        self.rows("list a VM's incarnations", sql::INCARNATIONS_OF_VM, parameters, decode::incarnation)
    }

    /// What the runner of this incarnation must know once a second: one indexed read. `None` when the VM is gone, or
    /// the incarnation's row, or was never a VM's.
    pub fn standing_of_vm(&self, incarnation: IncarnationId) -> Result<Option<VmStanding>, StoreError> {
        let parameters = [incarnation.to_string()];
        let rows = self.rows("look at a VM", sql::VM_OF_INCARNATION, parameters, standing)?;
        Ok(rows.into_iter().next())
    }
}

fn vm(row: &Row<'_>) -> Result<VmRow, Fault> {
    let columns = Columns::new(row, "VM", "id");
    Ok(VmRow {
        id: columns.parsed("id")?,
        name: columns.parsed("name")?,
        spec: spec(&columns)?,
        origins: columns.json("origins")?,
        state: columns.vm_state("state")?,
        created_unix_ns: columns.number("created_unix_ns")?,
        changed_unix_ns: columns.number("changed_unix_ns")?,
        stop_requested_unix_ns: columns.number_or_null("stop_requested_unix_ns")?,
        removal_requested_unix_ns: columns.number_or_null("removal_requested_unix_ns")?,
        disk_of: columns.parsed_or_null("disk_of")?,
        of_disks: columns.of_disks("keep_disks")?,
        removed_unix_ns: columns.number_or_null("removed_unix_ns")?,
        incarnation: columns.parsed_or_null("incarnation")?,
        runner: columns.runner()?,
        failed_start: columns.failed_start()?,
        death: columns.json_or_null("death")?,
    })
}

fn spec(columns: &Columns<'_, '_>) -> Result<VmSpec, Fault> {
    let record: VmSpecRecord = columns.json("spec")?;
    VmSpec::try_from(&record).map_err(|error| columns.bad("spec", error))
}

fn name(row: &Row<'_>) -> Result<VmName, Fault> {
    Columns::new(row, "VM", "name").parsed("name")
}

fn standing(row: &Row<'_>) -> Result<VmStanding, Fault> {
    let columns = Columns::new(row, "VM", "id");
    Ok(VmStanding {
        state: columns.vm_state("vm_state")?,
        stop_requested_unix_ns: columns.number_or_null("stop_requested_unix_ns")?,
        removal_requested_unix_ns: columns.number_or_null("removal_requested_unix_ns")?,
        current: columns.parsed_or_null("current")?,
        incarnation_state: columns.incarnation_state("state")?,
        runner: columns.runner()?,
        vmm: columns.vmm()?,
    })
}
