//! What QEMU needs beside its guest: the sizes of its limits, as a pure function of the plan.
//!
//! A limit that is too small kills a good guest, one that is too large protects the host from nothing. The
//! numbers were measured; docs/decisions/0010 has them.

use super::arguments::TRANSLATIONS_MIB;
use crate::backend::{LaunchPlan, MemoryBacking};
use crate::cgroup::Limits;
use crate::jail;

/// QEMU itself, in bytes: code, heap, stacks, device buffers, page tables. Measured: 40 MiB at most.
const OVERHEAD: u64 = 128 << 20;
/// What a vCPU adds under emulation beside translated code (its TLB and thread), in bytes.
const PER_VCPU: u64 = 16 << 20;
/// Threads beside the vCPUs: the main loop, RCU, up to 64 workers of the block layer, a migration's.
const THREADS: u64 = 80;
/// Processor time of the main loop, beside a whole processor for each vCPU, in thousandths.
const MAIN_LOOP_MILLI: u64 = 500;

/// Descriptors: channels, files, one for each event and each connection.
const OPEN_FILES: u64 = 512;
/// Memory that is mapped and never used, in bytes: stacks and heaps of threads, code of libraries. Measured: 520 MiB at
/// most with five threads; each further one takes 8 MiB, and a heap of its own while there is room for one.
const RESERVED: u64 = 2 << 30;
/// Device state that is saved goes to a file, and is some 400 kB.
const SAVED: u64 = 64 << 20;
/// What QEMU's own disk format adds to a disk of any size, in bytes; and which part of its size, for the tables that
/// find its clusters (with the usual clusters of 64 KiB: 8 bytes each for where it is, 2 for how often it is used).
const DISK_OVERHEAD: u64 = 64 << 20;
const DISK_TABLES: u64 = 1024;

/// The limits of the plan's VMM, as a group.
pub(super) fn limits(plan: &LaunchPlan) -> Limits {
    let machine = &plan.machine;
    let vcpus = u64::from(machine.vcpus);
    let emulation = match machine.accelerator.as_str() {
        "kvm" => 0,
        _ => (u64::from(TRANSLATIONS_MIB) << 20).saturating_add(PER_VCPU.saturating_mul(vcpus)),
    };
    Limits {
        memory: machine.memory.saturating_add(OVERHEAD).saturating_add(emulation),
        cpu_milli: vcpus.saturating_mul(1000).saturating_add(MAIN_LOOP_MILLI),
        threads: vcpus.saturating_add(THREADS),
    }
}

/// The limits of the plan's VMM, as a process, where its group counts its memory and where it does not. The file of a
/// template's memory has its size already, and so has a raw disk; but no byte may be written beyond the limit, wherever a
/// file ends.
pub(super) fn of_process(
    plan: &LaunchPlan,
    memory_is_counted: bool,
    disk_bytes: Option<u64>,
) -> jail::Limits {
    let group = limits(plan);
    let disk = |bytes: u64| bytes.saturating_add(bytes / DISK_TABLES).saturating_add(DISK_OVERHEAD);
    jail::Limits {
        threads: group.threads,
        // A group counts what is used, which is better; with neither, a VMM that was taken over could take it all.
        address_space: (!memory_is_counted).then(|| group.memory.saturating_add(RESERVED)),
        open_files: OPEN_FILES,
        file_size: match plan.memory {
            MemoryBacking::SharedFile(_) => SAVED,
            MemoryBacking::Anonymous | MemoryBacking::PrivateFile(_) => 0,
        }
        .max(disk_bytes.map_or(0, disk)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::fixture;

    #[test]
    fn emulation_has_room_for_translated_code_and_hardware_does_not_need_it() {
        let mut plan = fixture::plan();
        let emulated = limits(&plan);
        assert_eq!(emulated.memory, (256 + 128 + 256 + 16) << 20);
        assert_eq!((emulated.cpu_milli, emulated.threads), (1500, 81));
        plan.machine.accelerator = "kvm".to_owned();
        assert_eq!(limits(&plan).memory, (256 + 128) << 20);
    }

    #[test]
    fn no_plan_overflows() {
        let mut plan = fixture::plan();
        (plan.machine.memory, plan.machine.vcpus) = (u64::MAX, u32::MAX);
        assert_eq!(limits(&plan).memory, u64::MAX);
        assert_eq!(of_process(&plan, false, None).address_space, Some(u64::MAX));
        assert_eq!(of_process(&plan, true, None).address_space, None);
        assert_eq!(of_process(&plan, true, Some(u64::MAX)).file_size, u64::MAX);
    }

    #[test]
    fn a_disk_may_be_written_to_its_end_and_nothing_without_one() {
        let plan = fixture::plan();
        assert_eq!(of_process(&plan, true, None).file_size, 0);
        assert!(of_process(&plan, true, Some(1 << 30)).file_size > (1 << 30) + (1 << 20));
    }
}
