//! Time and randomness of this host, read here and handed on as values: nothing else in this crate asks for them.

use outlast_model::{IncarnationId, SnapshotId, VmId, WorkloadId};
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, clock_gettime};
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Wall clock, in nanoseconds since the Unix epoch. A clock before 1970 counts as the epoch.
pub(crate) fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// CLOCK_BOOTTIME: since the host was booted, suspended time included. The runner's heartbeat holds the same.
pub(crate) fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// An id for a new workload.
///
/// # Errors
/// The kernel gives no random bytes.
pub(crate) fn new_workload_id() -> io::Result<WorkloadId> {
    Ok(WorkloadId::from_parts(unix_ns() / 1_000_000, random_bits()?))
}

/// An id for a new incarnation.
///
/// # Errors
/// The kernel gives no random bytes.
pub(crate) fn new_incarnation_id() -> io::Result<IncarnationId> {
    Ok(IncarnationId::from_parts(unix_ns() / 1_000_000, random_bits()?))
}

/// An id for a new VM.
///
/// # Errors
/// The kernel gives no random bytes.
pub(crate) fn new_vm_id() -> io::Result<VmId> {
    Ok(VmId::from_parts(unix_ns() / 1_000_000, random_bits()?))
}

/// An id for a new snapshot.
///
/// # Errors
/// The kernel gives no random bytes.
pub(crate) fn new_snapshot_id() -> io::Result<SnapshotId> {
    Ok(SnapshotId::from_parts(unix_ns() / 1_000_000, random_bits()?))
}

fn random_bits() -> io::Result<u128> {
    let mut bytes = [0; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        // Sixteen bytes come whole once the generator is up; before that a signal may cut them short.
        match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(u128::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ids_differ_and_carry_the_time() {
        let (first, second) = (new_workload_id().unwrap(), new_workload_id().unwrap());
        assert_ne!(first, second);
        assert!(second.unix_ms().abs_diff(unix_ns() / 1_000_000) < 60_000);
    }
}
