//! From SQL to typed rows and back: the border at which a database's contents are checked.
//!
//! A value that cannot be is a [`StoreError::BadRow`] naming the row and the column. Contents are not repeated
//! in it, except words that name a state: the rest may be secret.

use crate::error::{Fault, StoreError};
use crate::event::{Digest, EventKind, EventRow, Subject};
use crate::request::StartedFrom;
use crate::row::{IncarnationRow, WorkloadRow};
use crate::vm::OfDisks;
use outlast_model::spec::{EnvVar, WorkloadSpec};
use outlast_model::{IncarnationState, Memory, Outcome, Timeout, VcpuCount, VmState, WorkloadState};
use outlast_wire::identity::ProcessIdentity;
use outlast_wire::record::{FailedStart, OutcomeRecord};
use rusqlite::Row;
use rusqlite::types::{FromSql, ValueRef};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Display;
use std::str::FromStr;

/// The word for a workload that is over; its outcome stands beside it.
pub(crate) const OVER: &str = "over";

/// Reads the columns of one row, and knows what to call the row when one of them is wrong.
pub(crate) struct Columns<'r, 'stmt> {
    row: &'r Row<'stmt>,
    kind: &'static str,
    /// The column that tells rows of this kind apart.
    key: &'static str,
}

impl<'r, 'stmt> Columns<'r, 'stmt> {
    pub(crate) fn new(row: &'r Row<'stmt>, kind: &'static str, key: &'static str) -> Self {
        Self { row, kind, key }
    }

    pub(crate) fn bad(&self, column: &'static str, problem: impl Display) -> Fault {
        let key = match self.row.get_ref(self.key) {
            Ok(ValueRef::Text(text)) => String::from_utf8_lossy(text).into_owned(),
            Ok(ValueRef::Integer(number)) => number.to_string(),
            Ok(ValueRef::Null | ValueRef::Real(_) | ValueRef::Blob(_)) | Err(_) => {
                "without a name".to_owned()
            }
        };
        StoreError::BadRow { row: format!("{} {key}", self.kind), column, problem: problem.to_string() }
            .into()
    }

    /// A value of SQLite's own types.
    pub(crate) fn get<T: FromSql>(&self, column: &'static str) -> Result<T, Fault> {
        self.row.get(column).map_err(|error| self.bad(column, error))
    }

    /// A number that is never negative.
    pub(crate) fn number<T: TryFrom<i64>>(&self, column: &'static str) -> Result<T, Fault> {
        self.checked(column, self.get(column)?)
    }

    /// Whether a removal keeps the disk.
    pub(crate) fn of_disks(&self, column: &'static str) -> Result<OfDisks, Fault> {
        Ok(if self.get::<bool>(column)? { OfDisks::Keep } else { OfDisks::Remove })
    }

    pub(crate) fn number_or_null<T: TryFrom<i64>>(&self, column: &'static str) -> Result<Option<T>, Fault> {
        let value: Option<i64> = self.get(column)?;
        value.map(|value| self.checked(column, value)).transpose()
    }

    fn checked<T: TryFrom<i64>>(&self, column: &'static str, value: i64) -> Result<T, Fault> {
        T::try_from(value).map_err(|_| self.bad(column, "out of range"))
    }

    /// A text that `T` can be read from.
    pub(crate) fn parsed<T: FromStr<Err: Display>>(&self, column: &'static str) -> Result<T, Fault> {
        let text: String = self.get(column)?;
        text.parse().map_err(|error| self.bad(column, error))
    }

    pub(crate) fn parsed_or_null<T: FromStr<Err: Display>>(
        &self,
        column: &'static str,
    ) -> Result<Option<T>, Fault> {
        let text: Option<String> = self.get(column)?;
        text.map(|text| text.parse().map_err(|error| self.bad(column, error))).transpose()
    }

    /// JSON. Its errors name lines and fields, not contents.
    pub(crate) fn json<T: DeserializeOwned>(&self, column: &'static str) -> Result<T, Fault> {
        let text: String = self.get(column)?;
        serde_json::from_str(&text).map_err(|error| self.bad(column, category(&error)))
    }

