//! What the commands about snapshots of VMs print with `--json`. Scripts rely on these; they only grow.

use crate::vm_view::VmStartedView;
use serde::{Deserialize, Serialize};

/// One snapshot of a VM, in `outlast vm snapshots ls --json` and `outlast vm show --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotView {
    /// Its name.
    pub name: String,
    /// Its id; absent when its manifest is damaged.
    pub id: Option<String>,
    /// `ready`, or `damaged` when that can be seen without reading all of it.
    pub state: String,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
    /// When it was taken, in nanoseconds since the Unix epoch; 0 when its manifest is damaged.
    pub created_unix_ns: u64,
    /// Bytes it takes on disk.
    pub bytes: u64,
}

/// What `outlast vm snapshot --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSnapshotView {
    /// The VM's id.
    pub vm: String,
    /// The VM's name.
    pub vm_name: String,
    /// The incarnation whose memory it holds.
    pub incarnation: String,
    /// The snapshot.
    #[serde(flatten)]
    pub snapshot: SnapshotView,
    /// How long the VM's virtual CPUs stood still because of it, in microseconds; zero when the VM was paused.
    pub paused_us: u64,
}

/// What `outlast vm snapshots rm --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRemovedView {
    /// The VM's name.
    pub vm_name: String,
    /// The name, which is free again.
    pub removed: String,
}

/// What `outlast vm snapshots verify --json` prints for each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotVerifiedView {
    /// The VM's name.
    pub vm_name: String,
    /// The snapshot's name.
    pub name: String,
    /// Whether every byte is what its manifest says.
    pub whole: bool,
    /// The part that is not: `manifest`, `machine` or `disk`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
    /// Bytes that were read.
    pub bytes: u64,
}

/// What `outlast vm restore --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmRestoredView {
    /// What a start says.
    #[serde(flatten)]
    pub started: VmStartedView,
    /// The snapshot's name.
    pub restored_from: String,
}
