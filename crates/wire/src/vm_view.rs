//! What the `vm` commands print with `--json`: one object, or a list of them. Scripts rely on these; they only grow.

use crate::record::{CertificateRecord, DeathRecord, FailedStart, Timings};
use crate::vm::{Origins, VmSpecRecord};
use crate::vm_snapshot_view::SnapshotView;
use serde::{Deserialize, Serialize};

/// What `outlast vm ls --json` prints per VM, and `outlast vm create --json` for the new one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmSummary {
    /// The VM's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `created`, `starting`, `running`, `paused`, `stopping`, `stopped` or `failed`.
    pub state: String,
    /// What it is to be.
    #[serde(flatten)]
    pub spec: VmSpecRecord,
    /// When it was created, in nanoseconds since the Unix epoch.
    pub created_unix_ns: u64,
    /// Since when it is in its state, likewise.
    pub changed_unix_ns: u64,
    /// Its newest incarnation; absent when it was never started.
    pub incarnation: Option<String>,
    /// Pid of its runner while it lives.
    pub runner_pid: Option<u32>,
    /// How far its last start came, when that did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_start: Option<FailedStart>,
    /// Why its newest incarnation ended, if it has.
    pub death: Option<DeathRecord>,
}

/// What `outlast vm show --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmView {
    /// What `vm ls` says of it.
    #[serde(flatten)]
    pub summary: VmSummary,
    /// When its end was first asked for, in nanoseconds since the Unix epoch; asked of the newest incarnation.
    pub stop_requested_unix_ns: Option<u64>,
    /// When its removal was first asked for, likewise.
    pub removal_requested_unix_ns: Option<u64>,
    /// When it was removed, likewise; what is shown then is what is kept of it.
    pub removed_unix_ns: Option<u64>,
    /// Where its disk and its snapshots lie.
    pub directory: String,
    /// Its incarnations, newest first.
    pub incarnations: Vec<IncarnationView>,
    /// Its snapshots, newest first.
    pub snapshots: Vec<SnapshotView>,
}

/// What `outlast vm show --spec --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpecView {
    /// The VM's name.
    pub name: String,
    /// Every value, resolved.
    pub spec: VmSpecRecord,
    /// Where each value came from.
    pub origins: Origins,
}

/// One boot or clone of a VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IncarnationView {
    /// Its id.
    pub id: String,
    /// `intended`, `claimed`, `running`, `dying` or `ended`.
    pub state: String,
    /// The backend.
    pub backend: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// `clone`, `boot` or `restore`; absent when it never got there.
    pub started_from: Option<String>,
    /// The snapshot it was restored from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_from: Option<String>,
    /// Why it did not start from a template although one was wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fell_back: Option<String>,
    /// When its start was asked for, in nanoseconds since the Unix epoch.
    pub created_unix_ns: u64,
    /// When it was certified and published, likewise.
    pub running_unix_ns: Option<u64>,
    /// When it ended, likewise.
    pub ended_unix_ns: Option<u64>,
    /// The certificate it was published with.
    pub certificate: Option<CertificateRecord>,
    /// Timings.
    pub timings_ms: Timings,
    /// Pid of its runner while it lives.
    pub runner_pid: Option<u32>,
    /// Pid of its VMM while it lives.
    pub vmm_pid: Option<u32>,
    /// What was seen of a process of it that was killed and does not die, a sentence each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dying: Option<Vec<String>>,
    /// How far its start came, when that did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_start: Option<FailedStart>,
    /// Its death certificate.
    pub death: Option<DeathRecord>,
    /// What its runner did, in order, by its journal.
    pub steps: Vec<StepView>,
    /// Where its evidence lies.
    pub evidence: String,
}

/// One step of a boot, or of its undoing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepView {
    /// The step's name.
    pub step: String,
    /// `done`, `failed`, `undone`, or `begun` when its end is not told.
    pub phase: String,
    /// When it began, in milliseconds since the first step did.
    pub began_ms: f64,
    /// How long it took, in milliseconds.
    pub took_ms: Option<f64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What `outlast vm start --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmStartedView {
    /// The VM's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The incarnation that runs.
    pub incarnation: String,
    /// Whether it was running already.
    pub already: bool,
    /// `clone` or `boot`.
    pub started_from: Option<String>,
    /// Timings.
    pub timings_ms: Timings,
    /// The certificate.
    pub certificate: Option<CertificateRecord>,
}

/// What `outlast vm stop --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmStoppedView {
    /// The VM's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whether nothing of it lived when it was asked.
    pub already: bool,
    /// The rung of the ladder that worked: `agent`, `vmm`, `term` or `kill`.
    pub rung: Option<String>,
    /// Its death certificate; absent when it was never started.
    pub death: Option<DeathRecord>,
}

/// What `outlast vm rm --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRemovedView {
    /// The VM's id, by which its death certificates are still shown.
    pub id: String,
    /// The name, which is free again.
    pub removed: String,
    /// Where its disk lies, when it was to be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::DiskRecord;

    /// A summary's fields stand beside each other, however the types nest.
    #[test]
    fn views_are_flat() {
        let disk = DiskRecord { format: "raw".to_owned(), size: 1 << 30 };
        let spec = VmSpecRecord { image: "base".to_owned(), vcpus: 1, memory: 1 << 28, disk };
        let summary = VmSummary {
            id: "i".to_owned(),
            name: "web".to_owned(),
            state: "created".to_owned(),
            spec,
            created_unix_ns: 1,
            changed_unix_ns: 1,
            incarnation: None,
            runner_pid: None,
            failed_start: None,
            death: None,
        };
        let view = VmView {
            summary,
            stop_requested_unix_ns: None,
            removal_requested_unix_ns: None,
            removed_unix_ns: None,
            directory: "/d".to_owned(),
            incarnations: Vec::new(),
            snapshots: Vec::new(),
        };
        insta::assert_snapshot!(serde_json::to_string_pretty(&view).unwrap());
        let text = serde_json::to_string(&view).unwrap();
        assert_eq!(serde_json::from_str::<VmView>(&text).unwrap(), view);
    }
}
