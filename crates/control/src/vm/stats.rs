//! What a VM uses of the host, as the kernel counts it, and what its guest says of itself, where it says it soon.

use super::copy::own_program;
use super::exec::{Company, exec};
use super::living::living;
use crate::clock;
use crate::error::Error;
use crate::follow::Sink;
use crate::site::Site;
use outlast_machine::cgroup::{CgroupUsage, Hierarchy, IncarnationCgroup};
use outlast_machine::host;
use outlast_machine::process::{self, Process, Sighting};
use outlast_model::{IncarnationId, Outcome, VmState, timeout};
use outlast_store::IncarnationRow;
use outlast_wire::guest::usage::{USAGE, Usage};
use outlast_wire::identity::ProcessIdentity;
use outlast_wire::output_log::Stream;
use outlast_wire::vm_live_view::{CgroupUse, DiskUse, GuestUse, ProcessUse, VmStatsView};
use std::io;
use std::path::Path;
use std::time::Duration;

/// How long the guest may take to say what it uses.
const GUEST_SAYS_WITHIN: Duration = timeout::CONTROL;
/// Bytes of what it says that are looked at.
const SAID_AT_MOST: usize = 4096;

/// Clock ticks of /proc a second: USER_HZ, which is 100 on every architecture that outlast runs on.
const TICKS: u64 = 100;

/// What a VM uses at this moment.
///
/// # Errors
/// [`crate::VmError::NotRunning`] when nothing of it lives.
pub fn stats(site: &Site, name: &str) -> Result<VmStatsView, Error> {
    let living = living(site, name)?;
    let row = &living.row;
    let since = row.running_unix_ns.unwrap_or(row.created_unix_ns);
    let spec = &living.vm.spec;
    let disk = site.places().vm(living.vm.id).disk_of(living.vm.disk_of);
    let guest = if living.vm.state == VmState::Paused { None } else { guest_use(site, name) };
    Ok(VmStatsView {
        id: living.vm.id.to_string(),
        name: living.name(),
        incarnation: row.id.to_string(),
        state: living.vm.state.name().to_owned(),
        up_ms: clock::unix_ns().saturating_sub(since) / 1_000_000,
        vcpus: spec.vcpus().get(),
        memory: spec.memory().bytes(),
        vmm: vmm_pid(row).and_then(use_of),
        runner: row.runner.as_ref().and_then(|runner| use_of(runner.pid)),
        disk: disk_use(&disk, spec.disk().size().bytes()),
        cgroup: cgroup_use(site, row.id),
        guest,
    })
}

/// A host without control groups counts nothing; neither does one whose groups cannot be found.
fn cgroup_use(site: &Site, id: IncarnationId) -> Option<CgroupUse> {
    let hierarchy = Hierarchy::detect_or_do_without().ok()?;
    let usage = IncarnationCgroup::named(&hierarchy, site.store().ok()?.id(), id).usage();
    (usage != CgroupUsage::default()).then_some(CgroupUse {
        memory_bytes: usage.memory,
        memory_limit: usage.memory_limit,
        cpu_ms: usage.processor_us.map(|us| us / 1000),
        threads: usage.threads,
        threads_limit: usage.threads_limit,
    })
}

/// What the guest says of itself, if it does within [`GUEST_SAYS_WITHIN`]: a guest that is too busy to answer, or of an
/// earlier version, is no reason to tell nothing.
fn guest_use(site: &Site, name: &str) -> Option<GuestUse> {
    let request = own_program(&[USAGE], Some(GUEST_SAYS_WITHIN));
    let mut said = Said::default();
    let company =
        Company { sink: &mut said, input: None, signals: None, size: None, passes_interrupt: false };
    let ended = exec(site, name, request).and_then(|program| program.attend(company));
    match ended {
        Ok(ended) if ended.outcome == Outcome::Completed => {}
        other => {
            tracing::debug!(?other, "the guest does not say what it uses");
            return None;
        }
    }
    let usage = Usage::parse(&String::from_utf8_lossy(&said.0));
    Some(GuestUse {
        memory_bytes: usage.memory_total,
        memory_available_bytes: usage.memory_available,
        load_1_percent: usage.load_1_percent,
        load_5_percent: usage.load_5_percent,
        load_15_percent: usage.load_15_percent,
        threads: usage.threads,
        root_bytes: usage.root_total,
        root_free_bytes: usage.root_free,
    })
}

/// What the guest's side says, no more of it than it can have to say.
#[derive(Default)]
struct Said(Vec<u8>);

impl Sink for Said {
    fn write(&mut self, _: Stream, bytes: &[u8]) -> io::Result<()> {
        let room = SAID_AT_MOST.saturating_sub(self.0.len());
        self.0.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(())
    }
}

/// The pid of an incarnation's VMM as it is seen from here. The row has the one that its runner sees, in a PID
/// namespace of its own; the VMM is that child of the runner's which has it there, and started when it did.
pub(super) fn vmm_pid(row: &IncarnationRow) -> Option<u32> {
    let (runner, vmm) = (row.runner.as_ref()?, row.vmm.as_ref()?);
    let Sighting::Alive(held) = Process::open(runner) else { return None };
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", runner.pid)).ok()?;
    let found = children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(|pid| is_vmm(*pid, vmm));
    // What was read is the runner's if it lived all the while.
    matches!(held.is_dead(), Ok(false)).then_some(found).flatten()
}

fn is_vmm(pid: u32, vmm: &ProcessIdentity) -> bool {
    let same_start = process::identity_of(pid).is_ok_and(|found| found.start_time == vmm.start_time);
    same_start
        && status(pid, "NSpid")
            .is_some_and(|pids| pids.split_whitespace().last() == Some(&vmm.pid.to_string()))
}

fn status(pid: u32, field: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.map(|value| value.trim().to_owned())
}

fn use_of(pid: u32) -> Option<ProcessUse> {
    let resident = status(pid, "VmRSS")?;
    let kib: u64 = resident.split_whitespace().next()?.parse().ok()?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(ProcessUse { pid, resident_bytes: kib.saturating_mul(1024), cpu_ms: cpu_ms(&stat)? })
}

/// User and system time of all threads (proc_pid_stat(5), fields 14 and 15).
fn cpu_ms(stat: &str) -> Option<u64> {
    // The name before them may hold anything but is in parentheses.
    let (_, behind) = stat.rsplit_once(')')?;
    let mut fields = behind.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user.saturating_add(system).saturating_mul(1000 / TICKS))
}

fn disk_use(path: &Path, size: u64) -> Option<DiskUse> {
    let metadata = path.metadata().ok()?;
    Some(DiskUse { size, host_bytes: host::bytes_on_disk(&metadata) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0 1 1 1";
        assert_eq!(cpu_ms(stat), Some(2000));
        assert_eq!(cpu_ms("rubbish"), None);
    }

    #[test]
    fn this_process_uses_memory() {
        let used = use_of(std::process::id()).unwrap();
        assert!(used.resident_bytes > 100 * 1024, "{used:?}");
    }
}
