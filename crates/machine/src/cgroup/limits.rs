//! Limits of a VMM's control group: how much memory, processor time and how many threads it may have.
//!
//! The files' names differ between v1 and v2; what they mean does not. A controller that this host does not give
//! leaves its limit out, and [`VmmCgroup::limit`] says which ones stand. Not responsible for what the values are:
//! a VMM's driver knows what it needs.

use super::{CgroupError, VmmCgroup};
use std::num::NonZero;
use std::path::Path;

/// The time over which processor time is counted, in microseconds: the kernel's own default.
const CPU_PERIOD_US: u64 = 100_000;

/// What a VMM may use of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Memory in bytes: the guest's, and what the VMM needs for itself. Swap is not given beyond it.
    pub memory: u64,
    /// Processor time in thousandths of a processor.
    pub cpu_milli: u64,
    /// Threads; the VMM itself is one.
    pub threads: u64,
}

/// Which limits the kernel keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limited {
    /// Memory.
    pub memory: bool,
    /// Processor time.
    pub cpu: bool,
    /// Threads.
    pub threads: bool,
}

impl VmmCgroup {
    /// Whether its memory can be limited: a group may be there without the controller, where it is not handed down.
    pub fn limits_memory(&self) -> bool {
        let files = ["memory.max", "memory.limit_in_bytes"];
        let directories = self.procs.iter().filter_map(|procs| procs.parent());
        directories.flat_map(|directory| files.map(|file| directory.join(file))).any(|path| path.exists())
    }

    /// Sets the limits, before anything is put in. Says which controllers were there to take them.
    ///
    /// # Errors
    /// [`CgroupError::Limit`]: the controller is there and refuses the value.
    pub fn limit(&self, limits: &Limits) -> Result<Limited, CgroupError> {
        let mut limited = Limited::default();
        for directory in self.procs.iter().filter_map(|procs| procs.parent()) {
            limited.memory |= limit_memory(directory, limits.memory)?;
            limited.cpu |= limit_cpu(directory, limits.cpu_milli)?;
            limited.threads |= set(directory, "pids.max", &limits.threads.to_string())?;
        }
        Ok(limited)
    }
}

/// Without swap: a VMM beyond its limit would otherwise fill the host's swap instead of its memory. On v1 the sum
/// of both is limited, which may not be below the limit of memory alone, so that one comes first.
fn limit_memory(directory: &Path, bytes: u64) -> Result<bool, CgroupError> {
    let value = bytes.to_string();
    let set_one = |file: &str, value: &str| set(directory, file, value);
    let v2 = set_one("memory.max", &value)?;
    set_one("memory.swap.max", "0")?;
    let v1 = set_one("memory.limit_in_bytes", &value)?;
    set_one("memory.memsw.limit_in_bytes", &value)?;
    Ok(v1 || v2)
}

/// A limit, and a weight of the same size: of two VMMs the one with twice the processors gets twice the time when
/// both want it.
fn limit_cpu(directory: &Path, milli: u64) -> Result<bool, CgroupError> {
    set(directory, "cpu.weight", &(milli / 10).clamp(1, 10_000).to_string())?;
    set(directory, "cpu.shares", &(milli.saturating_mul(1024) / 1000).clamp(2, 262_144).to_string())?;
    let quota = milli.saturating_mul(CPU_PERIOD_US) / 1000;
    let v2 = set(directory, "cpu.max", &format!("{quota} {CPU_PERIOD_US}"))?;
    set(directory, "cpu.cfs_period_us", &CPU_PERIOD_US.to_string())?;
    let v1 = set(directory, "cpu.cfs_quota_us", &quota.to_string())?;
    Ok(v1 || v2)
}

/// On v1 a group weighs as much as a single process beside it, and all VMMs together are in one: lets them weigh as
/// much as a process on every processor. On v2 groups are beside groups, and their weights are for who runs the host.
pub(super) fn weigh_all(directory: &Path) {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    // Without it VMMs are slower on a busy host, and nothing else.
    let _ = set(directory, "cpu.shares", &processors.saturating_mul(1024).to_string());
}

/// Writes a value where there is such a file. A new file is never made: a plain directory is no control group.
pub(super) fn set(directory: &Path, file: &str, value: &str) -> Result<bool, CgroupError> {
    let path = directory.join(file);
    let opened = match std::fs::OpenOptions::new().write(true).open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        opened => opened,
    };
    let written = opened.and_then(|opened| Ok(rustix::io::write(&opened, value.as_bytes())?));
    written.map(|_| true).map_err(|source| CgroupError::Limit { path, value: value.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { memory: 1 << 30, cpu_milli: 1500, threads: 80 };

    fn group(files: &[&str]) -> (VmmCgroup, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        for file in files {
            std::fs::write(directory.path().join(file), "").unwrap();
        }
        (VmmCgroup { procs: vec![directory.path().join("cgroup.procs")] }, directory)
    }

    fn read(directory: &tempfile::TempDir, file: &str) -> String {
        std::fs::read_to_string(directory.path().join(file)).unwrap()
    }

    #[test]
    fn limits_are_written_in_the_words_of_v2() {
        let (group, directory) = group(&["memory.max", "memory.swap.max", "cpu.max", "pids.max"]);
        let all = Limited { memory: true, cpu: true, threads: true };
        assert_eq!(group.limit(&LIMITS).unwrap(), all);
        assert_eq!(read(&directory, "memory.max"), "1073741824");
        assert_eq!(read(&directory, "memory.swap.max"), "0");
        assert_eq!(read(&directory, "cpu.max"), "150000 100000");
        assert_eq!(read(&directory, "pids.max"), "80");
    }

    #[test]
    fn limits_are_written_in_the_words_of_v1() {
        let files =
            ["memory.limit_in_bytes", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.shares", "pids.max"];
        let (group, directory) = group(&files);
        assert!(group.limit(&LIMITS).unwrap().memory);
        assert_eq!(read(&directory, "memory.limit_in_bytes"), "1073741824");
        assert_eq!(read(&directory, "cpu.cfs_quota_us"), "150000");
        assert_eq!(read(&directory, "cpu.shares"), "1536");
        assert!(!directory.path().join("memory.memsw.limit_in_bytes").exists(), "no file is made");
    }

    #[test]
    fn a_controller_that_is_not_there_limits_nothing_and_says_so() {
        let (group, _directory) = group(&["pids.max"]);
        let limited = group.limit(&LIMITS).unwrap();
        assert_eq!(limited, Limited { threads: true, ..Limited::default() });
        assert_eq!(VmmCgroup::none().limit(&LIMITS).unwrap(), Limited::default());
    }

    #[test]
    fn a_controller_that_refuses_is_an_error() {
        let (group, directory) = group(&[]);
        std::fs::create_dir(directory.path().join("pids.max")).unwrap();
        let error = group.limit(&LIMITS).unwrap_err();
        assert!(matches!(&error, CgroupError::Limit { value, .. } if value == "80"), "{error}");
    }
}
