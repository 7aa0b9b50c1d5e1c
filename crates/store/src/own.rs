//! The life of an incarnation's row, from its claim to its death certificate.
//!
//! ```text
//!   intended ──claim──► claimed ──publish──► running ──end──► ended          by the runner
//!       │                  └────mark_dying────┴──► dying ──end──► ended      by whoever proves it dead
//!       └──────────────────────────end───────────────────────────► ended
//! ```
//!
//! One owner: a row belongs to the runner whose identity it holds, until that is proved dead. Every change
//! names the owner it is made for; the life cycles of `outlast_model` decide whether it may be made.

use crate::audit::chain::{Entry, append};
use crate::decode::{encoded, stored, word};
use crate::error::{ClaimError, Fault, StoreError};
use crate::event::{EventKind, Subject};
use crate::request::{KillNote, Owner, Publication, StartedFrom};
use crate::sql;
use crate::standing::{Standing, WorkloadStanding, identity};
use crate::store::Store;
use outlast_model::workload::WorkloadEvent;
use outlast_model::{BootStep, IncarnationId, IncarnationState, Outcome, VmEvent, WorkloadId, WorkloadState};
use outlast_wire::identity::ProcessIdentity;
use outlast_wire::intent::Intent;
use outlast_wire::record::{EndRecord, OutcomeRecord, Timings};
use rusqlite::types::Value;
use rusqlite::{Transaction, params, params_from_iter};
use serde_json::json;

/// A claim that lost, on its way through the wrapper that only knows store errors.
enum Claimed {
    Yes(Box<Intent>),
    Taken(IncarnationState, Option<ProcessIdentity>),
}

impl Store {
    /// Makes `who` the owner of an incarnation nobody has claimed, and starts its workload. A runner's first
    /// effect; the intent it gets is all it needs to know.
    ///
    /// # Errors
    /// [`ClaimError::Taken`] when it is claimed or over: the caller leaves without any effect.
    pub fn claim(
        &self,
        id: IncarnationId,
        who: &ProcessIdentity,
        unix_ns: u64,
    ) -> Result<Intent, ClaimError> {
        let claimed = self.write("claim an incarnation", |transaction| {
            let standing = Standing::read(transaction, id)?;
            if standing.state != IncarnationState::Intended {
                return Ok(Claimed::Taken(standing.state, standing.runner));
            }
            standing.must_step(IncarnationState::Claimed)?;
            let head = [Value::from(standing.number), Value::from(stored("the time", unix_ns)?)];
            let parameters = params_from_iter(head.into_iter().chain(identity(who)?));
            if transaction.prepare_cached(sql::CLAIM)?.execute(parameters)? != 1 {
                return Err(standing.not_owner().into());
            }
            if let Some(workload) = &standing.workload {
                step_workload(transaction, workload, WorkloadEvent::Claimed)?;
            }
            let body = json!({ "runner": who });
            self.tell(transaction, unix_ns, EventKind::IncarnationClaimed, id, body)?;
            Ok(Claimed::Yes(Box::new(read_intent(transaction, &standing)?)))
        })?;
        match claimed {
            Claimed::Yes(intent) => Ok(*intent),
            Claimed::Taken(state, runner) => Err(ClaimError::Taken { id, state, runner }),
        }
    }

    /// Notes the VMM's process before the incarnation is published, which notes it too.
    ///
    /// # Errors
    /// [`StoreError::NotOwner`] unless `who` owns the incarnation.
    pub fn record_vmm(
        &self,
        id: IncarnationId,
        who: &ProcessIdentity,
        vmm: &ProcessIdentity,
        unix_ns: u64,
    ) -> Result<(), StoreError> {
        self.write("record a VMM", |transaction| {
            let standing = Standing::read(transaction, id)?;
            standing.must_be_run_by(who)?;
            standing.update(transaction, sql::RECORD_VMM, identity(vmm)?)?;
            self.tell(transaction, unix_ns, EventKind::VmmRecorded, id, json!({ "vmm": vmm }))
        })
    }

