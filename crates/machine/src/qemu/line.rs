//! What QEMU says on its monitor, cut into lines and understood. Pure: no socket, no process.
//!
//! A VMM that a guest has taken over says what it likes: lines are bounded, nothing that is read costs more than
//! its length, and what is unknown is passed over. Asking is `monitor`'s business, waiting that of
//! `watch`.

use crate::backend::VmmEvent;
use qapi::qmp::{GUEST_PANICKED, MIGRATION, MigrationStatus, RESET, SHUTDOWN, ShutdownCause};
use qapi::{Any, Event as _};

/// Longest line that is read, in bytes. The longest answer we ask for ourselves has some hundred; to what people ask
/// there is no end, so a longer one is passed over and said to be too long.
pub const LONGEST_LINE: usize = 256 * 1024;
/// Longest text of QEMU's that goes into an error, in characters.
const LONGEST_MESSAGE: usize = 300;

/// What the monitor answered: a value or an error, not yet typed.
pub type Answer = Result<Any, qapi::Error>;

/// Text of QEMU's, made fit for a message.
pub fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(LONGEST_MESSAGE).collect()
}

/// One line of QEMU's, sorted.
#[derive(Debug)]
pub enum Message {
    /// The answer to the command with this id.
    Answer(u64, Answer),
    /// An event, by name, with its data.
    Event(String, Any),
    /// Something longer than [`LONGEST_LINE`], which was not kept.
    TooLong,
    /// The greeting, or something a later QEMU may say that nobody here asked for.
    Other,
}

/// What an event of QEMU's means to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// A migration is in another state.
    Migration(MigrationStatus),
    /// Something happened to the guest.
    Guest(VmmEvent),
    /// Nothing that is acted on.
    Nothing,
}

/// A line that is not QMP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// Not an object in JSON.
    #[error("a line is no JSON object")]
    NoObject,
    /// An answer that is none.
    #[error("an answer has neither value nor error")]
    NoAnswer,
}

impl Message {
    fn parse(line: &[u8]) -> Result<Self, LineError> {
        let Ok(Any::Object(mut object)) = serde_json::from_slice::<Any>(line) else {
            return Err(LineError::NoObject);
        };
        if let Some(Any::String(name)) = object.remove("event") {
            return Ok(Self::Event(name, object.remove("data").unwrap_or(Any::Null)));
        }
        let Some(id) = object.get("id").and_then(Any::as_u64) else { return Ok(Self::Other) };
        if let Some(value) = object.remove("return") {
            return Ok(Self::Answer(id, Ok(value)));
        }
        let error = serde_json::from_value(Any::Object(object)).map_err(|_| LineError::NoAnswer)?;
        Ok(Self::Answer(id, Err(error)))
    }
}

impl Told {
    /// What the event of this name and with this data means.
    pub fn of(name: &str, data: Any) -> Self {
        match name {
            MIGRATION::NAME => match serde_json::from_value::<MIGRATION>(data) {
                Ok(event) => Self::Migration(event.status),
                Err(error) => {
                    tracing::debug!(%error, "a migration event of an unknown kind");
                    Self::Nothing
                }
            },
            GUEST_PANICKED::NAME => Self::Guest(VmmEvent::GuestPanicked),
            SHUTDOWN::NAME => {
                Self::end(serde_json::from_value::<SHUTDOWN>(data).map(|event| event.reason).ok())
            }
            RESET::NAME => Self::end(serde_json::from_value::<RESET>(data).map(|event| event.reason).ok()),
            _ => Self::Nothing,
        }
    }

    /// What the guest did to its machine; what the host did to it the host knows.
    fn end(reason: Option<ShutdownCause>) -> Self {
        match reason {
            Some(ShutdownCause::guest_shutdown) => Self::Guest(VmmEvent::GuestShutdown),
            Some(ShutdownCause::guest_reset) => Self::Guest(VmmEvent::GuestReset),
            Some(ShutdownCause::guest_panic) => Self::Guest(VmmEvent::GuestPanicked),
            Some(
                ShutdownCause::none
                | ShutdownCause::host_error
                | ShutdownCause::host_qmp_quit
                | ShutdownCause::host_qmp_system_reset
                | ShutdownCause::host_signal
                | ShutdownCause::host_ui
                | ShutdownCause::subsystem_reset
                | ShutdownCause::snapshot_load,
            )
            | None => Self::Nothing,
        }
    }
}

/// Cuts what is read into lines.
#[derive(Debug, Default)]
pub struct Lines {
    buffer: Vec<u8>,
    /// Where the next line begins.
    start: usize,
    /// How much of the buffer is known to hold no line break from `start` on.
    searched: usize,
    /// Whether the rest of a line that is too long is still to come.
    skipping: bool,
}

