//! Facts to standard output, everything for people to standard error.

pub(crate) mod human;
pub(crate) mod progress;
pub(crate) mod stream;
pub(crate) mod style;

use crate::failure::Failure;
use serde::Serialize;
use std::io::{self, Write};

/// Prints a fact, or several.
pub(crate) fn facts(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| Failure::printing(&error))
}

/// Prints a fact as JSON, on lines of its own.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::printing(&error.into()))?;
    facts(&format!("{text}\n"))
}

/// Prints a fact as JSON on one line: for lists that never end.
pub(crate) fn json_line(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::printing(&error.into()))?;
    facts(&format!("{text}\n"))
}

/// Tells a person something. If nobody can read it, it is not told.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A table with a header; empty lists are said to be empty, on standard error.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>, empty: &str) -> Result<(), Failure> {
    if rows.is_empty() {
        note(empty);
        return Ok(());
    }
    let mut table = comfy_table::Table::new();
    table
        .load_preset(comfy_table::presets::NOTHING)
        .set_header(header.iter().map(|name| style::header(name)));
    table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
    if style::stdout_is_plain() {
        // In a file or a pipe a row is a line.
        table.set_content_arrangement(comfy_table::ContentArrangement::Disabled).force_no_tty();
    }
    for row in rows {
        table.add_row(row);
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    facts(&(lines.join("\n") + "\n"))
}