    /// Says that the incarnation is certified and its workload runs. Written before the program is sent, so
    /// that a workload which was not published has certainly not run. A VM that was restored has the restored disk from
    /// then on, and until then the one it had.
    ///
    /// # Errors
    /// [`StoreError::NotOwner`] unless `who` owns the incarnation; [`StoreError::IllegalIncarnation`] unless it
    /// is merely claimed.
    pub fn publish(
        &self,
        id: IncarnationId,
        who: &ProcessIdentity,
        publication: &Publication,
    ) -> Result<(), StoreError> {
        let Publication { certificate, started_from, fell_back, vmm, timings, unix_ns } = publication;
        let certificate_text =
            certificate.as_ref().map(|record| encoded("the certificate", record)).transpose()?;
        let [pid, start_time, boot_id, pid_namespace, observer] = identity(vmm)?;
        let values = [
            pid,
            start_time,
            boot_id,
            pid_namespace,
            observer,
            Value::from(started_from.name().to_owned()),
            Value::from(fell_back.clone()),
            Value::from(certificate_text),
            Value::from(encoded("the timings", timings)?),
            Value::from(stored("the time", *unix_ns)?),
        ];
        let body = json!({
            "vmm": vmm,
            "started_from": started_from.name(),
            "fell_back": fell_back,
            "certificate": certificate,
        });
        self.write("publish an incarnation", |transaction| {
            let standing = Standing::read(transaction, id)?;
            standing.must_be_run_by(who)?;
            standing.must_step(IncarnationState::Running)?;
            standing.update(transaction, sql::PUBLISH, values)?;
            if let Some(workload) = &standing.workload {
                step_workload(transaction, workload, WorkloadEvent::Published)?;
            }
            if let Some(vm) = &standing.vm {
                let state = vm.step(transaction, VmEvent::Published, *unix_ns)?;
                if *started_from == StartedFrom::Restore {
                    vm.take_disk(transaction, state, id)?;
                }
            }
            self.tell(transaction, *unix_ns, EventKind::IncarnationRunning, id, body)
        })
    }

    /// Says that the runner was told to die and is not proved dead. While that lasts nothing may take the
    /// incarnation's place. Saying it again changes nothing.
    ///
    /// # Errors
    /// [`StoreError::NotOwner`] unless `runner` owns the incarnation.
    pub fn mark_dying(
        &self,
        id: IncarnationId,
        runner: &ProcessIdentity,
        evidence: &[String],
        unix_ns: u64,
    ) -> Result<(), StoreError> {
        self.write("mark an incarnation dying", |transaction| {
            let standing = Standing::read(transaction, id)?;
            standing.must_be_run_by(runner)?;
            if standing.state == IncarnationState::Dying {
                return Ok(());
            }
            standing.must_step(IncarnationState::Dying)?;
            let seen = encoded("the evidence", &evidence)?;
            standing.update(transaction, sql::MARK_DYING, [Value::from(seen)])?;
            let body = json!({ "runner": runner, "evidence": evidence });
            self.tell(transaction, unix_ns, EventKind::IncarnationDying, id, body)
        })
    }

