//! What the kernel counts in a control group at this moment. v1 and v2 count the same things in other files; what a file
//! does not tell is unknown, never zero.

use std::path::Path;

/// What a group uses; `None` where it is not counted, or not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CgroupUsage {
    /// Memory in bytes, caches included.
    pub memory: Option<u64>,
    /// The limit of that.
    pub memory_limit: Option<u64>,
    /// Processor time in microseconds.
    pub processor_us: Option<u64>,
    /// Processes and threads.
    pub threads: Option<u64>,
    /// The limit of those.
    pub threads_limit: Option<u64>,
}

/// v1 says "no limit" by a number that no memory has (PAGE_COUNTER_MAX in bytes).
const UNLIMITED: u64 = 1 << 62;

impl CgroupUsage {
    /// Reads the files of the group in the trees of these controllers, on v1 and v2 alike.
    pub(super) fn read(memory: Option<&Path>, processor: Option<&Path>, pids: Option<&Path>) -> Self {
        let text = |directory: Option<&Path>, file: &str| std::fs::read_to_string(directory?.join(file)).ok();
        let number = |directory, file: &str| text(directory, file)?.trim().parse::<u64>().ok();
        let processor_v2 = || {
            let stat = text(processor, "cpu.stat")?;
            let line = stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
            line.trim().parse().ok()
        };
        let limit = number(memory, "memory.max").or_else(|| number(memory, "memory.limit_in_bytes"));
        Self {
            memory: number(memory, "memory.current").or_else(|| number(memory, "memory.usage_in_bytes")),
            memory_limit: limit.filter(|limit| *limit < UNLIMITED),
            processor_us: processor_v2()
                .or_else(|| number(processor, "cpuacct.usage").map(|nanoseconds| nanoseconds / 1000)),
            threads: number(pids, "pids.current"),
            threads_limit: number(pids, "pids.max"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_read() {
        let group = |files: &[(&str, &str)]| {
            let directory = tempfile::tempdir().unwrap();
            for (name, text) in files {
                std::fs::write(directory.path().join(name), text).unwrap();
            }
            directory
        };
        let read = |group: &tempfile::TempDir| {
            CgroupUsage::read(Some(group.path()), Some(group.path()), Some(group.path()))
        };
        let v2 = group(&[
            ("memory.current", "100\n"),
            ("memory.max", "max\n"),
            ("cpu.stat", "usage_usec 5000\nuser_usec 1\n"),
            ("pids.current", "7\n"),
            ("pids.max", "64\n"),
        ]);
        let expected = CgroupUsage {
            memory: Some(100),
            memory_limit: None,
            processor_us: Some(5000),
            threads: Some(7),
            threads_limit: Some(64),
        };
        assert_eq!(read(&v2), expected);
        let v1 = group(&[
            ("memory.usage_in_bytes", "100\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("cpuacct.usage", "5000000\n"),
            ("pids.current", "7\n"),
            ("pids.max", "64\n"),
        ]);
        assert_eq!(read(&v1), expected);
        assert_eq!(read(&group(&[])), CgroupUsage::default());
    }
}
