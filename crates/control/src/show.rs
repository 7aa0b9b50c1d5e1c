//! What is known of workloads, as commands print it.

use crate::error::{Error, chain};
use crate::evidence;
use crate::follow::Tail;
use crate::reconcile::{journal_of, reconcile_all};
use crate::site::Site;
use crate::workload::{Known, as_written, find};
use outlast_model::{Outcome, WorkloadId, WorkloadState};
use outlast_store::{IncarnationRow, Page, WorkloadRow};
use outlast_wire::journal::JournalEntry;
use outlast_wire::output_log::Stream;
use outlast_wire::record::OutcomeRecord;
use outlast_wire::view::{RunView, WorkloadView};

/// Rows are fetched in pages of this.
const PAGE: u32 = 500;

/// A list of workloads, newest first, after everything that is not over was looked at.
///
/// # Errors
/// Those of the store. What could not be decided about an incarnation is in `undecided`.
pub fn list(site: &Site, all: bool, limit: Option<u32>) -> Result<List, Error> {
    let Some(store) = site.existing_store()? else { return Ok(List::default()) };
    let undecided =
        reconcile_all(site)?.into_iter().map(|(id, error)| format!("{id}: {}", chain(&error))).collect();
    let mut list = List { workloads: Vec::new(), undecided };
    let mut before = None;
    loop {
        let wanted =
            limit.map(|limit| limit.saturating_sub(u32::try_from(list.workloads.len()).unwrap_or(u32::MAX)));
        let page = Page { all, limit: wanted.unwrap_or(PAGE).min(PAGE), before };
        if page.limit == 0 {
            return Ok(list);
        }
        let rows = store.workloads(&page)?;
        let Some(oldest) = rows.last() else { return Ok(list) };
        before = Some(oldest.id);
        for row in rows {
            let Known { workload, incarnation } = as_written(site, row.id)?;
            list.workloads.push(view(site, &workload, &incarnation));
        }
    }
}

/// What [`list`] found.
#[derive(Debug, Default)]
pub struct List {
    /// The workloads.
    pub workloads: Vec<WorkloadView>,
    /// Incarnations of which it cannot be told whether they live, and why.
    pub undecided: Vec<String>,
}

/// Everything about one workload.
///
/// # Errors
/// [`crate::WorkloadError`] when there is none, or several.
pub fn show(site: &Site, id: &str) -> Result<WorkloadView, Error> {
    let Known { workload, incarnation } = find(site, id)?;
    let evidence = site.places().evidence(incarnation.id);
    let evidence_pruned = evidence::is_pruned(&evidence, &incarnation);
    let mut shown = WorkloadView { evidence_pruned, ..view(site, &workload, &incarnation) };
    for line in journal_of(site, incarnation.id).lines {
        match line.entry {
            JournalEntry::Limits { by } => shown.limited_by = Some(by),
            JournalEntry::KeepsUser { why } => shown.keeps_user = Some(why),
            _ => {}
        }
    }
    Ok(shown)
}

fn view(site: &Site, workload: &WorkloadRow, incarnation: &IncarnationRow) -> WorkloadView {
    let (spec, machine) = (&workload.spec, &incarnation.intent.machine);
    let alive = incarnation.ended_unix_ns.is_none();
    WorkloadView {
        id: workload.id.to_string(),
        incarnation: incarnation.id.to_string(),
        state: workload.state.name().to_owned(),
        runtime: spec.runtime.clone(),
        image: spec.image.clone(),
        argv: spec.argv.clone(),
        vcpus: spec.vcpus.get(),
        memory: spec.memory.bytes(),
        machine_memory: machine.memory,
        timeout_ms: spec.timeout.millis(),
        backend: machine.backend.clone(),
        accelerator: machine.accelerator.clone(),
        started_from: incarnation.started_from.map(|from| from.name().to_owned()),
        fell_back: incarnation.fell_back.clone().or_else(|| incarnation.intent.fell_back.clone()),
        created_unix_ns: workload.created_unix_ns,
        ended_unix_ns: workload.ended_unix_ns,
        outcome: outcome(&workload.state),
        dying: incarnation.dying.clone().filter(|_| incarnation.death.is_none()),
        death: incarnation.death.clone(),
        certificate: incarnation.certificate.clone(),
        timings_ms: incarnation.timings,
        truncated_bytes: incarnation.truncated_bytes,
        runner_pid: incarnation.runner.as_ref().filter(|_| alive).map(|runner| runner.pid),
        limited_by: None,
        keeps_user: None,
        evidence: site.places().evidence(incarnation.id).path().display().to_string(),
        // Asked of one, not of every row of a list: that would look at the disk for each.
        evidence_pruned: false,
    }
}

fn outcome(state: &WorkloadState) -> Option<OutcomeRecord> {
    match state {
        WorkloadState::Over(outcome) => Some(outcome.into()),
        WorkloadState::Pending | WorkloadState::Starting | WorkloadState::Running => None,
    }
}

/// What `run --json` prints of a workload that is over. Nothing else may be said of one that is not.
///
/// # Errors
/// The output log cannot be read.
pub fn run_view(site: &Site, id: WorkloadId, outcome: &Outcome) -> Result<RunView, Error> {
    let Known { workload, incarnation } = as_written(site, id)?;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    read_output(site, &incarnation, &mut |stream, bytes| match stream {
        Stream::Stdout => stdout.extend_from_slice(bytes),
        Stream::Stderr => stderr.extend_from_slice(bytes),
    })?;
    let view = view(site, &workload, &incarnation);
    Ok(RunView {
        id: view.id,
        runtime: view.runtime,
        image: view.image,
        backend: view.backend,
        accelerator: view.accelerator,
        started_from: view.started_from,
        fell_back: view.fell_back,
        outcome: outcome.into(),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
        truncated_bytes: view.truncated_bytes,
        output_pruned: evidence::is_pruned(&site.places().evidence(incarnation.id), &incarnation),
        timings_ms: view.timings_ms,
        certificate: view.certificate,
        outputs_error: None,
    })
}

/// An incarnation that never came so far has no output log, and no output; nor has one whose evidence was pruned.
fn read_output(site: &Site, row: &IncarnationRow, show: &mut dyn FnMut(Stream, &[u8])) -> Result<(), Error> {
    if evidence::is_pruned(&site.places().evidence(row.id), row) {
        return Ok(());
    }
    Tail::of(&site.places().evidence(row.id))?.drain(show)?;
    Ok(())
}
