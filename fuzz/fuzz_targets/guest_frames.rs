//! What a guest sends, as the host's decoder reads it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outlast_fuzz::{From, frames};
use outlast_wire::guest::{GuestFrame, GuestMessage, guest_words};

fuzz_target!(|bytes: &[u8]| {
    let heard = frames::<GuestFrame>(From::Guest, bytes);
    for frame in heard.messages {
        if let Some(GuestMessage::Refused(refused)) = frame.message {
            for text in [refused.operation, refused.cause] {
                let words = guest_words(&text);
                assert!(words.chars().count() <= 300 && !words.chars().any(char::is_control));
                assert_eq!(guest_words(&words), words, "words that are fit stay as they are");
            }
        }
    }
});
