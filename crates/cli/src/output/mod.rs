//! Facts to standard output, everything for people to standard error.

pub(crate) mod human;
pub(crate) mod progress;
pub(crate) mod stream;
pub(crate) mod style;

use crate::failure::Failure;
use outlast_control::Interrupts;
use outlast_wire::output_log::Stream;
use serde::Serialize;
use std::io::{self, Write};
use std::time::Duration;
use stream::OwnStreams;

/// What is told to people waits so long for a reader that is stuck.
const PATIENCE: Duration = Duration::from_secs(1);

/// Columns of a terminal whose size is not known.
const USUAL_WIDTH: u16 = 80;

/// Prints a fact, or several.
pub(crate) fn facts(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| Failure::printing(&error))
}

/// Prints a fact as JSON, on lines of its own.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    facts(&pretty(value)?)
}

/// The same by a process that gets its signals by a descriptor: `false` when one of them came first.
pub(crate) fn json_unless(interrupts: Option<&Interrupts>, value: &impl Serialize) -> Result<bool, Failure> {
    let text = pretty(value)?;
    let sink = &mut OwnStreams::default();
    match outlast_control::pass_on(sink, Stream::Stdout, text.as_bytes(), interrupts) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(Failure::printing(&error)),
    }
}

fn pretty(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::printing(&error.into()))?;
    Ok(format!("{text}\n"))
}

/// Prints a fact as JSON on one line: for lists that never end.
pub(crate) fn json_line(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::printing(&error.into()))?;
    facts(&format!("{text}\n"))
}

/// Tells a person something. If nobody can read it, or nobody does, it is not told.
pub(crate) fn note(text: &str) {
    let mut out = io::stderr().lock();
    if outlast_control::takes_more(&out, PATIENCE) {
        let _ = writeln!(out, "{text}");
    }
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
    if let Some(width) = width_instead(table.width()) {
        table.set_width(width);
    }
    for row in rows {
        table.add_row(row);
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    facts(&(lines.join("\n") + "\n"))
}

/// The usual width, for a terminal that says that it has none: serial lines and some of programs do.
fn width_instead(told: Option<u16>) -> Option<u16> {
    told.filter(|columns| *columns == 0).map(|_| USUAL_WIDTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_of_no_columns_is_taken_for_a_usual_one() {
        assert_eq!(width_instead(Some(0)), Some(80));
        assert_eq!((width_instead(Some(1)), width_instead(None)), (None, None));
    }
}
