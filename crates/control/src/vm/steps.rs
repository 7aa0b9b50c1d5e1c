//! The timeline of an incarnation: what its runner did, step by step, by its journal. Pure.

use outlast_wire::journal::{Journal, JournalEntry, StepPhase};
use outlast_wire::vm_view::StepView;

/// The steps of a journal in the order in which they began. One that was undone, or done again after a clone was
/// given up for a cold boot, is there as often as it was begun.
pub(super) fn timeline(journal: &Journal) -> Vec<StepView> {
    let mut steps: Vec<StepView> = Vec::new();
    let mut begins: Vec<u64> = Vec::new();
    let mut first = None;
    for line in &journal.lines {
        let JournalEntry::Step { step, phase, error } = &line.entry else { continue };
        let first = *first.get_or_insert(line.monotonic_ns);
        match phase {
            StepPhase::Begin | StepPhase::Undo => {
                let phase = if *phase == StepPhase::Begin { "begun" } else { "undoing" };
                let began_ms = milliseconds(line.monotonic_ns.saturating_sub(first));
                let (step, phase) = (step.clone(), phase.to_owned());
                steps.push(StepView { step, phase, began_ms, took_ms: None, error: None });
                begins.push(line.monotonic_ns);
            }
            StepPhase::Done | StepPhase::Failed | StepPhase::Undone | StepPhase::UndoFailed => {
                let open = steps.iter().rposition(|open| open.step == *step && open.took_ms.is_none());
                let Some(index) = open else { continue };
                steps[index].took_ms = Some(milliseconds(line.monotonic_ns.saturating_sub(begins[index])));
                word(*phase).clone_into(&mut steps[index].phase);
                steps[index].error.clone_from(error);
            }
        }
    }
    steps
}

const fn word(phase: StepPhase) -> &'static str {
    match phase {
        StepPhase::Begin => "begun",
        StepPhase::Done => "done",
        StepPhase::Failed => "failed",
        StepPhase::Undo => "undoing",
        StepPhase::Undone => "undone",
        StepPhase::UndoFailed => "not undone",
    }
}

/// With fractions; a boot is too short for the difference to a float to be seen.
fn milliseconds(ns: u64) -> f64 {
    std::time::Duration::from_nanos(ns).as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlast_wire::journal::JournalLine;

    fn journal(entries: &[(&str, StepPhase, u64)]) -> Journal {
        let line = |(step, phase, ms): &(&str, StepPhase, u64)| JournalLine {
            unix_ns: 0,
            monotonic_ns: 1_000_000_000 + ms * 1_000_000,
            entry: JournalEntry::Step { step: (*step).to_owned(), phase: *phase, error: None },
        };
        Journal { lines: entries.iter().map(line).collect(), torn_at: None }
    }

    #[test]
    fn every_step_has_its_begin_its_length_and_its_end() {
        use StepPhase::{Begin, Done, Failed, Undo, Undone};
        let steps = timeline(&journal(&[
            ("claim", Begin, 0),
            ("claim", Done, 2),
            ("disks", Begin, 3),
            ("disks", Failed, 7),
            ("claim", Undo, 8),
            ("claim", Undone, 9),
            ("claim", Begin, 10),
        ]));
        let told: Vec<_> = steps.iter().map(|s| (s.step.as_str(), s.phase.as_str())).collect();
        assert_eq!(told, [("claim", "done"), ("disks", "failed"), ("claim", "undone"), ("claim", "begun")]);
        assert!((steps[1].began_ms - 3.0).abs() < 1e-6);
        assert!((steps[1].took_ms.unwrap() - 4.0).abs() < 1e-6);
        assert_eq!(steps[3].took_ms, None);
        assert!(timeline(&Journal::default()).is_empty());
    }

    #[test]
    fn an_end_without_a_begin_says_nothing() {
        assert!(timeline(&journal(&[("claim", StepPhase::Done, 1)])).is_empty());
    }
}
