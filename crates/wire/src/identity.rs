//! Who a process is, written down: enough to tell it from a later one that got the same pid.

use serde::{Deserialize, Serialize};

/// The identity of a process. The pid is as the writer's observer saw it; alone it means nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// The pid in the PID namespace of the process that wrote this down (the launcher's, for runners).
    pub pid: u32,
    /// When it started, in clock ticks since boot (proc_pid_stat(5), field 22).
    pub start_time: u64,
    /// The host's boot id (/proc/sys/kernel/random/boot_id).
    pub boot_id: String,
    /// The inode of the PID namespace the process lives in.
    pub pid_namespace: u64,
    /// The inode of the PID namespace in which `pid` means that. Whoever looks from another one cannot tell
    /// whether the process lives: there the pid is somebody else's, or nobody's.
    pub observer_namespace: u64,
}
