//! Text that a guest sent and people will read: cut to a length and without control characters, so that it can
//! neither fill a record nor play with a terminal.

use std::path::Path;

/// Longest text of a guest that is kept, in characters.
const MAX_CHARS: usize = 300;

/// The text as it may be kept and shown.
pub fn guest_words(text: &str) -> String {
    let plain = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().take(MAX_CHARS).map(plain).collect()
}

/// A path in which a guest chose names, as it may be shown: whole, and on one line.
pub fn guest_path(path: &Path) -> String {
    let text = path.to_string_lossy();
    let escaped = |c: char| if c.is_control() { c.escape_debug().collect() } else { String::from(c) };
    text.chars().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_a_guest_says_is_short_and_plain(text in any::<String>()) {
            let words = guest_words(&text);
            prop_assert!(words.chars().count() <= MAX_CHARS);
            prop_assert!(!words.chars().any(char::is_control));
        }
    }

    #[test]
    fn a_terminal_is_not_spoken_to() {
        assert_eq!(guest_words("\u{1b}[2Jok"), "\u{fffd}[2Jok");
    }

    #[test]
    fn a_path_is_shown_whole_and_on_one_line() {
        let shown = guest_path(Path::new("/target/a\u{1b}[2J\nerror: b/c\u{9b}é"));
        assert_eq!(shown, "/target/a\\u{1b}[2J\\nerror: b/c\\u{9b}é");
    }
}