    /// Writes the death certificate and, for a workload, its one outcome, for a VM, its state, in one commit. Timings
    /// that the record lacks are kept from the publication.
    ///
    /// # Errors
    /// [`StoreError::NotOwner`] when the row is not what `owner` says, which includes that it is over;
    /// [`StoreError::IllegalWorkload`] for an outcome that cannot follow; [`StoreError::OutcomeMissing`],
    /// [`StoreError::OutcomeUnexpected`], [`StoreError::BadOutcome`], [`StoreError::FailedStartMissing`],
    /// [`StoreError::FailedStartUnexpected`] and [`StoreError::BadFailedStart`] for records that cannot be true.
    pub fn end(&self, id: IncarnationId, owner: &Owner<'_>, end: &EndRecord) -> Result<(), StoreError> {
        let outcome = end.outcome.as_ref().map(Outcome::try_from).transpose();
        let outcome = outcome.map_err(|source| StoreError::BadOutcome { id, source })?;
        self.write("end an incarnation", |transaction| {
            let standing = Standing::read(transaction, id)?;
            must_own(&standing, owner)?;
            standing.must_step(IncarnationState::Ended)?;
            must_tell_how_far(&standing, end)?;
            end_incarnation(transaction, &standing, end)?;
            if let Some(vm) = &standing.vm {
                let wanted = vm.stop_wanted || vm.removal_wanted;
                let event = VmEvent::Ended { started: standing.published, wanted };
                vm.step(transaction, event, end.death.unix_ns)?;
            }
            match (&standing.workload, outcome) {
                (Some(workload), Some(outcome)) => {
                    end_workload(transaction, workload, outcome, end.death.unix_ns)?;
                }
                (Some(workload), None) => {
                    return Err(StoreError::OutcomeMissing { id, workload: workload.id }.into());
                }
                (None, Some(_)) => return Err(StoreError::OutcomeUnexpected { id }.into()),
                (None, None) => {}
            }
            let body = json!({
                "workload": standing.workload.map(|workload| workload.id.to_string()),
                "vm": standing.vm.as_ref().map(|vm| &vm.name),
                "outcome": end.outcome,
                "failed_start": end.failed_start,
                "death": end.death,
                "output_log_bytes": end.output_log_bytes,
                "truncated_bytes": end.truncated_bytes,
            });
            self.tell(transaction, end.death.unix_ns, EventKind::IncarnationEnded, id, body)
        })
    }

    /// Writes down that somebody wishes the workload killed. Doing it is the runner's business, or the
    /// reconciler's.
    ///
    /// # Errors
    /// [`StoreError::NoWorkload`] when there is none of that id.
    pub fn request_kill(&self, workload: WorkloadId, unix_ns: u64) -> Result<KillNote, StoreError> {
        self.write("note a wish to kill", |transaction| {
            let (standing, noted) = kill_standing(transaction, workload)?;
            match (standing.state, noted) {
                (WorkloadState::Over(outcome), _) => return Ok(KillNote::Over(outcome)),
                (_, true) => return Ok(KillNote::AlreadyNoted),
                (WorkloadState::Pending | WorkloadState::Starting | WorkloadState::Running, false) => {}
            }
            let values = params![standing.number, stored("the time", unix_ns)?];
            transaction.prepare_cached(sql::NOTE_KILL)?.execute(values)?;
            let kind = EventKind::KillRequested;
            let entry = Entry { unix_ns, kind, subject: Subject::Workload(workload), body: json!({}) };
            append(transaction, self.id(), &entry)?;
            Ok(KillNote::Noted)
        })
    }

    fn tell(
        &self,
        transaction: &Transaction<'_>,
        unix_ns: u64,
        kind: EventKind,
        id: IncarnationId,
        body: serde_json::Value,
    ) -> Result<(), Fault> {
        let entry = Entry { unix_ns, kind, subject: Subject::Incarnation(id), body };
        append(transaction, self.id(), &entry)
    }
}

fn must_own(standing: &Standing, owner: &Owner<'_>) -> Result<(), StoreError> {
    match owner {
        Owner::Runner(who) => standing.must_be_run_by(who),
        Owner::Reconciler { expected, runner } => {
            let as_judged = standing.state == *expected && standing.runner == *runner;
            if as_judged { Ok(()) } else { Err(standing.not_owner()) }
        }
    }
}

/// A VM that failed to start says at which step, and nothing else does.
fn must_tell_how_far(standing: &Standing, end: &EndRecord) -> Result<(), StoreError> {
    let id = standing.id;
    let wanted = standing.vm.as_ref().map(|vm| vm.stop_wanted || vm.removal_wanted);
    match (wanted, standing.published, &end.failed_start) {
        (Some(_), false, Some(failed)) => {
            let step = failed.step.parse::<BootStep>();
            step.map(|_| ()).map_err(|source| StoreError::BadFailedStart { id, source })
        }
        (None, _, Some(_)) | (Some(_), true, Some(_)) => Err(StoreError::FailedStartUnexpected { id }),
        (Some(false), false, None) => Err(StoreError::FailedStartMissing { id }),
        (None, _, None) | (Some(_), true, None) | (Some(true), false, None) => Ok(()),
    }
}

