//! How an error of the agent becomes a `Refused` message: the errno for programs, the whole chain of causes
//! for people. Which requests are refused is decided where the errors arise.

use outlast_wire::guest::Refused;
use std::error::Error;

/// Longest cause that is sent, in bytes; a longer one is cut. Paths are at most 4096.
const MAX_CAUSE: usize = 8192;

/// An error that can be told to the host.
pub(crate) trait Reason: Error {
    /// The Linux error number behind it, or 0 when there is none.
    fn errno(&self) -> i32;
}

/// The message for `error`, which happened while doing `operation`.
pub(crate) fn refused(operation: &str, error: &impl Reason) -> Refused {
    Refused { operation: operation.to_owned(), errno: error.errno(), cause: cut(chain(error)) }
}

/// An error and its sources, joined with colons.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn cut(mut text: String) -> String {
    let end = (0..=MAX_CAUSE.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_cause_is_cut_at_a_character() {
        assert_eq!(cut("short".to_owned()), "short");
        let long = cut("ü".repeat(MAX_CAUSE));
        assert_eq!(long.len(), MAX_CAUSE);
        assert_eq!(cut(format!("x{}", "ü".repeat(MAX_CAUSE))).len(), MAX_CAUSE - 1);
    }
}
