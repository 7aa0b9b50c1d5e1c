//! The result of chaos, for people (Markdown) and for machines (JSON).

use super::judge::was_too_slow;
use super::{Ended, Landed};
use outlast_wire::view::WorkloadView;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// Everything that is told.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The seed; with the number of runs it makes the same plan again.
    pub seed: u64,
    /// How many runs.
    pub runs: usize,
    /// How many at once.
    pub at_once: usize,
    /// Kills that hit.
    pub hits: usize,
    /// Kills that came when the run was over.
    pub over: usize,
    /// How long all of it took, in seconds.
    pub seconds: u64,
    /// The kernel and the number of CPUs.
    pub host: String,
    /// By what was run, who was killed and whether that hit: how often each outcome.
    pub outcomes: BTreeMap<String, BTreeMap<String, usize>>,
    /// By who was killed: how often its workload had got how far (`not_started` at which step, `lost`, …).
    pub reached: BTreeMap<String, BTreeMap<String, usize>>,
    /// Everything that is wrong.
    pub violations: Vec<String>,
    /// What was checked beside the outcomes, and what came of it.
    pub checks: Vec<(String, String)>,
}

impl Report {
    /// Counts.
    pub fn new(
        seed: u64,
        at_once: usize,
        ended: &[Ended],
        workloads: &[WorkloadView],
        took: Duration,
    ) -> Self {
        let mut report = Self {
            seed,
            runs: ended.len(),
            at_once,
            hits: ended.iter().filter(|one| one.landed == Landed::Hit).count(),
            over: ended.iter().filter(|one| one.landed == Landed::Over).count(),
            seconds: took.as_secs(),
            host: host(),
            outcomes: BTreeMap::new(),
            reached: BTreeMap::new(),
            violations: Vec::new(),
            checks: Vec::new(),
        };
        for one in ended {
            let mark = one.run.mark();
            let view = workloads.iter().find(|view| view.argv.iter().any(|word| word.contains(&mark)));
            let outcome = view.and_then(|view| view.outcome.as_ref());
            let kind = match outcome {
                None => "never accepted".to_owned(),
                Some(outcome) if was_too_slow(outcome) => "not_started by the boot's deadline".to_owned(),
                Some(outcome) => outcome.kind.clone(),
            };
            let step = outcome.and_then(|outcome| outcome.step.clone());
            let reached = step.map_or_else(|| kind.clone(), |step| format!("{kind} at {step}"));
            let hit = one.landed == Landed::Hit;
            let row = format!(
                "{:?}, {}",
                one.run.flavor,
                if hit { format!("{:?} killed", one.run.target) } else { "kill came too late".to_owned() }
            );
            *report.outcomes.entry(row).or_default().entry(kind).or_default() += 1;
            if hit {
                *report
                    .reached
                    .entry(format!("{:?}", one.run.target))
                    .or_default()
                    .entry(reached)
                    .or_default() += 1;
            }
        }
        report
    }

    /// For people.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "# Chaos: {} runs, each with a random kill at a random moment\n", self.runs);
        let verdict = if self.violations.is_empty() { "pass" } else { "FAIL" };
        let _ = writeln!(
            text,
            "Verdict: **{verdict}**. {} kills hit, {} came when the run was over and count as none. {} at once, \
             {} s, seed {}, {}.\n",
            self.hits, self.over, self.at_once, self.seconds, self.seed, self.host
        );
        let _ = writeln!(
            text,
            "Again with the same plan: `OUTLAST_CHAOS_SEED={} tools/chaos {}`\n",
            self.seed, self.runs
        );
        text.push_str("| checked | result |\n|---|---|\n");
        for (what, result) in &self.checks {
            let _ = writeln!(text, "| {what} | {result} |");
        }
        table(&mut text, "run and kill", &self.outcomes);
        table(&mut text, "killed, with a hit", &self.reached);
        if !self.violations.is_empty() {
            text.push_str("\n## Violations\n\n");
            for violation in &self.violations {
                let _ = writeln!(text, "- {violation}");
            }
        }
        text
    }
}

fn table(text: &mut String, title: &str, rows: &BTreeMap<String, BTreeMap<String, usize>>) {
    let _ = write!(text, "\n| {title} | n | outcomes |\n|---|---|---|\n");
    for (row, outcomes) in rows {
        let counts: Vec<_> = outcomes.iter().map(|(outcome, count)| format!("{outcome} {count}")).collect();
        let _ = writeln!(text, "| {row} | {} | {} |", outcomes.values().sum::<usize>(), counts.join(", "));
    }
}

fn host() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    format!("Linux {}, {cpus} CPUs", kernel.trim())
}