fn end_incarnation(transaction: &Transaction<'_>, standing: &Standing, end: &EndRecord) -> Result<(), Fault> {
    let timings = Timings {
        ready: end.timings.ready.or(standing.timings.ready),
        exec: end.timings.exec.or(standing.timings.exec),
        total: end.timings.total.or(standing.timings.total),
    };
    let values = [
        Value::from(encoded("the death certificate", &end.death)?),
        Value::from(stored("the output log's length", end.output_log_bytes)?),
        Value::from(stored("the truncated bytes", end.truncated_bytes)?),
        Value::from(encoded("the timings", &timings)?),
        Value::from(stored("the time", end.death.unix_ns)?),
        Value::from(end.failed_start.as_ref().map(|failed| failed.step.clone())),
        Value::from(end.failed_start.as_ref().map(|failed| failed.cause.clone())),
    ];
    standing.update(transaction, sql::END, values)
}

fn end_workload(
    transaction: &Transaction<'_>,
    workload: &WorkloadStanding,
    outcome: Outcome,
    unix_ns: u64,
) -> Result<(), Fault> {
    let record = encoded("the outcome", &OutcomeRecord::from(&outcome))?;
    workload.must_step(WorkloadEvent::Ended(outcome))?;
    let before = word(&workload.state);
    let values = params![workload.number, before, record, stored("the time", unix_ns)?];
    let changed = transaction.prepare_cached(sql::END_WORKLOAD)?.execute(values)?;
    must_have_changed(workload, changed)
}

fn step_workload(
    transaction: &Transaction<'_>,
    workload: &WorkloadStanding,
    event: WorkloadEvent,
) -> Result<(), Fault> {
    let next = workload.must_step(event)?;
    let values = params![workload.number, word(&workload.state), word(&next)];
    let changed = transaction.prepare_cached(sql::STEP_WORKLOAD)?.execute(values)?;
    must_have_changed(workload, changed)
}

/// The row was read under the same write lock, so it is still there, in that state.
fn must_have_changed(workload: &WorkloadStanding, changed: usize) -> Result<(), Fault> {
    if changed == 1 { Ok(()) } else { Err(StoreError::NoWorkload { id: workload.id }.into()) }
}

fn read_intent(transaction: &Transaction<'_>, standing: &Standing) -> Result<Intent, Fault> {
    let mut statement = transaction.prepare_cached(sql::INTENT)?;
    let text: String = statement.query_row([standing.number], |row| row.get(0))?;
    let bad = |error: serde_json::Error| StoreError::BadRow {
        row: format!("incarnation {}", standing.id),
        column: "intent",
        problem: format!("not an intent, line {} column {}", error.line(), error.column()),
    };
    Ok(serde_json::from_str(&text).map_err(bad)?)
}

/// The workload, and whether a wish to kill it is noted already.
fn kill_standing(
    transaction: &Transaction<'_>,
    workload: WorkloadId,
) -> Result<(WorkloadStanding, bool), Fault> {
    let mut statement = transaction.prepare_cached(sql::KILL_STANDING)?;
    let mut rows = statement.query([workload.to_string()])?;
    let row = rows.next()?.ok_or(StoreError::NoWorkload { id: workload })?;
    let columns = crate::decode::Columns::new(row, "workload", "id");
    let standing = WorkloadStanding {
        number: columns.get("number")?,
        id: workload,
        state: columns.workload_state("state", "outcome")?,
    };
    let noted: Option<i64> = columns.get("kill_requested_unix_ns")?;
    Ok((standing, noted.is_some()))
}
