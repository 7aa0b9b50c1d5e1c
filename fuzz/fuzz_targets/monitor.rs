//! What a VMM says on its monitor: lines, answers and events, from a VMM that a guest has taken over.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outlast_fuzz::pieces;
use outlast_machine::backend::VmmEvent;
use outlast_machine::qemu::line::{LONGEST_LINE, LineError, Lines, Message, Told, shortened};
use qapi::{Command, qmp};

fuzz_target!(|bytes: &[u8]| {
    let whole = read(std::iter::once(bytes));
    let cut = read(pieces(bytes));
    let shown = |messages: &[Result<Message, LineError>]| format!("{messages:?}");
    assert_eq!(shown(&whole), shown(&cut), "pieces change what is read");
    assert!(whole.len() <= bytes.split(|byte| *byte == b'\n').count(), "more was read than said");
    for message in whole.into_iter().flatten() {
        judge(message);
    }
});

/// Everything that is said, in order.
fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Result<Message, LineError>> {
    let mut lines = Lines::default();
    let mut read = Vec::new();
    for piece in pieces {
        let buffer = lines.buffer();
        assert!(buffer.len() <= LONGEST_LINE, "an endless line is kept");
        buffer.extend_from_slice(piece);
        loop {
            match lines.next_message() {
                Ok(Some(message)) => read.push(Ok(message)),
                Ok(None) => break,
                Err(error) => read.push(Err(error)),
            }
        }
    }
    read
}

fn judge(message: Message) {
    match message {
        Message::Answer(_, Ok(value)) => {
            // The types of every answer that we wait for.
            let info = serde_json::from_value::<<qmp::query_migrate as Command>::Ok>(value.clone());
            let _ = serde_json::from_value::<<qmp::cont as Command>::Ok>(value.clone());
            let _ = serde_json::from_value::<<qmp::add_fd as Command>::Ok>(value);
            if let Some(text) = info.ok().and_then(|info| info.error_desc) {
                fit(&text);
            }
        }
        Message::Answer(_, Err(error)) => fit(&error.desc),
        Message::Event(name, data) => match Told::of(&name, data) {
            // A VMM cannot say of itself that its process is over: only the process itself can.
            Told::Guest(VmmEvent::GuestPanicked | VmmEvent::GuestShutdown | VmmEvent::GuestReset)
            | Told::Migration(_)
            | Told::Nothing => {}
            Told::Guest(event) => panic!("{event:?} was believed"),
        },
        Message::TooLong | Message::Other => {}
    }
}

fn fit(text: &str) {
    let text = shortened(text);
    assert!(text.chars().count() <= 300 && !text.chars().any(char::is_control));
}
