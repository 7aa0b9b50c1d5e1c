//! What was measured on: without it a table of times says nothing.

use serde::Serialize;
use std::fs;
use std::process::Command;

/// The machine and the versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Facts {
    /// The day, as UTC.
    pub(crate) date: String,
    /// The revision of the sources, with `-dirty` when they were changed.
    pub(crate) revision: String,
    /// What `outlast --version` says.
    pub(crate) outlast: String,
    /// What the VMM root says.
    pub(crate) vmm: String,
    /// `kvm` or `tcg`.
    pub(crate) accelerator: String,
    /// The host's kernel.
    pub(crate) kernel: String,
    /// The host's distribution.
    pub(crate) distribution: String,
    /// The processor.
    pub(crate) processor: String,
    /// How many of it.
    pub(crate) cores: usize,
    /// Memory, as /proc/meminfo says.
    pub(crate) memory: String,
    /// Load averages before the first measurement: above zero, somebody else was there.
    pub(crate) load_before: String,
    /// The nice value of everything that was measured.
    pub(crate) nice: Option<i32>,
}

impl Facts {
    /// Looks. What cannot be found out is said to be unknown.
    pub(crate) fn gather(outlast: String, vmm: String, accelerator: String) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            date: said_by("date", &["-u", "+%Y-%m-%d"]),
            revision: said_by("git", &["describe", "--always", "--dirty"]),
            outlast,
            vmm,
            accelerator,
            kernel: known(read("/proc/sys/kernel/osrelease").trim()),
            distribution: known(value(&read("/etc/os-release"), "PRETTY_NAME", '=').trim_matches('"')),
            processor: known(value(&read("/proc/cpuinfo"), "model name", ':')),
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            memory: known(value(&read("/proc/meminfo"), "MemTotal", ':')),
            load_before: known(
                read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ").as_str(),
            ),
            nice: rustix::process::getpriority_process(None).ok(),
        }
    }

    /// Name and value of each.
    pub(crate) fn rows(&self) -> Vec<(&'static str, String)> {
        vec![
            ("date", self.date.clone()),
            ("revision", self.revision.clone()),
            ("outlast", self.outlast.clone()),
            ("VMM", self.vmm.clone()),
            ("accelerator", self.accelerator.clone()),
            ("processor", format!("{} × {}", self.cores, self.processor)),
            ("memory", self.memory.clone()),
            ("host", format!("{}, Linux {}", self.distribution, self.kernel)),
            ("load before", self.load_before.clone()),
            ("nice value", self.nice.map_or_else(|| known(""), |nice| nice.to_string())),
        ]
    }
}

fn known(text: &str) -> String {
    if text.is_empty() { "unknown".to_owned() } else { text.to_owned() }
}

/// The value behind the first `name`, of `name: value` lines.
fn value<'a>(text: &'a str, name: &str, separator: char) -> &'a str {
    let found = text.lines().find_map(|line| {
        let (left, right) = line.split_once(separator)?;
        (left.trim() == name).then(|| right.trim())
    });
    found.unwrap_or_default()
}

fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success());
    known(
        output
            .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
            .unwrap_or_default()
            .as_str(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stands_behind_its_name() {
        assert_eq!(value("a : 1\nmodel name\t: X 3\n", "model name", ':'), "X 3");
        assert_eq!(known(value("a: 1", "b", ':')), "unknown");
    }
}
