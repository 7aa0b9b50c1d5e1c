//! Colours, on terminals only and never against NO_COLOR (no-color.org).

use comfy_table::{Attribute, Cell};
use std::io::IsTerminal;
use std::sync::OnceLock;

/// Whether standard output is not a terminal, or wants no colours.
pub(crate) fn stdout_is_plain() -> bool {
    static PLAIN: OnceLock<bool> = OnceLock::new();
    *PLAIN.get_or_init(|| no_color() || !std::io::stdout().is_terminal())
}

/// Whether standard error is a terminal: then there is somebody to show progress to.
pub(crate) fn stderr_is_terminal() -> bool {
    static TERMINAL: OnceLock<bool> = OnceLock::new();
    *TERMINAL.get_or_init(|| std::io::stderr().is_terminal())
}

fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Whether colours are wanted on standard error.
pub(crate) fn stderr_has_colours() -> bool {
    stderr_is_terminal() && !no_color()
}

fn colour(text: &str, code: &str) -> String {
    if stderr_has_colours() { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
}

/// For the word before an error, on standard error.
pub(crate) fn error(text: &str) -> String {
    colour(text, "1;31")
}

/// For the word before a warning, on standard error.
pub(crate) fn warning(text: &str) -> String {
    colour(text, "1;33")
}

/// For what matters less, on standard error.
pub(crate) fn dim(text: &str) -> String {
    colour(text, "2")
}

/// A column's name, on standard output.
pub(crate) fn header(text: &str) -> Cell {
    let cell = Cell::new(text);
    if stdout_is_plain() { cell } else { cell.add_attribute(Attribute::Bold) }
}