    pub(crate) fn json_or_null<T: DeserializeOwned>(&self, column: &'static str) -> Result<Option<T>, Fault> {
        let text: Option<String> = self.get(column)?;
        let read = |text: String| serde_json::from_str(&text);
        text.map(read).transpose().map_err(|error| self.bad(column, category(&error)))
    }

    pub(crate) fn digest(&self, column: &'static str) -> Result<Digest, Fault> {
        self.get(column).map(Digest::from_bytes)
    }

    pub(crate) fn incarnation_state(&self, column: &'static str) -> Result<IncarnationState, Fault> {
        let name: String = self.get(column)?;
        IncarnationState::from_name(&name).ok_or_else(|| self.bad(column, format_args!("no state '{name}'")))
    }

    pub(crate) fn vm_state(&self, column: &'static str) -> Result<VmState, Fault> {
        let name: String = self.get(column)?;
        VmState::from_name(&name).ok_or_else(|| self.bad(column, format_args!("no state '{name}'")))
    }

    /// How far a VM's start came, from its two columns.
    pub(crate) fn failed_start(&self) -> Result<Option<FailedStart>, Fault> {
        let step: Option<String> = self.get("failed_step")?;
        let cause: Option<String> = self.get("failed_cause")?;
        Ok(step.map(|step| FailedStart { step, cause: cause.unwrap_or_default() }))
    }

    /// A workload's state from its two columns.
    pub(crate) fn workload_state(
        &self,
        state: &'static str,
        outcome: &'static str,
    ) -> Result<WorkloadState, Fault> {
        let name: String = self.get(state)?;
        let record: Option<OutcomeRecord> = self.json_or_null(outcome)?;
        match (name.as_str(), record) {
            ("pending", None) => Ok(WorkloadState::Pending),
            ("starting", None) => Ok(WorkloadState::Starting),
            ("running", None) => Ok(WorkloadState::Running),
            (OVER, Some(record)) => {
                let outcome_read = Outcome::try_from(&record).map_err(|error| self.bad(outcome, error))?;
                Ok(WorkloadState::Over(outcome_read))
            }
            (name, _) => Err(self.bad(state, format_args!("no state '{name}' with this outcome"))),
        }
    }

    /// The runner's identity, when there is one.
    pub(crate) fn runner(&self) -> Result<Option<ProcessIdentity>, Fault> {
        self.identity([
            "runner_pid",
            "runner_start_time",
            "runner_boot_id",
            "runner_pid_namespace",
            "runner_observer",
        ])
    }

    pub(crate) fn vmm(&self) -> Result<Option<ProcessIdentity>, Fault> {
        self.identity(["vmm_pid", "vmm_start_time", "vmm_boot_id", "vmm_pid_namespace", "vmm_observer"])
    }

