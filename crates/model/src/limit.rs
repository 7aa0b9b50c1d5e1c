//! Every limit of the system that a person can run into, in one table.

use crate::unit::{Age, Memory};

/// An archive of source code may be this large, packed.
pub const ARCHIVE_BYTES: u64 = 10 * 1024 * 1024;
/// One source file may be this large.
pub const SOURCE_BYTES: u64 = 10 * 1024 * 1024;
/// An archive may hold this many entries.
pub const ARCHIVE_ENTRIES: usize = 10_000;
/// Standard input from a file may be this large.
pub const STDIN_BYTES: u64 = 1024 * 1024 * 1024;
/// What is kept of a program's output unless asked otherwise.
pub const OUTPUT_BYTES: u64 = 16 * 1024 * 1024;
/// The most that may be asked to be kept of a program's output.
pub const OUTPUT_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// What is kept of a guest's console.
pub const CONSOLE_BYTES: u64 = 1024 * 1024;
/// The same of a long-lived VM's guest, at whose console somebody may sit: what is over it is not shown any more.
pub const VM_CONSOLE_BYTES: u64 = 16 * CONSOLE_BYTES;
/// What is kept of what a VMM says on standard error.
pub const VMM_LOG_BYTES: u64 = 256 * 1024;
/// Files a program hands back may together be this large.
pub const RETURNED_BYTES: u64 = 256 * 1024 * 1024;
/// A program may hand back this many files.
pub const RETURNED_FILES: u32 = 10_000;
/// Arguments and environment together.
pub const ARGUMENT_BYTES: usize = 128 * 1024;
/// Processes and threads a workload may have in its guest.
pub const GUEST_PIDS: u32 = 1024;
/// Machine memory comes in steps of this, which keeps the number of templates small.
pub const MEMORY_STEP: Memory = mib(64);
/// A VM's disk may be this small.
pub const DISK_LEAST: Memory = mib(64);
/// A VM's disk may be this large.
pub const DISK_MOST: Memory = mib(16 * 1024 * 1024);
/// A name of a VM or of a snapshot may be this long: what an RFC 1123 label holds.
pub const NAME_BYTES: usize = 63;
/// A file that describes a VM may be this large.
pub const VM_FILE_BYTES: u64 = 64 * 1024;
/// The manifest of a snapshot may be this large.
pub const SNAPSHOT_MANIFEST_BYTES: usize = 64 * 1024;
/// Free space that must be left on the disk of the home before a workload is accepted.
pub const DISK_RESERVE: u64 = 64 * 1024 * 1024;
/// A program whose output would leave less than this on that disk is ended: its outcome must still fit.
pub const OUTPUT_RESERVE: u64 = DISK_RESERVE / 2;
/// So much of a program's output may lie unread where its reader takes what it has read out of the log, in bytes.
pub const UNREAD_BYTES: u64 = 64 * 1024 * 1024;
/// An idempotency key may be this long.
pub const IDEMPOTENCY_KEY_BYTES: usize = 255;
/// Templates of one library may together take this much disk; beyond it those unused for longest make room for new ones.
pub const TEMPLATES_BYTES: u64 = 10 * 1024 * 1024 * 1024;
/// A template that was not used for so long is removed by a prune that says nothing else.
pub const TEMPLATE_AGE: Age = Age::from_days(30);
/// Evidence (logs, journals, files handed back) is kept of so many runs that are over, the newest.
pub const EVIDENCE_RUNS: usize = 1000;
/// And of none that ended longer ago than this.
pub const EVIDENCE_AGE: Age = Age::from_days(30);

const fn mib(count: u64) -> Memory {
    match Memory::from_mib(count) {
        Some(size) => size,
        None => panic!("a limit is more than zero"),
    }
}
