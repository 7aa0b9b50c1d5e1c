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
    /// Whether the output has been pruned since an earlier request with this idempotency key ran.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub output_pruned: bool,
    /// Timings.
    pub timings_ms: Timings,
    /// The certificate of the incarnation; absent when it was not certified.
    pub certificate: Option<CertificateRecord>,
    /// Why the files that the program left are not where they were to be handed back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs_error: Option<String>,
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
    /// What was seen of a process of it that was killed and does not die, a sentence each: state, wait channel
    /// and kernel stack. Until its death is proved nothing may take its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dying: Option<Vec<String>>,
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
    /// What keeps the limits of the VMM, in a sentence, where that is not a control group of outlast's own: a scope of
    /// systemd's, or limits of processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limited_by: Option<String>,
    /// Why the superuser's VMM has no user id of its own, in a sentence, where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeps_user: Option<String>,
    /// Where its evidence lies.
    pub evidence: String,
    /// Whether the evidence has been pruned; asked only by `show`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub evidence_pruned: bool,
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
    /// `run-directory`, `cgroup`, `process`, `evidence`, `template`, `vm`, `row`.
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

/// What `outlast run --detach --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedView {
    /// The workload's id.
    pub id: String,
    /// Whether an earlier request with the same key had made it.
    pub existing: bool,
}

/// What `outlast kill --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KilledView {
    /// The workload's id.
    pub id: String,
    /// How it ended.
    pub outcome: OutcomeRecord,
}

/// What `outlast image ls --json` prints per image, and `image build` and `image verify` for one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImageView {
    /// Its name; `vmm` for the VMM root.
    pub name: String,
    /// `ready`, `stale` or `damaged`.
    pub state: String,
    /// Its digest.
    pub digest: Option<String>,
    /// Its runtime.
    pub runtime: Option<String>,
    /// The guest kernel's release, or the VMM's version.
    pub version: Option<String>,
    /// The smallest memory limit of a program, in bytes.
    pub min_limit: Option<u64>,
    /// The smallest machine, in bytes.
    pub min_machine: Option<u64>,
    /// Bytes of all its files.
    pub bytes: u64,
    /// When it was built, in seconds since the Unix epoch.
    pub created: Option<u64>,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
    /// How its recipe has changed since it was built; told by `image verify`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<String>,
}

/// What `outlast template ls --json` prints per template.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TemplateView {
    /// Its key, or the name of what is not a finished template.
    pub key: String,
    /// `ready`, `damaged`, `making` or `set-aside`.
    pub state: String,
    /// The image.
    pub image: Option<String>,
    /// `kvm` or `tcg`.
    pub accelerator: Option<String>,
    /// vCPUs.
    pub vcpus: Option<u32>,
    /// Machine memory in bytes.
    pub memory: Option<u64>,
    /// When it was made, in nanoseconds since the Unix epoch.
    pub made_unix_ns: Option<u64>,
    /// Bytes it takes on disk.
    pub bytes: u64,
}

/// What `outlast events --json` prints per event, one object a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventView {
    /// Its number, from 1, without gaps.
    pub seq: u64,
    /// When, in nanoseconds since the Unix epoch.
    pub unix_ns: u64,
    /// What it tells: `workload.accepted`, …
    pub kind: String,
    /// What it is about: `workload:ID` or `incarnation:ID`.
    pub subject: String,
    /// Details.
    pub body: serde_json::Value,
    /// Its hash.
    pub hash: String,
}

/// What `outlast audit verify --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditView {
    /// Whether nothing is wrong.
    pub intact: bool,
    /// How many events there are.
    pub count: u64,
    /// The hash of the newest.
    pub head: String,
    /// What is wrong, a sentence each.
    pub findings: Vec<String>,
    /// Findings that are not listed.
    pub unlisted: u64,
}

/// What `outlast logs --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsView {
    /// Standard output, or the console; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Standard error; bytes that are not UTF-8 are replaced.
    pub stderr: String,
    /// How much of the output was not kept, in bytes.
    pub truncated_bytes: u64,
    /// How the workload ended, if it has.
    pub outcome: Option<OutcomeRecord>,
}

/// What `outlast image rm --json` and `outlast template rm --json` print.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedView {
    /// The name or key of what was removed.
    pub removed: String,
}

/// One thing that a prune found to be of no more use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrunedView {
    /// `template`, `image`, `kernel`, `vmm`, `initramfs`, `stamp`, `canary`, `lock` or `evidence`.
    pub kind: String,
    /// Its name: a key, a digest, an id or a path.
    pub name: String,
    /// Bytes it takes, or took, on disk.
    pub bytes: u64,
    /// Why it is of no more use.
    pub why: String,
    /// Whether it is gone.
    pub removed: bool,
    /// Who needs it after all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_because: Option<String>,
    /// Why it could not be removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What `outlast prune`, `outlast image prune` and `outlast template prune` print with `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PruneView {
    /// Whether it was only looked.
    pub dry_run: bool,
    /// Bytes that were freed, or would have been.
    pub bytes: u64,
    /// What was found.
    pub found: Vec<PrunedView>,
}
