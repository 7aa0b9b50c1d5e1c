//! What the kernel counts in a control group: the evidence for why something in it ended.
//!
//! v1 and v2 count the same things in other files. What a file does not tell is unknown, never zero. Not here: what
//! follows from a count.

use std::path::Path;

/// What was counted in a group since it was made; `None` where it is not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CgroupEvents {
    /// Processes in it that the kernel killed for want of memory: the group's, or the whole host's.
    pub oom_kills: Option<u64>,
    /// How often its memory limit was reached. What could be given back was given back then.
    pub memory_limit_hits: Option<u64>,
    /// How often a process or thread was refused at its limit.
    pub refused_processes: Option<u64>,
}

impl CgroupEvents {
    /// Reads the files of the group in the trees of the memory and pids controllers, on v1 and v2 alike.
    pub(super) fn read(memory: Option<&Path>, pids: Option<&Path>) -> Self {
        let read = |directory: Option<&Path>, file: &str| std::fs::read_to_string(directory?.join(file)).ok();
        // Only one of the two versions' files is there.
        let v2 = read(memory, "memory.events");
        let count = |text: &Option<String>, key: &str| field(text.as_deref()?, key);
        Self {
            oom_kills: count(&v2, "oom_kill")
                .or_else(|| count(&read(memory, "memory.oom_control"), "oom_kill")),
            memory_limit_hits: count(&v2, "max")
                .or_else(|| read(memory, "memory.failcnt")?.trim().parse().ok()),
            refused_processes: count(&read(pids, "pids.events"), "max"),
        }
    }

    /// A sentence for each thing that happened; none for what did not, or is not counted.
    pub fn sentences(&self) -> Vec<String> {
        let said = |count: Option<u64>, what: &str| {
            let count = count.filter(|count| *count > 0)?;
            Some(format!("the VMM's cgroup counts {count} {what}"))
        };
        let all = [
            said(self.oom_kills, "processes killed for want of memory"),
            said(self.memory_limit_hits, "times at its memory limit"),
            said(self.refused_processes, "processes or threads refused at its limit"),
        ];
        all.into_iter().flatten().collect()
    }
}

/// The value of `key` in lines of `KEY VALUE`.
fn field(text: &str, key: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(name, _)| *name == key).and_then(|(_, value)| value.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn group(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        directory
    }

    #[test]
    fn both_versions_are_read() {
        let v2 = group(&[
            ("memory.events", "low 0\nhigh 0\nmax 4\noom 1\noom_kill 2\noom_group_kill 1\n"),
            ("pids.events", "max 0\n"),
        ]);
        let found = CgroupEvents::read(Some(v2.path()), Some(v2.path()));
        let expected =
            CgroupEvents { oom_kills: Some(2), memory_limit_hits: Some(4), refused_processes: Some(0) };
        assert_eq!(found, expected);
        assert_eq!(found.sentences().len(), 2);

        let memory = group(&[
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"),
            ("memory.failcnt", "12\n"),
        ]);
        let found = CgroupEvents::read(Some(memory.path()), None);
        let expected =
            CgroupEvents { oom_kills: Some(7), memory_limit_hits: Some(12), refused_processes: None };
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_not_told_is_unknown() {
        let nothing = group(&[("memory.events", "oom_kill x\n")]);
        assert_eq!(CgroupEvents::read(Some(nothing.path()), Some(nothing.path())), CgroupEvents::default());
        assert_eq!(CgroupEvents::default().sentences(), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,100}", key in "[a-z_]{0,9}") {
            let _ = field(&text, &key);
        }
    }
}
