//! The journal of an incarnation: a JSON object a line, written before and after every effect.
//!
//! A torn last line is what a crash looks like; readers stop there and say so.

use serde::{Deserialize, Serialize};

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JournalLine {
    /// Wall clock, nanoseconds since the Unix epoch.
    pub unix_ns: u64,
    /// Monotonic clock (CLOCK_BOOTTIME) in nanoseconds; differences of it are durations.
    pub monotonic_ns: u64,
    /// What happened.
    #[serde(flatten)]
    pub entry: JournalEntry,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum JournalEntry {
    /// A boot step.
    Step {
        /// Its name.
        step: String,
        /// Where in it.
        phase: StepPhase,
        /// The error, for a failed phase.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// The runner stands still at a fault point.
    Held {
        /// `STEP:before` or `STEP:after`.
        hold: String,
    },
    /// The runner was released.
    Released {
        /// `STEP:before` or `STEP:after`.
        hold: String,
    },
    /// A restore failed; the incarnation boots cold instead.
    FellBack {
        /// Why.
        cause: String,
    },
    /// Something happened to the program.
    Program {
        /// `sent`, `started`, `ended`, `outputs`.
        phase: String,
        /// Details for a person.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
    /// Something other than control groups limits the VMM.
    Limits {
        /// What, in a sentence.
        by: String,
    },
    /// The VMM has no user id of its own.
    KeepsUser {
        /// Whose it has, and why, in a sentence.
        why: String,
    },
    /// A rung of the shutdown ladder.
    Rung {
        /// `agent`, `vmm`, `term`, `kill`.
        rung: String,
        /// Whether the VMM was dead after it.
        worked: bool,
    },
    /// A template's phase.
    Template {
        /// `warmed`, `quiesced`, `stopped`, `saved`.
        phase: String,
    },
    /// A snapshot's phase.
    Snapshot {
        /// `began`, `stopped`, `copied`, `saved`, `resumed`, `synced`, `failed`.
        phase: String,
        /// Details for a person.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
    /// The end was decided.
    End {
        /// The death certificate's cause.
        cause: String,
        /// The outcome, if there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        outcome: Option<String>,
    },
}

/// Where in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepPhase {
    /// Its effect is about to begin.
    Begin,
    /// Its effect is complete.
    Done,
    /// It failed.
    Failed,
    /// Its effect is about to be undone.
    Undo,
    /// Its effect is undone.
    Undone,
    /// It could not be undone; what is left is found by its name later.
    UndoFailed,
}

/// The lines of a journal, and whether the last one is torn.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Journal {
    /// Whole lines, in order.
    pub lines: Vec<JournalLine>,
    /// The number of the first line (from 1) that is not a journal line, if any; nothing behind it is read.
    pub torn_at: Option<usize>,
}

impl Journal {
    /// Reads a journal's bytes. Never fails: what cannot be read is said in `torn_at`.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut journal = Self::default();
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if line.is_empty() {
                continue;
            }
            let Ok(line) = serde_json::from_slice(line) else {
                journal.torn_at = Some(index + 1);
                break;
            };
            journal.lines.push(line);
        }
        journal
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_torn_last_line_is_seen_and_the_rest_is_read() {
        let entry = JournalEntry::Step { step: "claim".to_owned(), phase: StepPhase::Begin, error: None };
        let line = serde_json::to_string(&JournalLine { unix_ns: 1, monotonic_ns: 2, entry }).unwrap();
        let text = format!("{line}\n{}", &line[..line.len() / 2]);
        let journal = Journal::parse(text.as_bytes());
        assert_eq!((journal.lines.len(), journal.torn_at), (1, Some(2)));
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
            let _ = Journal::parse(&bytes);
        }
    }
}