    fn identity(&self, names: [&'static str; 5]) -> Result<Option<ProcessIdentity>, Fault> {
        let [pid, start_time, boot_id, pid_namespace, observer] = names;
        let Some(number) = self.number_or_null(pid)? else {
            return Ok(None);
        };
        Ok(Some(ProcessIdentity {
            pid: number,
            start_time: self.number(start_time)?,
            boot_id: self.get(boot_id)?,
            pid_namespace: self.number(pid_namespace)?,
            observer_namespace: self.number(observer)?,
        }))
    }
}

/// What is wrong with a JSON text, without its contents.
fn category(error: &serde_json::Error) -> String {
    let what = if error.is_data() { "JSON of another shape" } else { "not JSON" };
    format!("{what}, line {} column {}", error.line(), error.column())
}

/// A workload from [`crate::sql::WORKLOAD`] and its like.
pub(crate) fn workload(row: &Row<'_>) -> Result<WorkloadRow, Fault> {
    let columns = Columns::new(row, "workload", "id");
    Ok(WorkloadRow {
        id: columns.parsed("id")?,
        incarnation: columns.parsed("incarnation")?,
        state: columns.workload_state("state", "outcome")?,
        spec: spec(&columns)?,
        idempotency_key: columns.get("idempotency_key")?,
        created_unix_ns: columns.number("created_unix_ns")?,
        ended_unix_ns: columns.number_or_null("ended_unix_ns")?,
        kill_requested_unix_ns: columns.number_or_null("kill_requested_unix_ns")?,
    })
}

fn spec(columns: &Columns<'_, '_>) -> Result<WorkloadSpec, Fault> {
    let impossible = |column| move || columns.bad(column, "not a possible value");
    let env: Vec<String> = columns.json("env")?;
    Ok(WorkloadSpec {
        image: columns.get("image")?,
        runtime: columns.get("runtime")?,
        argv: columns.json("argv")?,
        env: env
            .iter()
            .map(|text| EnvVar::parse(text))
            .collect::<Result<_, _>>()
            .map_err(|_| columns.bad("env", "not a list of KEY=VALUE"))?,
        vcpus: VcpuCount::new(columns.number("vcpus")?).ok_or_else(impossible("vcpus"))?,
        memory: Memory::from_bytes(columns.number("memory")?).ok_or_else(impossible("memory"))?,
        timeout: Timeout::from_millis(columns.number("timeout_ms")?).ok_or_else(impossible("timeout_ms"))?,
        output_limit: columns.number("output_limit")?,
    })
}

/// An incarnation from [`crate::sql::INCARNATION`] and its like.
pub(crate) fn incarnation(row: &Row<'_>) -> Result<IncarnationRow, Fault> {
    let columns = Columns::new(row, "incarnation", "id");
    let started_from: Option<String> = columns.get("started_from")?;
    let unknown = || columns.bad("started_from", "neither clone nor boot nor restore");
    Ok(IncarnationRow {
        id: columns.parsed("id")?,
        workload: columns.parsed_or_null("workload")?,
        vm: columns.parsed_or_null("vm")?,
        state: columns.incarnation_state("state")?,
        intent: columns.json("intent")?,
        runner: columns.runner()?,
        vmm: columns.vmm()?,
        started_from: started_from
            .map(|name| StartedFrom::from_name(&name).ok_or_else(unknown))
            .transpose()?,
        fell_back: columns.get("fell_back")?,
        certificate: columns.json_or_null("certificate")?,
        timings: columns.json_or_null("timings")?.unwrap_or_default(),
        dying: columns.json_or_null("dying")?,
        failed_start: columns.failed_start()?,
        death: columns.json_or_null("death")?,
        output_log_bytes: columns.number("output_log_bytes")?,
        truncated_bytes: columns.number("truncated_bytes")?,
        created_unix_ns: columns.number("created_unix_ns")?,
        claimed_unix_ns: columns.number_or_null("claimed_unix_ns")?,
        running_unix_ns: columns.number_or_null("running_unix_ns")?,
        ended_unix_ns: columns.number_or_null("ended_unix_ns")?,
    })
}

/// An event from [`crate::sql::EVENTS_AFTER`].
pub(crate) fn event(row: &Row<'_>) -> Result<EventRow, Fault> {
    let columns = Columns::new(row, "event", "seq");
    let kind: String = columns.get("kind")?;
    let subject: String = columns.get("subject")?;
    Ok(EventRow {
        seq: columns.number("seq")?,
        unix_ns: columns.number("unix_ns")?,
        kind: EventKind::from_name(&kind).ok_or_else(|| columns.bad("kind", "unknown"))?,
        subject: Subject::parse(&subject).ok_or_else(|| columns.bad("subject", "unknown"))?,
        body: columns.json("body")?,
        previous: columns.digest("previous")?,
        hash: columns.digest("hash")?,
    })
}

/// A number as the database can hold it.
pub(crate) fn stored(what: &'static str, value: u64) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::NumberTooLarge { what, value })
}

/// A record as JSON.
pub(crate) fn encoded(what: &'static str, value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|source| StoreError::Encode { what, source })
}

/// The word stored for a workload's state.
pub(crate) const fn word(state: &WorkloadState) -> &'static str {
    match state {
        WorkloadState::Pending | WorkloadState::Starting | WorkloadState::Running => state.name(),
        WorkloadState::Over(_) => OVER,
    }
}
