//! Writing intent: workloads and incarnations that are to be.

use crate::audit::chain::{Entry, append};
use crate::decode::{encoded, stored, word};
use crate::error::{Fault, StoreError};
use crate::event::{EventKind, Subject};
use crate::request::{Acceptance, NewIncarnation, NewWorkload};
use crate::sql;
use crate::store::Store;
use outlast_model::limit::IDEMPOTENCY_KEY_BYTES;
use outlast_model::{IncarnationId, IncarnationState, WorkloadId, WorkloadState};
use outlast_wire::intent::{Intent, Purpose};
use rusqlite::{OptionalExtension, Transaction, ffi, params};
use serde_json::json;

impl Store {
    /// Writes a workload and the intent of its incarnation, in one commit. A repeated idempotency key writes
    /// nothing and answers with the first workload.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when an id is taken; [`StoreError::IdempotencyKey`],
    /// [`StoreError::IntentMismatch`] and [`StoreError::NumberTooLarge`] for requests that cannot be written.
    pub fn accept(&self, new: &NewWorkload) -> Result<Acceptance, StoreError> {
        check_key(new.idempotency_key.as_deref())?;
        let matches = |workload: &str| workload.parse() == Ok(new.id);
        if !matches!(&new.intent.purpose, Purpose::Workload { workload, .. } if matches(workload)) {
            return Err(StoreError::IntentMismatch { id: new.incarnation });
        }
        self.write("accept a workload", |transaction| {
            if let Some(first) = first_with_key(transaction, new)? {
                return Ok(Acceptance::Existing(first));
            }
            let number = insert_workload(transaction, new)?;
            insert_incarnation(
                transaction,
                new.incarnation,
                (Some(number), None),
                &new.intent,
                stored("the time", new.created_unix_ns)?,
            )?;
            append(transaction, self.id(), &accepted(new))?;
            Ok(Acceptance::New)
        })
    }

    /// Writes the intent of an incarnation that runs no workload.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when the id is taken; [`StoreError::IntentMismatch`] when it is a workload's or a VM's.
    pub fn intend(&self, new: &NewIncarnation) -> Result<(), StoreError> {
        let body = match &new.intent.purpose {
            Purpose::Workload { .. } | Purpose::Vm { .. } => {
                return Err(StoreError::IntentMismatch { id: new.id });
            }
            Purpose::Template { key, .. } => json!({ "purpose": "template", "key": key }),
            Purpose::Canary => json!({ "purpose": "canary" }),
        };
        let entry = Entry {
            unix_ns: new.created_unix_ns,
            kind: EventKind::IncarnationIntended,
            subject: Subject::Incarnation(new.id),
            body,
        };
        self.write("write an intent", |transaction| {
            let created = stored("the time", new.created_unix_ns)?;
            insert_incarnation(transaction, new.id, (None, None), &new.intent, created)?;
            append(transaction, self.id(), &entry)
        })
    }
}

fn check_key(key: Option<&str>) -> Result<(), StoreError> {
    let limit = IDEMPOTENCY_KEY_BYTES;
    match key.map(str::len) {
        Some(length) if length == 0 || length > limit => Err(StoreError::IdempotencyKey { length, limit }),
        Some(_) | None => Ok(()),
    }
}

fn first_with_key(transaction: &Transaction<'_>, new: &NewWorkload) -> Result<Option<WorkloadId>, Fault> {
    let Some(key) = &new.idempotency_key else {
        return Ok(None);
    };
    let mut statement = transaction.prepare_cached(sql::WORKLOAD_BY_KEY)?;
    let first: Option<String> = statement.query_row([key], |row| row.get(0)).optional()?;
    let bad = |row: &String| StoreError::BadRow {
        row: format!("workload {row}"),
        column: "id",
        problem: "not an id".to_owned(),
    };
    let first = first.map(|id| id.parse().map_err(|_| bad(&id))).transpose()?;
    Ok(first)
}

fn insert_workload(transaction: &Transaction<'_>, new: &NewWorkload) -> Result<i64, Fault> {
    let created = stored("the time", new.created_unix_ns)?;
    let pending = word(&WorkloadState::Pending);
    let inserted = transaction.prepare_cached(sql::INSERT_WORKLOAD)?.execute(params![
        new.id.to_string(),
        pending,
        new.idempotency_key,
        created
    ]);
    unless_taken(inserted, || format!("workload {}", new.id))?;
    let number = transaction.last_insert_rowid();
    let spec = &new.spec;
    let env: Vec<String> = spec.env.iter().map(outlast_model::spec::EnvVar::assignment).collect();
    transaction.prepare_cached(sql::INSERT_SPEC)?.execute(params![
        number,
        spec.image,
        spec.runtime,
        encoded("the arguments", &spec.argv)?,
        encoded("the environment", &env)?,
        spec.vcpus.get(),
        stored("the memory", spec.memory.bytes())?,
        stored("the timeout", spec.timeout.millis())?,
        stored("the output limit", spec.output_limit)?,
    ])?;
    Ok(number)
}

/// Writes an incarnation and its intent; the numbers are those of its workload and its VM. Gives its own number.
pub(crate) fn insert_incarnation(
    transaction: &Transaction<'_>,
    id: IncarnationId,
    (workload, vm): (Option<i64>, Option<i64>),
    intent: &Intent,
    created: i64,
) -> Result<i64, Fault> {
    let intended = IncarnationState::Intended.name();
    let inserted = transaction.prepare_cached(sql::INSERT_INCARNATION)?.execute(params![
        id.to_string(),
        workload,
        vm,
        intended,
        created
    ]);
    unless_taken(inserted, || format!("incarnation {id}"))?;
    let number = transaction.last_insert_rowid();
    let body = encoded("the intent", intent)?;
    transaction.prepare_cached(sql::INSERT_INTENT)?.execute(params![number, body])?;
    Ok(number)
}

/// An insert that broke a UNIQUE constraint found its id taken.
pub(crate) fn unless_taken(
    inserted: rusqlite::Result<usize>,
    row: impl FnOnce() -> String,
) -> Result<(), Fault> {
    match inserted {
        Err(rusqlite::Error::SqliteFailure(error, _))
            if error.extended_code == ffi::SQLITE_CONSTRAINT_UNIQUE =>
        {
            Err(StoreError::Exists { row: row() }.into())
        }
        inserted => Ok(inserted.map(|_| ())?),
    }
}

/// What was asked for, without arguments and environment: those may hold secrets.
fn accepted(new: &NewWorkload) -> Entry {
    let spec = &new.spec;
    Entry {
        unix_ns: new.created_unix_ns,
        kind: EventKind::WorkloadAccepted,
        subject: Subject::Workload(new.id),
        body: json!({
            "incarnation": new.incarnation.to_string(),
            "image": spec.image,
            "runtime": spec.runtime,
            "vcpus": spec.vcpus.get(),
            "memory": spec.memory.bytes(),
            "timeout_ms": spec.timeout.millis(),
            "idempotent": new.idempotency_key.is_some(),
        }),
    }
}
