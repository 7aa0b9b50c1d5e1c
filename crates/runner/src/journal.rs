//! The writer of the journal: a line before and after every effect.
//!
//! Lines are written, not synced: the journal tells a reconciler what a dead runner did, and page cache
//! outlives processes. After a power loss nothing of an incarnation is left that would have to be undone.

use crate::clock;
use outlast_model::BootStep;
use outlast_wire::journal::{JournalEntry, JournalLine, StepPhase};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// An open journal.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
}

impl Journal {
    /// Opens or makes the journal, for appending.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        Ok(Self { file })
    }

    /// Writes a line. A journal that cannot be written (a full disk) must not stop a cleanup, so the
    /// failure goes to standard error and the effect goes on.
    pub(crate) fn note(&mut self, entry: JournalEntry) {
        let line = JournalLine { unix_ns: clock::unix_ns(), monotonic_ns: clock::monotonic_ns(), entry };
        let mut bytes = serde_json::to_vec(&line).expect("a journal line is plain data");
        bytes.push(b'\n');
        if let Err(error) = self.file.write_all(&bytes) {
            tracing::warn!(%error, "cannot write the journal");
        }
    }

    /// Writes a step's line.
    pub(crate) fn step(&mut self, step: BootStep, phase: StepPhase, error: Option<String>) {
        self.note(JournalEntry::Step { step: step.name().to_owned(), phase, error });
    }
}
