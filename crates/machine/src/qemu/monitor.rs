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
//! This file has the two ends that others hold; the task is in [`super::watch`], the reading of what QEMU says in
//! [`super::line`].

use super::line::{Answer, shortened};
use crate::backend::BackendError;
use outlast_model::timeout;
use qapi::qmp::MigrationStatus;
use qapi::{Any, Command, Execute};
use rustix::fd::OwnedFd;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Commands that may be on their way at once: a restore sends three.
pub(super) const REQUESTS: usize = 16;

/// Of these so many places are kept for commands of our own.
const OURS: usize = 4;

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

    /// Sends a command that somebody wrote by hand: a JSON object with `execute` and, if need be, `arguments`, or a bare
    /// name. The future is its answer, within [`timeout::MONITOR`], and does not borrow the monitor.
    pub(super) fn submit_raw(
        &self,
        command: &str,
    ) -> Result<impl Future<Output = Result<Any, BackendError>> + use<>, BackendError> {
        let line = raw_line(command)?;
        if self.requests.capacity() <= OURS {
            let message = "too many commands are waiting for their answers".to_owned();
            return Err(BackendError::Refused { command: RAW, message });
        }
        let (reply, answered) = oneshot::channel();
        self.requests
            .try_send(Request { line, descriptor: None, reply })
            .map_err(|_| BackendError::HungUp { command: RAW })?;
        Ok(async move {
            let answer = within(timeout::MONITOR, RAW, answered).await?;
            let answer = answer.map_err(|_| BackendError::HungUp { command: RAW })?;
            answer.map_err(|error| BackendError::Refused { command: RAW, message: shortened(&error.desc) })
        })
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

    /// Waits until a migration ended, for at most `patience`, and tells how.
    pub(super) async fn migrated(&mut self, patience: Duration) -> Result<MigrationStatus, BackendError> {
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
        within(patience, COMMAND, ended).await?
    }
}

impl<C: Command> Pending<C> {
    /// Waits for the answer, for at most [`timeout::MONITOR`].
    pub(super) async fn answer(self) -> Result<C::Ok, BackendError> {
        self.answer_within(timeout::MONITOR).await
    }

    /// Waits for the answer, for at most `patience`.
    pub(super) async fn answer_within(self, patience: Duration) -> Result<C::Ok, BackendError> {
        let answer = within(patience, C::NAME, self.reply).await?;
        let answer = answer.map_err(|_| BackendError::HungUp { command: C::NAME })?;
        match answer {
            Ok(value) => serde_json::from_value(value).map_err(|error| nonsense(C::NAME, &error.to_string())),
            Err(error) => Err(BackendError::Refused { command: C::NAME, message: shortened(&error.desc) }),
        }
    }
}

/// Whether a migration is over.
pub(super) fn is_terminal(status: MigrationStatus) -> bool {
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

/// What a command written by hand is called in errors.
const RAW: &str = "the command";

/// The line of a command written by hand. It has no id and no other key: those are ours.
fn raw_line(command: &str) -> Result<serde_json::Map<String, Any>, BackendError> {
    let bad = |detail: &str| BackendError::NotACommand { detail: detail.to_owned() };
    let command = command.trim();
    let name = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if !command.is_empty() && command.chars().all(name) {
        return Ok(serde_json::Map::from_iter([("execute".to_owned(), Any::from(command))]));
    }
    let line: Any = serde_json::from_str(command).map_err(|error| bad(&error.to_string()))?;
    let Any::Object(line) = line else { return Err(bad("it is JSON, but no object")) };
    if !line.get("execute").is_some_and(Any::is_string) {
        return Err(bad("it has no \"execute\" that names a command"));
    }
    if line.get("arguments").is_some_and(|arguments| !arguments.is_object()) {
        return Err(bad("its \"arguments\" are no object"));
    }
    match line.keys().find(|key| !matches!(key.as_str(), "execute" | "arguments")) {
        Some(key) => {
            Err(bad(&format!("it has a \"{}\", and may have \"execute\" and \"arguments\"", shortened(key))))
        }
        None => Ok(line),
    }
}

/// `{"execute": NAME, "arguments": {…}}`.
fn line_of<C: Command>(command: C) -> Result<serde_json::Map<String, Any>, BackendError> {
    let line = serde_json::to_value(Execute::<C, u64>::with_command(command));
    match line.map_err(|error| nonsense(C::NAME, &error.to_string()))? {
        Any::Object(line) => Ok(line),
        other => Err(nonsense(C::NAME, &other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn what_is_written_by_hand_is_a_name_or_an_object_and_nothing_else() {
        let line = |text: &str| raw_line(text).map(|line| Any::Object(line).to_string());
        assert_eq!(line(" query-status ").unwrap(), r#"{"execute":"query-status"}"#);
        let whole = r#"{"execute":"qom-get","arguments":{"path":"/"}}"#;
        assert_eq!(line(whole).unwrap().len(), whole.len());
        for bad in [
            "",
            "query status",
            "[]",
            "{",
            r#"{"arguments":{}}"#,
            r#"{"execute":1}"#,
            r#"{"execute":"a","id":1}"#,
        ] {
            assert!(matches!(line(bad), Err(BackendError::NotACommand { .. })), "{bad}");
        }
    }
}
