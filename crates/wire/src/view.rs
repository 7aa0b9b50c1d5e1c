//! What commands print with `--json`: one object, or a list of them. Scripts rely on these; they only grow.

use crate::record::{CertificateRecord, DeathRecord, OutcomeRecord, Timings};
use serde::{Deserialize, Serialize};

/// What `outlast run --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunView {
    /// The workload's id.
    pub id: String,
    /// The runtime, when source code was run.
    pub runtime: Option<String>,
    /// The image.
    pub image: String,
    /// The backend.
    pub backend: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// `clone` or `boot`; absent when it never got there.
    pub started_from: Option<String>,
    /// Why it did not start from a template although one was wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fell_back: Option<String>,
    /// How it ended.
    pub outcome: OutcomeRecord,
    /// Standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Standard error; bytes that are not UTF-8 are replaced.
    pub stderr: String,
    /// How much of the output was not kept, in bytes.
    pub truncated_bytes: u64,
    /// Timings.
    pub timings_ms: Timings,
    /// The certificate of the incarnation; absent when it was not certified.
    pub certificate: Option<CertificateRecord>,
}

/// What `outlast ps --json` prints per workload, and `outlast show --json` for one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkloadView {
    /// The workload's id.
    pub id: String,
    /// Its incarnation's id.
    pub incarnation: String,
    /// `pending`, `starting`, `running`, or the outcome's kind.
    pub state: String,
    /// The runtime, when source code was run.
    pub runtime: Option<String>,
    /// The image.
    pub image: String,
    /// The command in the guest.
    pub argv: Vec<String>,
    /// vCPUs.
    pub vcpus: u32,
    /// The program's memory limit in bytes.
    pub memory: u64,
    /// The machine's memory in bytes.
    pub machine_memory: u64,
    /// The time limit in milliseconds.
    pub timeout_ms: u64,
    /// The backend.
    pub backend: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// `clone` or `boot`.
    pub started_from: Option<String>,
    /// Why it did not start from a template although one was wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fell_back: Option<String>,
    /// When it was accepted, in nanoseconds since the Unix epoch.
    pub created_unix_ns: u64,
    /// When it ended, likewise.
    pub ended_unix_ns: Option<u64>,
    /// How it ended.
    pub outcome: Option<OutcomeRecord>,
    /// Why its incarnation ended.
    pub death: Option<DeathRecord>,
    /// The certificate.
    pub certificate: Option<CertificateRecord>,
    /// Timings.
    pub timings_ms: Timings,
    /// How much of the output was not kept, in bytes.
    pub truncated_bytes: u64,
    /// Pid of the runner while it lives.
    pub runner_pid: Option<u32>,
    /// Where its evidence lies.
    pub evidence: String,
}

/// One thing `outlast doctor` looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckView {
    /// What was looked at.
    pub name: String,
    /// `ok`, `warning`, `missing` or `unknown`.
    pub status: String,
    /// What was found.
    pub found: String,
    /// The command that would mend it.
    pub fix: Option<String>,
}

/// Something that belongs to no living incarnation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeakView {
    /// `run-directory`, `cgroup`, `process`, `evidence`, `template`, `row`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Whether it was removed (`doctor --fix`).
    pub removed: bool,
}

/// What `outlast doctor --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoctorView {
    /// What this host can do.
    pub checks: Vec<CheckView>,
    /// What belongs to nobody; empty on a clean host.
    pub leaks: Vec<LeakView>,
}

/// What a failing command prints with `--json`, on standard output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorView {
    /// The failure.
    pub error: ErrorBody,
}

/// A failure, for machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// `bad_input`, `not_found`, `conflict`, `not_permitted`, `host`, `failed`.
    pub kind: String,
    /// The sentence a person sees.
    pub message: String,
    /// The next command to type, where there is one.
    pub hint: Option<String>,
}
