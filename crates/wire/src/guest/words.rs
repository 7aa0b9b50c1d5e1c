//! Text that a guest sent and people will read: cut to a length and without control characters, so that it can
//! neither fill a record nor play with a terminal.

/// Longest text of a guest that is kept, in characters.
const MAX_CHARS: usize = 300;

/// The text as it may be kept and shown.
pub fn guest_words(text: &str) -> String {
    let plain = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().take(MAX_CHARS).map(plain).collect()
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
}
