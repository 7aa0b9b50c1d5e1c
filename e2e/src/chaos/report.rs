//! The result of chaos, for people (Markdown) and for machines (JSON).

use super::judge::was_too_slow;
use super::{Ended, Flavor, Landed, Life, Proof, Seen};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};
use std::time::Duration;

/// Counts by two words.
type Table = BTreeMap<String, BTreeMap<String, usize>>;

/// Everything that is told.
#[derive(Debug, Serialize)]
pub struct Report {
    /// `pass`, `fail` or `unknown`.
    pub verdict: String,
    /// The seed; with the number of kills it makes the same plan again.
    pub seed: u64,
    /// How many runs.
    pub runs: usize,
    /// How many at once, here and when it was measured how long a run takes.
    pub at_once: usize,
    /// How long all of it took, in seconds.
    pub seconds: u64,
    /// The kernel, the number of CPUs and the load before it began.
    pub host: String,
    /// How long an unharmed run of a kind takes among as many others, in milliseconds: the shortest and the
    /// longest that was seen. Kills by the clock come before the shortest.
    pub lives_ms: BTreeMap<String, [u128; 2]>,
    /// What was proved, and what is missing.
    pub proof: Proof,
    /// By what was run, who was killed and whether that hit: how often each outcome.
    pub outcomes: Table,
    /// By who was killed: how often its workload had got how far (`not_started` at which step, `lost`, …).
    pub reached: Table,
    /// Everything that is wrong.
    pub violations: Vec<String>,
    /// What was checked beside the outcomes, and what came of it.
    pub checks: Vec<(String, String)>,
}

impl Report {
    /// Counts outcomes; the rest is told later.
    pub fn new(seed: u64, at_once: usize, ended: &[Ended], said: &Seen, proof: Proof) -> Self {
        let mut report = Self {
            verdict: String::new(),
            seed,
            runs: ended.len(),
            at_once,
            seconds: 0,
            host: String::new(),
            lives_ms: BTreeMap::new(),
            proof,
            outcomes: Table::new(),
            reached: Table::new(),
            violations: Vec::new(),
            checks: Vec::new(),
        };
        for one in ended {
            report.count(one, said);
        }
        report
    }

    /// How long runs took unharmed.
    pub fn tell_lives(&mut self, lives: &BTreeMap<Flavor, Vec<Life>>) {
        for (flavor, lives) in lives {
            let all = || lives.iter().map(|life| life.whole.as_millis());
            let bounds = [all().min().unwrap_or(0), all().max().unwrap_or(0)];
            self.lives_ms.insert(format!("{flavor:?}"), bounds);
        }
    }

    /// Gives the verdict, which is the last thing to be said.
    pub fn conclude(&mut self, took: Duration, host: String) {
        self.verdict = self.proof.verdict(&self.violations).to_string();
        self.seconds = took.as_secs();
        self.host = host;
    }

    fn count(&mut self, one: &Ended, said: &Seen) {
        let outcome = said.of(one).and_then(|view| view.outcome.as_ref());
        let kind = match outcome {
            None => "never accepted".to_owned(),
            Some(outcome) if was_too_slow(outcome) => "not_started by the boot's deadline".to_owned(),
            Some(outcome) => outcome.kind.clone(),
        };
        let step = outcome.and_then(|outcome| outcome.step.clone());
        let reached = step.map_or_else(|| kind.clone(), |step| format!("{kind} at {step}"));
        let (run, hit) = (&one.run, one.landed == Landed::Hit);
        let what = if hit { format!("{:?} killed", run.target) } else { "ended by itself".to_owned() };
        add(&mut self.outcomes, format!("{:?}, {what}", run.flavor), kind);
        if hit {
            add(&mut self.reached, format!("{:?}", run.target), reached);
        }
    }

    /// For people.
    pub fn markdown(&self) -> String {
        let (mut text, proof) = (String::new(), &self.proof);
        let _ = writeln!(text, "# Chaos: {} kills at random moments\n", proof.meant);
        let _ = writeln!(
            text,
            "Verdict: **{}**. {} runs, {} of them left alone. {} kills hit, {} came too late, {} runs were ended by \
             the boot's deadline. {} at once, {} s, seed {}, {}.\n",
            self.verdict,
            self.runs,
            self.runs - proof.meant,
            proof.hits,
            proof.late,
            proof.slow,
            self.at_once,
            self.seconds,
            self.seed,
            self.host
        );
        let _ = writeln!(
            text,
            "Again with the same plan: `OUTLAST_CHAOS_SEED={} OUTLAST_CHAOS_AT_ONCE={} tools/chaos {}` (moments are \
             fractions of how long a run takes on the host)\n",
            self.seed, self.at_once, proof.meant
        );
        list(&mut text, "Violations", &self.violations);
        list(&mut text, "Why it is not a pass", &proof.doubts);
        text.push_str("| checked | result |\n|---|---|\n");
        for (what, result) in &self.checks {
            let _ = writeln!(text, "| {what} | {result} |");
        }
        table(&mut text, "who, and how far the run had come", &worded(&proof.parts));
        table(&mut text, "meant to start by, and started by", &proof.started);
        let _ = writeln!(
            text,
            "\nNot told: killed before it was published. Of these {} booted, because their VMM was killed while it was \
             restored.",
            proof.fell_back_by_kill
        );
        let _ = write!(text, "\n| unharmed, {} at once | from command to end |\n|---|---|\n", self.at_once);
        for (flavor, [least, most]) in &self.lives_ms {
            let _ = writeln!(text, "| {flavor} | {least} to {most} ms |");
        }
        table(&mut text, "run and kill", &self.outcomes);
        table(&mut text, "killed, with a hit", &self.reached);
        text
    }
}

fn add(table: &mut Table, row: String, word: String) {
    *table.entry(row).or_default().entry(word).or_default() += 1;
}

fn worded(counts: &BTreeMap<impl Debug, BTreeMap<impl Debug, usize>>) -> Table {
    let words =
        |row: &BTreeMap<_, usize>| row.iter().map(|(word, count)| (format!("{word:?}"), *count)).collect();
    counts.iter().map(|(row, counts)| (format!("{row:?}"), words(counts))).collect()
}

fn list(text: &mut String, title: &str, sentences: &[String]) {
    if sentences.is_empty() {
        return;
    }
    let _ = writeln!(text, "## {title}\n");
    for sentence in sentences {
        let _ = writeln!(text, "- {sentence}");
    }
    text.push('\n');
}

fn table(text: &mut String, title: &str, rows: &Table) {
    let _ = write!(text, "\n| {title} | n | of them |\n|---|---|---|\n");
    for (row, counts) in rows {
        let words: Vec<_> = counts.iter().map(|(word, count)| format!("{word} {count}")).collect();
        let _ = writeln!(text, "| {row} | {} | {} |", counts.values().sum::<usize>(), words.join(", "));
    }
}

/// The kernel, the number of CPUs and how busy they are.
pub fn host() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (kernel, load) = (read("/proc/sys/kernel/osrelease"), read("/proc/loadavg"));
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    format!("Linux {}, {cpus} CPUs, load {load} before", kernel.trim())
}
