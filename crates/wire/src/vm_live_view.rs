//! What commands about a VM that lives print with `--json`. Scripts rely on these; they only grow.

use crate::record::OutcomeRecord;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What `outlast vm ping --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmPingView {
    /// The VM's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The incarnation that answered.
    pub incarnation: String,
    /// Its state, as its runner knows it.
    pub state: String,
    /// How long its runner took to answer, in microseconds.
    pub runner_us: u64,
    /// How long the agent in its guest took, likewise; absent while it is paused.
    pub guest_us: Option<u64>,
}

/// What `outlast vm pause --json` and `resume --json` print.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmStateView {
    /// The VM's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `paused` or `running`.
    pub state: String,
    /// Whether it was in that state already.
    pub already: bool,
}

/// What `outlast vm monitor --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmMonitorView {
    /// The VM's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What the command returned, as it came.
    pub said: Value,
}

/// What `outlast vm cp --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmCopyView {
    /// The VM's name.
    pub name: String,
    /// `in` or `out` of the VM.
    pub direction: String,
    /// Regular files that were copied; absent for a stream.
    pub files: Option<u64>,
    /// Their bytes, likewise.
    pub bytes: Option<u64>,
    /// What is no part of the copy and why, a line each.
    pub left_out: Vec<String>,
}

/// What `outlast vm exec --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmExecView {
    /// The VM's name.
    pub name: String,
    /// The incarnation it ran in.
    pub incarnation: String,
    /// The program's number there.
    pub exec: u32,
    /// How it ended.
    pub outcome: OutcomeRecord,
    /// Standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Standard error; bytes that are not UTF-8 are replaced.
    pub stderr: String,
    /// How much of the output was not kept, in bytes.
    pub truncated_bytes: u64,
}

/// What `outlast vm exec --detach --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmDetachedView {
    /// The VM's name.
    pub name: String,
    /// The incarnation it runs in.
    pub incarnation: String,
    /// The program's number there, by which `vm logs --exec` shows what it writes.
    pub exec: u32,
    /// The file to which what it writes is appended.
    pub log: String,
}

/// What `outlast vm stats --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmStatsView {
    /// The VM's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The incarnation.
    pub incarnation: String,
    /// `running` or `paused`.
    pub state: String,
    /// Since it was published, in milliseconds.
    pub up_ms: u64,
    /// vCPUs.
    pub vcpus: u32,
    /// The machine's memory in bytes.
    pub memory: u64,
    /// What its VMM uses.
    pub vmm: Option<ProcessUse>,
    /// What its runner uses.
    pub runner: Option<ProcessUse>,
    /// What its disk uses.
    pub disk: Option<DiskUse>,
    /// What the kernel counts in the control group of its VMM; absent where it is in none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<CgroupUse>,
    /// What its guest says of itself; absent when it is paused or does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestUse>,
}

/// What the kernel counts in a control group; what is not counted is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupUse {
    /// Memory in bytes, caches included.
    pub memory_bytes: Option<u64>,
    /// The limit of that.
    pub memory_limit: Option<u64>,
    /// Processor time so far, in milliseconds.
    pub cpu_ms: Option<u64>,
    /// Processes and threads.
    pub threads: Option<u64>,
    /// The limit of those.
    pub threads_limit: Option<u64>,
}

/// What a guest says of itself: a claim. What it does not say is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestUse {
    /// Its memory in bytes.
    pub memory_bytes: Option<u64>,
    /// What programs could still have of that.
    pub memory_available_bytes: Option<u64>,
    /// Its load of the last minute, times a hundred.
    pub load_1_percent: Option<u64>,
    /// Likewise of the last five minutes.
    pub load_5_percent: Option<u64>,
    /// Likewise of the last fifteen minutes.
    pub load_15_percent: Option<u64>,
    /// Its processes and threads.
    pub threads: Option<u64>,
    /// The size of its root file system in bytes.
    pub root_bytes: Option<u64>,
    /// What could still be written there.
    pub root_free_bytes: Option<u64>,
}

/// What a process uses of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessUse {
    /// Its pid.
    pub pid: u32,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Processor time so far, in milliseconds.
    pub cpu_ms: u64,
}

/// What a disk uses of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUse {
    /// Its size as the guest sees it, in bytes.
    pub size: u64,
    /// What it takes on the host, in bytes.
    pub host_bytes: u64,
}
