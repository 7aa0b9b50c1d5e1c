//! What a decision about an incarnation rests on, read under the write lock, and the guard that ties the update
//! to it: number, state and runner are compared again by the statement itself.

use crate::decode::{Columns, stored};
use crate::error::{Fault, StoreError};
use crate::sql;
use crate::vm::standing::VmRecord;
use outlast_model::workload::WorkloadEvent;
use outlast_model::{IncarnationId, IncarnationState, WorkloadId, WorkloadState};
use outlast_wire::identity::ProcessIdentity;
use outlast_wire::record::Timings;
use rusqlite::types::Value;
use rusqlite::{Row, Transaction, params_from_iter};

/// An incarnation as it stands.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) id: IncarnationId,
    pub(crate) number: i64,
    pub(crate) state: IncarnationState,
    pub(crate) runner: Option<ProcessIdentity>,
    pub(crate) timings: Timings,
    pub(crate) workload: Option<WorkloadStanding>,
    pub(crate) vm: Option<VmRecord>,
    /// Whether it was ever published as running.
    pub(crate) published: bool,
}

/// Its workload as it stands.
#[derive(Debug)]
pub(crate) struct WorkloadStanding {
    pub(crate) number: i64,
    pub(crate) id: WorkloadId,
    pub(crate) state: WorkloadState,
}

impl Standing {
    pub(crate) fn read(transaction: &Transaction<'_>, id: IncarnationId) -> Result<Self, Fault> {
        let mut statement = transaction.prepare_cached(sql::STANDING)?;
        let mut rows = statement.query([id.to_string()])?;
        let row = rows.next()?.ok_or(StoreError::NoIncarnation { id })?;
        let columns = Columns::new(row, "incarnation number", "number");
        // Its own statement, by the same lock: most incarnations have none.
        let vm = columns.parsed_or_null("vm")?;
        let vm = vm.map(|vm| VmRecord::read_any(transaction, vm)).transpose()?.map(|(vm, _removed)| vm);
        Self::decode(id, row, vm)
    }

    fn decode(id: IncarnationId, row: &Row<'_>, vm: Option<VmRecord>) -> Result<Self, Fault> {
        let columns = Columns::new(row, "incarnation number", "number");
        let running: Option<i64> = columns.get("running_unix_ns")?;
        let workload_number: Option<i64> = columns.get("workload_number")?;
        let workload = |number| -> Result<_, Fault> {
            let state = columns.workload_state("workload_state", "outcome")?;
            Ok(WorkloadStanding { number, id: columns.parsed("workload")?, state })
        };
        Ok(Self {
            id,
            number: columns.get("number")?,
            state: columns.incarnation_state("state")?,
            runner: columns.runner()?,
            timings: columns.json_or_null("timings")?.unwrap_or_default(),
            workload: workload_number.map(workload).transpose()?,
            vm,
            published: running.is_some(),
        })
    }

    /// Whether it is `who`'s: claimed by that very process, and not over.
    pub(crate) fn is_run_by(&self, who: &ProcessIdentity) -> bool {
        let alive = match self.state {
            IncarnationState::Claimed | IncarnationState::Running | IncarnationState::Dying => true,
            IncarnationState::Intended | IncarnationState::Ended => false,
        };
        alive && self.runner.as_ref() == Some(who)
    }

    pub(crate) fn must_be_run_by(&self, who: &ProcessIdentity) -> Result<(), StoreError> {
        if self.is_run_by(who) { Ok(()) } else { Err(self.not_owner()) }
    }

    pub(crate) fn not_owner(&self) -> StoreError {
        StoreError::NotOwner { id: self.id, state: self.state, runner: self.runner.clone() }
    }

    /// Takes the edge to `to`, if the life cycle has it.
    pub(crate) fn must_step(&self, to: IncarnationState) -> Result<IncarnationState, StoreError> {
        self.state.step(to).map_err(|source| StoreError::IllegalIncarnation { id: self.id, source })
    }

    /// Changes the incarnation's row with `statement`, whose first seven parameters are the guard.
    pub(crate) fn update<const N: usize>(
        &self,
        transaction: &Transaction<'_>,
        statement: &str,
        values: [Value; N],
    ) -> Result<(), Fault> {
        let parameters = params_from_iter(self.guard()?.into_iter().chain(values));
        let changed = transaction.prepare_cached(statement)?.execute(parameters)?;
        if changed == 1 { Ok(()) } else { Err(self.not_owner().into()) }
    }

    fn guard(&self) -> Result<Vec<Value>, StoreError> {
        let mut guard = vec![Value::from(self.number), Value::from(self.state.name().to_owned())];
        match &self.runner {
            Some(runner) => guard.extend(identity(runner)?),
            None => guard.resize(7, Value::Null),
        }
        Ok(guard)
    }
}

impl WorkloadStanding {
    /// The state after `event`, if the life cycle has that edge.
    pub(crate) fn must_step(&self, event: WorkloadEvent) -> Result<WorkloadState, StoreError> {
        let id = self.id;
        self.state.step(event).map_err(|source| StoreError::IllegalWorkload { id, source })
    }
}

/// The five columns of an identity.
pub(crate) fn identity(process: &ProcessIdentity) -> Result<[Value; 5], StoreError> {
    Ok([
        Value::from(process.pid),
        Value::from(stored("the start time", process.start_time)?),
        Value::from(process.boot_id.clone()),
        Value::from(stored("the PID namespace", process.pid_namespace)?),
        Value::from(stored("the observer's PID namespace", process.observer_namespace)?),
    ])
}
