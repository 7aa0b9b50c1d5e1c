//! QEMU's machine protocol (QMP), from our side: commands with deadlines, answers that are not trusted.
//!
//! Commands, their answers and events are typed by QEMU's own schema (the `qapi` crate). The transport is ours,
//! because a monitor must survive what its peer says: lines are bounded, unknown events are passed over, a
//! late answer is dropped, and descriptors travel along with a command.
//!
//! ```text
//!   Monitor::submit ─► request ─► [watch task: one socket, both directions] ─► answer ─► Pending::answer
//!                                        └─► events, to whoever watches
//! ```
//!
//! This file has the two ends that others hold and the reading of lines; the task is in [`super::watch`].

use crate::backend::BackendError;
use outlast_model::timeout;
use qapi::qmp::MigrationStatus;
use qapi::{Any, Command, Execute};
use rustix::fd::OwnedFd;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Longest line that is read, in bytes. The longest answer we ask for has some hundred.
const LONGEST_LINE: usize = 256 * 1024;
/// Longest text of QEMU's that goes into an error, in characters.
const LONGEST_MESSAGE: usize = 300;
/// Commands that may be on their way at once: a restore sends three.
pub(super) const REQUESTS: usize = 16;

/// A command on its way to the monitor.
#[derive(Debug)]
pub(super) struct Request {
    /// The line, without its id: the task gives that.
    pub(super) line: serde_json::Map<String, Any>,
    /// A descriptor that goes along.
    pub(super) descriptor: Option<OwnedFd>,
    /// Where the answer goes.
    pub(super) reply: oneshot::Sender<Answer>,
}

/// What the monitor answered: a value or an error, not yet typed.
pub(super) type Answer = Result<Any, qapi::Error>;

/// The end that the driver holds.
#[derive(Debug)]
pub(super) struct Monitor {
    requests: mpsc::Sender<Request>,
    migration: watch::Receiver<Option<MigrationStatus>>,
}

/// A command that was sent and not answered yet. Dropping it forgets the answer, not the command.
#[derive(Debug)]
#[must_use]
pub(super) struct Pending<C> {
    reply: oneshot::Receiver<Answer>,
    command: std::marker::PhantomData<C>,
}

impl Monitor {
    pub(super) fn new(
        requests: mpsc::Sender<Request>,
        migration: watch::Receiver<Option<MigrationStatus>>,
    ) -> Self {
        Self { requests, migration }
    }

    /// Sends a command without waiting: commands are carried out in the order in which they are sent.
    pub(super) fn submit<C: Command>(&self, command: C) -> Result<Pending<C>, BackendError> {
        self.send(command, None)
    }

    /// Sends a command and waits for its answer.
    pub(super) async fn execute<C: Command>(&self, command: C) -> Result<C::Ok, BackendError> {
        self.submit(command)?.answer().await
    }

    /// Sends a command along with a descriptor and waits for its answer.
    pub(super) async fn execute_with<C: Command>(
        &self,
        command: C,
        descriptor: OwnedFd,
    ) -> Result<C::Ok, BackendError> {
        self.send(command, Some(descriptor))?.answer().await
    }

    fn send<C: Command>(&self, command: C, descriptor: Option<OwnedFd>) -> Result<Pending<C>, BackendError> {
        let line = line_of(command)?;
        let (reply, receiver) = oneshot::channel();
        // Full means that it has stopped reading commands, which is as good as gone.
        self.requests
            .try_send(Request { line, descriptor, reply })
            .map_err(|_| BackendError::HungUp { command: C::NAME })?;
        Ok(Pending { reply: receiver, command: std::marker::PhantomData })
    }

    /// Forgets how earlier migrations went: what [`Self::migrated`] sees afterwards is news.
    pub(super) fn forget_migrations(&mut self) {
        self.migration.mark_unchanged();
    }

    /// Waits until a migration ended, for at most [`timeout::MONITOR`], and tells how.
    pub(super) async fn migrated(&mut self) -> Result<MigrationStatus, BackendError> {
        const COMMAND: &str = "migrate";
        let ended = async {
            loop {
                self.migration.changed().await.map_err(|_| BackendError::HungUp { command: COMMAND })?;
                let status = *self.migration.borrow_and_update();
                if let Some(status) = status.filter(|&status| is_terminal(status)) {
                    return Ok(status);
                }
            }
        };
        within(timeout::MONITOR, COMMAND, ended).await?
    }
}

impl<C: Command> Pending<C> {
    /// Waits for the answer, for at most [`timeout::MONITOR`].
    pub(super) async fn answer(self) -> Result<C::Ok, BackendError> {
        let answer = within(timeout::MONITOR, C::NAME, self.reply).await?;
        let answer = answer.map_err(|_| BackendError::HungUp { command: C::NAME })?;
        match answer {
            Ok(value) => serde_json::from_value(value).map_err(|error| nonsense(C::NAME, &error.to_string())),
            Err(error) => Err(BackendError::Refused { command: C::NAME, message: shortened(&error.desc) }),
        }
    }
}

fn is_terminal(status: MigrationStatus) -> bool {
    matches!(status, MigrationStatus::completed | MigrationStatus::failed | MigrationStatus::cancelled)
}