impl Lines {
    /// Where the next bytes are read to: they belong behind what it holds.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        // Moved together once a read and not once a line: lines without number must not cost the square of it.
        self.buffer.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        &mut self.buffer
    }

    /// The next whole line, if there is one. Empty lines are passed over.
    ///
    /// # Errors
    /// [`LineError`]; the line is passed over.
    pub fn next_message(&mut self) -> Result<Option<Message>, LineError> {
        loop {
            let unsearched = self.buffer.get(self.searched..).unwrap_or_default();
            let Some(offset) = unsearched.iter().position(|&byte| byte == b'\n') else {
                self.searched = self.buffer.len();
                return Ok(self.skip_what_is_too_long());
            };
            let (start, end) = (self.start, self.searched + offset);
            self.start = end + 1;
            self.searched = self.start;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            let line = self.buffer.get(start..end).unwrap_or_default();
            if line.len() > LONGEST_LINE {
                return Ok(Some(Message::TooLong));
            }
            let line = line.trim_ascii();
            if !line.is_empty() {
                return Message::parse(line).map(Some);
            }
        }
    }

    /// Drops what has come of a line that is longer than any may be; told once, when that is seen.
    fn skip_what_is_too_long(&mut self) -> Option<Message> {
        if !self.skipping && self.buffer.len() - self.start <= LONGEST_LINE {
            return None;
        }
        self.start = self.buffer.len();
        (!std::mem::replace(&mut self.skipping, true)).then_some(Message::TooLong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(text: &[u8]) -> Lines {
        Lines { buffer: text.to_vec(), ..Lines::default() }
    }

    #[test]
    fn answers_events_and_the_rest_are_told_apart() {
        let mut lines = lines(
            b"{\"QMP\": {\"version\": {}}}\r\n\n{\"return\": {}, \"id\": 7}\n\
              {\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}, \"id\": 8}\n\
              {\"event\": \"NEW_IN_QEMU_99\", \"data\": {\"x\": 1}}\n{\"event\": \"STOP\"}\n{\"ret",
        );
        let mut next = || lines.next_message();
        assert!(matches!(next(), Ok(Some(Message::Other))));
        assert!(matches!(next(), Ok(Some(Message::Answer(7, Ok(_))))));
        assert!(matches!(next(), Ok(Some(Message::Answer(8, Err(_))))));
        assert!(matches!(next(), Ok(Some(Message::Event(name, _))) if name == "NEW_IN_QEMU_99"));
        assert!(matches!(next(), Ok(Some(Message::Event(_, Any::Null)))));
        assert!(matches!(next(), Ok(None)));
        lines.buffer().extend_from_slice(b"urn\": 1, \"id\": 9}\n");
        assert!(matches!(lines.next_message(), Ok(Some(Message::Answer(9, _)))));
    }

    #[test]
    fn what_is_not_the_protocol_is_an_error() {
        let error = |bytes: &[u8]| lines(bytes).next_message().unwrap_err();
        assert_eq!(error(b"hello\n"), LineError::NoObject);
        assert_eq!(error(b"[]\n"), LineError::NoObject);
        assert_eq!(error(b"{\"error\": 1, \"id\": 1}\n"), LineError::NoAnswer);
        // An error without an id answers a line that was no command; nobody waits for it.
        assert!(matches!(lines(b"{\"error\": {}}\n").next_message(), Ok(Some(Message::Other))));
    }

    #[test]
    fn a_line_that_is_too_long_is_told_once_and_what_follows_is_heard() {
        let mut lines = lines(&vec![b'x'; LONGEST_LINE + 1]);
        assert!(matches!(lines.next_message(), Ok(Some(Message::TooLong))));
        for _ in 0..3 {
            assert!(matches!(lines.next_message(), Ok(None)));
            let buffer = lines.buffer();
            assert!(buffer.is_empty(), "it is not kept");
            buffer.extend_from_slice(&vec![b'x'; LONGEST_LINE + 1]);
        }
        lines.buffer().extend_from_slice(b"x\n{\"return\": 1, \"id\": 9}\n");
        assert!(matches!(lines.next_message(), Ok(Some(Message::Answer(9, _)))));
        let whole = [vec![b'x'; LONGEST_LINE + 1], b"\n{\"return\": 1, \"id\": 9}\n".to_vec()].concat();
        lines.buffer().extend_from_slice(&whole);
        assert!(matches!(lines.next_message(), Ok(Some(Message::TooLong))));
        assert!(matches!(lines.next_message(), Ok(Some(Message::Answer(9, _)))));
    }

    #[test]
    fn a_flood_of_lines_costs_no_more_than_its_length() {
        // Were every line to move the rest of the buffer, this would move two terabytes.
        let mut lines = lines(&vec![b'\n'; 2 << 20]);
        assert!(matches!(lines.next_message(), Ok(None)));
        assert!(lines.buffer().is_empty());
        let flood = b"{}\n".repeat(1 << 19);
        lines.buffer().extend_from_slice(&flood);
        for _ in 0..1 << 19 {
            assert!(matches!(lines.next_message(), Ok(Some(Message::Other))));
        }
        assert!(matches!(lines.next_message(), Ok(None)));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_every_line_is_consumed(bytes: Vec<u8>) {
            let mut lines = lines(&bytes);
            for _ in 0..=bytes.len() {
                if let Ok(None) = lines.next_message() { break }
            }
            prop_assert!(matches!(lines.next_message(), Ok(None)));
        }
    }
}
