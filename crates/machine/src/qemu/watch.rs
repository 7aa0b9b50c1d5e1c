//! The one task that owns a QEMU process and its monitor's socket, from launch to the last event.
//!
//! ```text
//!            ┌──────────── serving ────────────┐   monitor closed   ┌─ mute ─┐
//!   launch ─►│ commands out, answers and       ├───────────────────►│ wait   │
//!            │ events in                       │                    └───┬────┘
//!            └───────────────┬─────────────────┘                        │
//!                            │ process exited                           │
//!                            └──► rest of monitor and stderr ──► Exited ◄┘
//! ```
//!
//! Order matters at the end: what the monitor and standard error still hold is read before `Exited` is told, so
//! that a guest's shutdown is never overtaken by the exit it causes. Not responsible for what events mean.

use super::line::{Answer, LONGEST_LINE, Lines, Message, Told};
use super::monitor::Request;
use crate::backend::{VmmEvent, VmmExit};
use crate::console;
use outlast_model::{limit, timeout};
use qapi::Any;
use qapi::qmp::MigrationStatus;
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::path::PathBuf;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// Events of each kind come once, so this many never fill the channel.
pub(super) const EVENTS: usize = 8;

/// What the task owns.
pub(super) struct Watch {
    pub(super) child: Child,
    pub(super) stream: UnixStream,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) migration: watch::Sender<Option<MigrationStatus>>,
    pub(super) events: mpsc::Sender<VmmEvent>,
    pub(super) stderr: Option<JoinHandle<()>>,
}

/// Keeps a VMM's standard error in its log.
pub(super) fn keep_log(stderr: ChildStderr, path: PathBuf) -> JoinHandle<()> {
    tokio::spawn(async move {
        if let Err(error) =
            console::record(stderr, &path, limit::VMM_LOG_BYTES, "the VMM wrote more than is kept").await
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "the VMM's messages are not kept");
        }
    })
}

/// Why serving ended.
enum End {
    Exited(VmmExit),
    HungUp,
}

impl Watch {
    /// Runs until the process is over.
    pub(super) async fn run(mut self) {
        let mut talk = Talk::new(self.migration, self.events.clone());
        let exit = match serve(&mut self.child, &self.stream, &mut self.requests, &mut talk).await {
            End::Exited(exit) => {
                let _ = tokio::time::timeout(timeout::LAST_WORDS, talk.read_rest(&self.stream)).await;
                exit
            }
            End::HungUp => {
                // Nobody is left to answer: whoever waits learns it now, and who asks later at once.
                drop((self.stream, self.requests));
                talk.forget_waiting();
                let soon = tokio::time::timeout(timeout::HANG_UP, exit_of(&mut self.child)).await;
                if let Ok(exit) = soon {
                    exit
                } else {
                    talk.tell(VmmEvent::MonitorLost);
                    exit_of(&mut self.child).await
                }
            }
        };
        if let Some(stderr) = self.stderr {
            let _ = tokio::time::timeout(timeout::LAST_WORDS, stderr).await;
        }
        talk.tell(VmmEvent::Exited(exit));
    }
}

/// What somebody is told whose answer was not kept.
fn too_long() -> qapi::Error {
    let desc = format!("its answer is longer than {LONGEST_LINE} bytes");
    qapi::Error { class: qapi::ErrorClass::GenericError, desc, id: None }
}

async fn exit_of(child: &mut Child) -> VmmExit {
    child.wait().await.map_or(VmmExit::Unknown, VmmExit::of)
}

async fn serve(
    child: &mut Child,
    stream: &UnixStream,
    requests: &mut mpsc::Receiver<Request>,
    talk: &mut Talk,
) -> End {
    let mut driver_listens = true;
    loop {
        tokio::select! {
            // Biased so that an event that was sent before an exit is also told before it.
            biased;
            read = talk.read_some(stream) => match read {
                Ok(true) => {}
                Ok(false) => return End::HungUp,
                Err(error) => {
                    tracing::warn!(%error, "the monitor is not usable");
                    return End::HungUp;
                }
            },
            request = requests.recv(), if driver_listens => match request {
                None => driver_listens = false,
                Some(request) => {
                    let sent = tokio::time::timeout(timeout::MONITOR, talk.send(stream, request)).await;
                    if !matches!(sent, Ok(Ok(()))) {
                        return End::HungUp;
                    }
                }
            },
            exit = exit_of(child) => return End::Exited(exit),
        }
    }
}