async fn within<T>(
    deadline: Duration,
    command: &'static str,
    future: impl Future<Output = T>,
) -> Result<T, BackendError> {
    tokio::time::timeout(deadline, future)
        .await
        .map_err(|_| BackendError::Timeout { command, within: deadline })
}

fn nonsense(command: &'static str, detail: &str) -> BackendError {
    BackendError::Nonsense { command, detail: shortened(detail) }
}

/// Text of QEMU's, made fit for a message.
pub(super) fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(LONGEST_MESSAGE).collect()
}

/// `{"execute": NAME, "arguments": {…}}`.
fn line_of<C: Command>(command: C) -> Result<serde_json::Map<String, Any>, BackendError> {
    let line = serde_json::to_value(Execute::<C, u64>::with_command(command));
    match line.map_err(|error| nonsense(C::NAME, &error.to_string()))? {
        Any::Object(line) => Ok(line),
        other => Err(nonsense(C::NAME, &other.to_string())),
    }
}

/// One line of QEMU's, sorted.
#[derive(Debug)]
pub(super) enum Message {
    /// The answer to the command with this id.
    Answer(u64, Answer),
    /// An event, by name, with its data.
    Event(String, Any),
    /// The greeting, or something a later QEMU may say that nobody here asked for.
    Other,
}

/// A line that is not QMP.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LineError {
    /// Longer than any we ask for.
    #[error("a line is longer than {LONGEST_LINE} bytes")]
    TooLong,
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

/// Cuts what is read into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    buffer: Vec<u8>,
    /// How much of the buffer is known to hold no line break.
    searched: usize,
}

impl Lines {
    /// Where the next bytes are read to.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// The next whole line, if there is one.
    pub(super) fn next(&mut self) -> Result<Option<Message>, LineError> {
        loop {
            let unsearched = self.buffer.get(self.searched..).unwrap_or_default();
            let Some(offset) = unsearched.iter().position(|&byte| byte == b'\n') else {
                self.searched = self.buffer.len();
                let too_long = self.buffer.len() > LONGEST_LINE;
                return if too_long { Err(LineError::TooLong) } else { Ok(None) };
            };
            let line: Vec<u8> = self.buffer.drain(..=self.searched + offset).collect();
            self.searched = 0;
            let line = line.trim_ascii();
            if !line.is_empty() {
                return Message::parse(line).map(Some);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(text: &[u8]) -> Lines {
        Lines { buffer: text.to_vec(), searched: 0 }
    }

    #[test]
    fn answers_events_and_the_rest_are_told_apart() {
        let mut lines = lines(
            b"{\"QMP\": {\"version\": {}}}\r\n\n{\"return\": {}, \"id\": 7}\n\
              {\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}, \"id\": 8}\n\
              {\"event\": \"NEW_IN_QEMU_99\", \"data\": {\"x\": 1}}\n{\"event\": \"STOP\"}\n{\"ret",
        );
        assert!(matches!(lines.next(), Ok(Some(Message::Other))));
        assert!(matches!(lines.next(), Ok(Some(Message::Answer(7, Ok(_))))));
        assert!(matches!(lines.next(), Ok(Some(Message::Answer(8, Err(_))))));
        assert!(matches!(lines.next(), Ok(Some(Message::Event(name, _))) if name == "NEW_IN_QEMU_99"));
        assert!(matches!(lines.next(), Ok(Some(Message::Event(_, Any::Null)))));
        assert!(matches!(lines.next(), Ok(None)));
        lines.buffer().extend_from_slice(b"urn\": 1, \"id\": 9}\n");
        assert!(matches!(lines.next(), Ok(Some(Message::Answer(9, _)))));
    }

    #[test]
    fn what_is_not_the_protocol_is_an_error() {
        assert_eq!(lines(b"hello\n").next().unwrap_err(), LineError::NoObject);
        assert_eq!(lines(b"[]\n").next().unwrap_err(), LineError::NoObject);
        assert_eq!(lines(b"{\"error\": 1, \"id\": 1}\n").next().unwrap_err(), LineError::NoAnswer);
        assert_eq!(lines(&vec![b' '; LONGEST_LINE + 1]).next().unwrap_err(), LineError::TooLong);
        // An error without an id answers a line that was no command; nobody waits for it.
        assert!(matches!(lines(b"{\"error\": {}}\n").next(), Ok(Some(Message::Other))));
    }

    #[test]
    fn a_command_is_a_line_as_qemu_wants_it() {
        let line = line_of(qapi::qmp::migrate_incoming {
            uri: Some("file:/dev/fdset/1".to_owned()),
            channels: None,
            exit_on_error: Some(false),
        });
        let expected = serde_json::json!({
            "execute": "migrate-incoming",
            "arguments": { "uri": "file:/dev/fdset/1", "exit-on-error": false },
        });
        assert_eq!(Any::Object(line.unwrap()), expected);
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_every_line_is_consumed(bytes: Vec<u8>) {
            let mut lines = lines(&bytes);
            for _ in 0..=bytes.len() {
                if let Ok(None) = lines.next() { break }
            }
            prop_assert!(matches!(lines.next(), Ok(None)));
        }
    }
}
