//! How much memory a process takes, by smaps_rollup (proc(5)).

use anyhow::Context as _;
use serde::Serialize;

/// Memory of one process in MiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Memory {
    /// Resident, shared pages counted in full.
    pub(crate) rss: f64,
    /// Resident, shared pages divided among those who share them: these add up.
    pub(crate) pss: f64,
    /// Resident and nobody else's.
    pub(crate) private: f64,
}

/// What a process takes now.
pub(crate) fn of_process(pid: u32) -> anyhow::Result<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    parse(&text).with_context(|| format!("{path} does not say"))
}

fn parse(text: &str) -> Option<Memory> {
    let mib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib / 1024.0)
    };
    Some(Memory {
        rss: mib("Rss")?,
        pss: mib("Pss")?,
        private: mib("Private_Clean")? + mib("Private_Dirty")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollup_is_read() {
        let text = "00400000-7ffe [rollup]\nRss:   2048 kB\nPss:  1024 kB\nPss_Dirty: 9 kB\n\
                    Shared_Clean: 7 kB\nPrivate_Clean:    256 kB\nPrivate_Dirty:  256 kB\n";
        assert_eq!(parse(text), Some(Memory { rss: 2.0, pss: 1.0, private: 0.5 }));
        assert_eq!(parse("Rss: 1 kB\n"), None);
    }
}
