//! What is known of VMs, as commands print it.

use super::error::VmError;
use super::find::find;
use super::snapshot;
use super::stats::vmm_pid;
use super::steps::timeline;
use crate::error::{Error, chain};
use crate::reconcile::{journal_of, reconcile_all};
use crate::site::Site;
use outlast_model::{VmId, VmName};
use outlast_store::{IncarnationRow, VmPage, VmRow};
use outlast_wire::vm::VmSpecRecord;
use outlast_wire::vm_view::{IncarnationView, VmSpecView, VmStartedView, VmStoppedView, VmSummary, VmView};

/// Rows are fetched in pages of this.
const PAGE: u32 = 500;
/// So many incarnations are shown, the newest; the store keeps all.
const INCARNATIONS: u32 = 50;

/// What [`list`] found.
#[derive(Debug, Default)]
pub struct VmList {
    /// The VMs, by name.
    pub vms: Vec<VmSummary>,
    /// Incarnations of which it cannot be told whether they live, and why.
    pub undecided: Vec<String>,
}

/// All VMs, after everything that is not over was looked at.
///
/// # Errors
/// Those of the store. What could not be decided about an incarnation is in `undecided`.
pub fn list(site: &Site) -> Result<VmList, Error> {
    let Some(store) = site.existing_store()? else { return Ok(VmList::default()) };
    let refused = reconcile_all(site)?;
    let undecided = refused.into_iter().map(|(id, error)| format!("{id}: {}", chain(&error))).collect();
    let mut list = VmList { vms: Vec::new(), undecided };
    let mut after: Option<VmName> = None;
    loop {
        let rows = store.vms(&VmPage { limit: PAGE, after })?;
        let Some(final_row) = rows.last() else { return Ok(list) };
        after = Some(final_row.name.clone());
        list.vms.extend(rows.iter().map(summary));
    }
}

/// Everything about one VM; of one that was removed, what is kept of it. `name` may be an id, too.
///
/// # Errors
/// [`VmError::NotFound`].
pub fn show(site: &Site, name: &str) -> Result<VmView, Error> {
    let vm = find_or_removed(site, name)?;
    let incarnations = site.store()?.incarnations_of(vm.id, INCARNATIONS)?;
    Ok(VmView {
        summary: summary(&vm),
        stop_requested_unix_ns: vm.stop_requested_unix_ns,
        removal_requested_unix_ns: vm.removal_requested_unix_ns,
        removed_unix_ns: vm.removed_unix_ns,
        directory: site.places().vm(vm.id).path().display().to_string(),
        incarnations: incarnations.iter().map(|row| incarnation(site, row)).collect(),
        snapshots: snapshot::views(site, vm.id).map_err(VmError::from)?,
    })
}

/// What a VM is to be, every value with where it came from.
///
/// # Errors
/// [`VmError::NotFound`].
pub fn spec_of(site: &Site, name: &str) -> Result<VmSpecView, Error> {
    let vm = find_or_removed(site, name)?;
    Ok(VmSpecView { name: vm.name.to_string(), spec: VmSpecRecord::from(&vm.spec), origins: vm.origins })
}

fn find_or_removed(site: &Site, name: &str) -> Result<VmRow, Error> {
    let not_found = match find(site, name) {
        Err(Error::Vm(error @ VmError::NotFound { .. })) => error,
        found => return found,
    };
    let Some(store) = site.existing_store()? else { return Err(not_found.into()) };
    let by_id = name.parse::<VmId>().ok().map(|id| store.vm(id)).transpose()?.flatten();
    let removed = match name.parse::<VmName>() {
        Ok(name) => store.removed_vms(&name, 1)?.into_iter().next(),
        Err(_) => None,
    };
    by_id.or(removed).ok_or_else(|| not_found.into())
}

/// A VM in short.
pub fn summary(vm: &VmRow) -> VmSummary {
    VmSummary {
        id: vm.id.to_string(),
        name: vm.name.to_string(),
        state: vm.state.name().to_owned(),
        spec: VmSpecRecord::from(&vm.spec),
        created_unix_ns: vm.created_unix_ns,
        changed_unix_ns: vm.changed_unix_ns,
        incarnation: vm.incarnation.map(|id| id.to_string()),
        runner_pid: vm.runner.as_ref().filter(|_| vm.state.is_living()).map(|runner| runner.pid),
        failed_start: vm.failed_start.clone(),
        death: vm.death.clone(),
    }
}

fn incarnation(site: &Site, row: &IncarnationRow) -> IncarnationView {
    let machine = &row.intent.machine;
    let alive = row.ended_unix_ns.is_none();
    IncarnationView {
        id: row.id.to_string(),
        state: row.state.name().to_owned(),
        backend: machine.backend.clone(),
        accelerator: machine.accelerator.clone(),
        started_from: row.started_from.map(|from| from.name().to_owned()),
        restored_from: row.intent.start.restored_from().map(str::to_owned),
        fell_back: row.fell_back.clone().or_else(|| row.intent.fell_back.clone()),
        created_unix_ns: row.created_unix_ns,
        running_unix_ns: row.running_unix_ns,
        ended_unix_ns: row.ended_unix_ns,
        certificate: row.certificate.clone(),
        timings_ms: row.timings,
        runner_pid: row.runner.as_ref().filter(|_| alive).map(|runner| runner.pid),
        vmm_pid: if alive { vmm_pid(row) } else { None },
        dying: row.dying.clone().filter(|_| row.death.is_none()),
        failed_start: row.failed_start.clone(),
        death: row.death.clone(),
        steps: timeline(&journal_of(site, row.id)),
        evidence: site.places().evidence(row.id).path().display().to_string(),
    }
}

/// What is said of a VM that runs, now or already.
pub(super) fn started_view(vm: &VmRow, row: &IncarnationRow, already: bool) -> VmStartedView {
    VmStartedView {
        id: vm.id.to_string(),
        name: vm.name.to_string(),
        incarnation: row.id.to_string(),
        already,
        started_from: row.started_from.map(|from| from.name().to_owned()),
        timings_ms: row.timings,
        certificate: row.certificate.clone(),
    }
}

/// What is said of a VM that was stopped, by its end's row, or was already.
pub(super) fn stopped_view(
    vm: &VmRow,
    row: Option<&IncarnationRow>,
    already: bool,
    rung: Option<String>,
) -> VmStoppedView {
    let death = match row {
        Some(row) => row.death.clone(),
        None => vm.death.clone(),
    };
    VmStoppedView { id: vm.id.to_string(), name: vm.name.to_string(), already, rung, death }
}
