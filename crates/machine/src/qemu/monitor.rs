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
}