/// The conversation: what was asked, what was told.
struct Talk {
    lines: Lines,
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
    last_id: u64,
    migration: watch::Sender<Option<MigrationStatus>>,
    events: mpsc::Sender<VmmEvent>,
    told: Vec<VmmEvent>,
}

impl Talk {
    fn new(migration: watch::Sender<Option<MigrationStatus>>, events: mpsc::Sender<VmmEvent>) -> Self {
        Self {
            lines: Lines::default(),
            waiting: HashMap::new(),
            last_id: 0,
            migration,
            events,
            told: Vec::new(),
        }
    }

    /// Reads once and deals with every whole line; `false` at the end of the stream. Nothing is lost when the
    /// future is dropped: reading is all it waits for.
    async fn read_some(&mut self, stream: &UnixStream) -> io::Result<bool> {
        stream.readable().await?;
        match stream.try_read_buf(self.lines.buffer()) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        }
        while let Some(message) = self.lines.next_message().map_err(io::Error::other)? {
            self.hear(message);
        }
        Ok(true)
    }

    async fn read_rest(&mut self, stream: &UnixStream) {
        while matches!(self.read_some(stream).await, Ok(true)) {}
    }

    async fn send(&mut self, stream: &UnixStream, request: Request) -> io::Result<()> {
        let Request { mut line, descriptor, reply } = request;
        self.last_id += 1;
        line.insert("id".to_owned(), Any::from(self.last_id));
        let mut bytes = serde_json::to_vec(&line)?;
        bytes.push(b'\n');
        self.waiting.insert(self.last_id, reply);
        write(stream, &bytes, descriptor).await
    }

    fn forget_waiting(&mut self) {
        self.waiting.clear();
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Answer(id, answer) => {
                // Whoever asked may have stopped waiting.
                if let Some(reply) = self.waiting.remove(&id) {
                    let _ = reply.send(answer);
                }
            }
            Message::Event(name, data) => match Told::of(&name, data) {
                Told::Migration(status) => drop(self.migration.send_replace(Some(status))),
                Told::Guest(event) => self.tell(event),
                Told::Nothing => {}
            },
            // Commands are answered in the order in which they were sent: it is the oldest one's.
            Message::TooLong => {
                if let Some(reply) =
                    self.waiting.keys().min().copied().and_then(|id| self.waiting.remove(&id))
                {
                    let _ = reply.send(Err(too_long()));
                }
            }
            Message::Other => {}
        }
    }

    /// Each kind once: a guest that panics for ever fills no channel.
    fn tell(&mut self, event: VmmEvent) {
        if !self.told.contains(&event) {
            self.told.push(event.clone());
            // The channel has room for every kind; it is closed when nobody cares any more.
            let _ = self.events.try_send(event);
        }
    }
}

/// Writes a line, with a descriptor beside its first byte.
async fn write(stream: &UnixStream, mut bytes: &[u8], descriptor: Option<OwnedFd>) -> io::Result<()> {
    let mut descriptor = descriptor;
    while !bytes.is_empty() {
        stream.writable().await?;
        let sent = stream.try_io(Interest::WRITABLE, || send_once(stream, bytes, descriptor.as_ref()));
        match sent {
            Ok(n) => {
                bytes = bytes.get(n..).unwrap_or_default();
                descriptor = None;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn send_once(stream: &UnixStream, bytes: &[u8], descriptor: Option<&OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut along = SendAncillaryBuffer::new(&mut space);
    let borrowed = descriptor.map(|descriptor| [descriptor.as_fd()]);
    if let Some(borrowed) = &borrowed {
        // The space was made for exactly one.
        if !along.push(SendAncillaryMessage::ScmRights(borrowed)) {
            return Err(io::Error::other("no room for a descriptor"));
        }
    }
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut along, SendFlags::NOSIGNAL)?)
}
