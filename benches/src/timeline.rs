//! Where the time went: the journal of an incarnation as durations, and the medians of many of them.

use crate::statistics::Series;
use outlast_wire::journal::{Journal, JournalEntry, StepPhase};
use std::collections::BTreeMap;

/// The boot step after which a guest is certified.
const CERTIFY: &str = "certify";

/// Durations in milliseconds, by the name of the stretch, in the order of the first incarnation seen.
#[derive(Debug, Default)]
pub(crate) struct Timeline {
    order: Vec<String>,
    stretches: BTreeMap<String, Series>,
}

impl Timeline {
    /// Adds what one incarnation did. `began_unix_ns` is when its command was typed.
    pub(crate) fn add(&mut self, began_unix_ns: u64, journal: &Journal) {
        self.add_stretches(stretches(began_unix_ns, journal));
    }

    /// Adds stretches that were measured otherwise, in milliseconds.
    pub(crate) fn add_stretches(&mut self, stretches: impl IntoIterator<Item = (String, f64)>) {
        for (name, ms) in stretches {
            if !self.stretches.contains_key(&name) {
                self.order.push(name.clone());
            }
            self.stretches.entry(name).or_default().add(ms);
        }
    }

    /// From the command to the certified guest, in milliseconds of wall clock.
    pub(crate) fn certified(began_unix_ns: u64, journal: &Journal) -> Option<f64> {
        let is_it = |entry: &JournalEntry| matches!(entry, JournalEntry::Step { step, phase: StepPhase::Done, .. } if step == CERTIFY);
        let line = journal.lines.iter().find(|line| is_it(&line.entry))?;
        Some(ms(began_unix_ns, line.unix_ns))
    }

    /// Each stretch with its measurements, in order.
    pub(crate) fn stretches(&self) -> Vec<(&str, &Series)> {
        self.order.iter().filter_map(|name| Some((name.as_str(), self.stretches.get(name)?))).collect()
    }
}

/// The stretches of one journal: from the command to the first line, every step, and the program.
fn stretches(began_unix_ns: u64, journal: &Journal) -> Vec<(String, f64)> {
    let mut found = Vec::new();
    let mut begun: Option<(&str, u64)> = None;
    let mut program: BTreeMap<&str, u64> = BTreeMap::new();
    if let Some(first) = journal.lines.first() {
        found.push(("command → runner's first line".to_owned(), ms(began_unix_ns, first.unix_ns)));
    }
    for line in &journal.lines {
        match &line.entry {
            JournalEntry::Step { step, phase: StepPhase::Begin, .. } => {
                begun = Some((step, line.monotonic_ns));
            }
            JournalEntry::Step { step, phase: StepPhase::Done, .. } => {
                if let Some((_, since)) = begun.take().filter(|(name, _)| name == step) {
                    found.push((step.clone(), ms(since, line.monotonic_ns)));
                }
            }
            JournalEntry::Program { phase, .. } => {
                program.entry(phase).or_insert(line.monotonic_ns);
            }
            JournalEntry::Step { .. }
            | JournalEntry::Held { .. }
            | JournalEntry::Released { .. }
            | JournalEntry::FellBack { .. }
            | JournalEntry::Rung { .. }
            | JournalEntry::Template { .. }
            | JournalEntry::Snapshot { .. }
            | JournalEntry::Limits { .. }
            | JournalEntry::KeepsUser { .. }
            | JournalEntry::End { .. } => {}
        }
    }
    if let (Some(started), Some(ended)) = (program.get("started"), program.get("ended")) {
        found.push(("program".to_owned(), ms(*started, *ended)));
    }
    if let (Some(ended), Some(last)) = (program.get("ended"), journal.lines.last()) {
        found.push(("program's end → last line".to_owned(), ms(*ended, last.monotonic_ns)));
    }
    found
}

#[expect(clippy::cast_precision_loss, reason = "durations of minutes fit a double to the nanosecond")]
fn ms(from_ns: u64, to_ns: u64) -> f64 {
    to_ns.saturating_sub(from_ns) as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlast_wire::journal::JournalLine;

    fn line(at_ms: u64, entry: JournalEntry) -> JournalLine {
        JournalLine { unix_ns: 1_000_000_000 + at_ms * 1_000_000, monotonic_ns: at_ms * 1_000_000, entry }
    }

    fn step(at_ms: u64, step: &str, phase: StepPhase) -> JournalLine {
        line(at_ms, JournalEntry::Step { step: step.to_owned(), phase, error: None })
    }

    fn program(at_ms: u64, phase: &str) -> JournalLine {
        line(at_ms, JournalEntry::Program { phase: phase.to_owned(), detail: None })
    }

    #[test]
    fn a_journal_becomes_durations() {
        let lines = vec![
            step(10, "claim", StepPhase::Begin),
            step(12, "claim", StepPhase::Done),
            step(13, "disks", StepPhase::Begin),
            step(14, "disks", StepPhase::Failed),
            program(20, "started"),
            program(50, "ended"),
            line(55, JournalEntry::End { cause: "stopped".to_owned(), outcome: None }),
        ];
        let mut timeline = Timeline::default();
        timeline.add(1_000_000_000, &Journal { lines, torn_at: None });
        let found: Vec<(&str, f64)> = timeline
            .stretches()
            .into_iter()
            .map(|(name, series)| (name, series.summary().unwrap().p50))
            .collect();
        let wanted = [
            ("command → runner's first line", 10.0),
            ("claim", 2.0),
            ("program", 30.0),
            ("program's end → last line", 5.0),
        ];
        assert_eq!(found, wanted);
    }
}
