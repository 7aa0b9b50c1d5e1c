//! What the store gives back: typed rows. Decoding from SQL lives in `decode`.

use crate::request::StartedFrom;
use outlast_model::spec::WorkloadSpec;
use outlast_model::{IncarnationId, IncarnationState, VmId, WorkloadId, WorkloadState};
use outlast_wire::identity::ProcessIdentity;
use outlast_wire::intent::Intent;
use outlast_wire::record::{CertificateRecord, DeathRecord, FailedStart, Timings};

/// One workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadRow {
    /// Its id.
    pub id: WorkloadId,
    /// The incarnation that runs it.
    pub incarnation: IncarnationId,
    /// Where it is in its life; its outcome when it is over.
    pub state: WorkloadState,
    /// What was asked for.
    pub spec: WorkloadSpec,
    /// Its idempotency key.
    pub idempotency_key: Option<String>,
    /// When it was accepted, in nanoseconds since the Unix epoch.
    pub created_unix_ns: u64,
    /// When its outcome was written, likewise.
    pub ended_unix_ns: Option<u64>,
    /// When somebody first wished it killed, likewise.
    pub kill_requested_unix_ns: Option<u64>,
}

/// One incarnation.
#[derive(Debug, Clone, PartialEq)]
pub struct IncarnationRow {
    /// Its id.
    pub id: IncarnationId,
    /// The workload it runs; a template's maker, a canary and a VM have none.
    pub workload: Option<WorkloadId>,
    /// The VM it is a boot of.
    pub vm: Option<VmId>,
    /// Where it is in its life.
    pub state: IncarnationState,
    /// What its runner is to do.
    pub intent: Intent,
    /// The runner that claimed it.
    pub runner: Option<ProcessIdentity>,
    /// Its VMM.
    pub vmm: Option<ProcessIdentity>,
    /// How it came to life.
    pub started_from: Option<StartedFrom>,
    /// Why a clone was given up for a cold boot, if it was.
    pub fell_back: Option<String>,
    /// The certificate it was published with.
    pub certificate: Option<CertificateRecord>,
    /// Timings so far.
    pub timings: Timings,
    /// What was seen when it was declared dying.
    pub dying: Option<Vec<String>>,
    /// How far it came, when it was the start of a VM and did not succeed.
    pub failed_start: Option<FailedStart>,
    /// Why it ended.
    pub death: Option<DeathRecord>,
    /// The length of its output log when it was synced, in bytes.
    pub output_log_bytes: u64,
    /// How much of its program's output was not kept, in bytes.
    pub truncated_bytes: u64,
    /// When its intent was written, in nanoseconds since the Unix epoch.
    pub created_unix_ns: u64,
    /// When it was claimed, likewise.
    pub claimed_unix_ns: Option<u64>,
    /// When it was published, likewise.
    pub running_unix_ns: Option<u64>,
    /// When its death certificate was written, likewise.
    pub ended_unix_ns: Option<u64>,
}

/// What a shortened id leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Exactly one workload.
    One(Box<WorkloadRow>),
    /// No workload.
    None,
    /// More than one; the first few, in order.
    Several(Vec<WorkloadId>),
}
