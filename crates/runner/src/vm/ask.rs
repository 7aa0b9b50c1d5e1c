//! What clients of the control socket ask of a living VM's loop.
//!
//! One bounded queue for all clients. An ask carries the way its answer goes back; who asks waits for it with a
//! deadline of its own.

use super::execs::{ExecError, Execs, Files, Opened};
use crate::boot::chain;
use crate::link::Link;
use outlast_wire::guest::Exec;
use outlast_wire::paths::Evidence;
use serde_json::Value;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Asks that wait for the loop; who comes when it is full waits for a place.
const QUEUE: usize = 32;

/// How a VM is to be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StopOrder {
    /// Without asking anybody: SIGKILL to the VMM.
    pub(crate) force: bool,
    /// All rungs of the ladder together.
    pub(crate) within: Duration,
}

impl Default for StopOrder {
    fn default() -> Self {
        Self { force: false, within: outlast_model::timeout::STOP }
    }
}

/// Where an answer without a value goes.
pub(crate) type Reply = oneshot::Sender<Result<(), String>>;

/// A snapshot's files are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    /// For so long the vCPUs stood still because of it.
    pub(crate) paused: Duration,
    /// The length of the devices and the memory, in bytes.
    pub(crate) machine_bytes: u64,
    /// The length of the disk's file, in bytes.
    pub(crate) disk_bytes: u64,
}

/// What a client asks.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Stop; answered before it is done, and seen in the store when it is.
    Stop {
        /// How.
        order: StopOrder,
        /// Taken.
        reply: Reply,
    },
    /// Stop the vCPUs.
    Pause {
        /// Done.
        reply: Reply,
    },
    /// Let them run again, and certify.
    Resume {
        /// Done.
        reply: Reply,
    },
    /// Write the whole of it into a directory.
    Snapshot {
        /// The directory.
        directory: PathBuf,
        /// It is there, synced.
        reply: oneshot::Sender<Result<Taken, String>>,
    },
    /// A raw command for the VMM's monitor.
    Monitor {
        /// A JSON object, or a bare name.
        command: String,
        /// The monitor's answer.
        reply: oneshot::Sender<Result<Value, String>>,
    },
    /// Something about programs.
    Program(ProgramAsk),
}

/// What concerns one program.
#[derive(Debug)]
pub(crate) enum ProgramAsk {
    /// Run one.
    Open {
        /// It.
        exec: Exec,
        /// How much of its output is kept, in bytes.
        limit: u64,
        /// Whether nobody stays beside it: its end is written down then.
        detached: bool,
        /// It was sent.
        reply: oneshot::Sender<Result<Opened, ExecError>>,
    },
    /// Bytes for its standard input.
    Stdin {
        /// Which.
        number: u32,
        /// The bytes.
        data: Vec<u8>,
        /// Whether they are the last.
        last: bool,
    },
    /// A signal for it.
    Signal {
        /// Which.
        number: u32,
        /// The signal.
        signal: i32,
        /// It was sent, for whoever waits for that.
        reply: Option<Reply>,
    },
    /// Its terminal's size.
    Resize {
        /// Which.
        number: u32,
        /// Rows and columns.
        size: (u16, u16),
    },
    /// Nobody waits for it any more: it is killed.
    Kill {
        /// Which.
        number: u32,
    },
}

impl ProgramAsk {
    /// Sends what is asked to the guest. What concerns a program that has ended meanwhile is passed over.
    pub(super) fn carry_out(self, execs: &Execs, link: &mut Link, evidence: &Evidence) {
        let done = match self {
            Self::Open { exec, limit, detached, reply } => {
                let files = |number| Files {
                    log: evidence.exec_log(number),
                    end: detached.then(|| evidence.exec_end(number)),
                };
                let opened = execs.open(link, exec, files, limit);
                // Its client went away before it was begun.
                let Err(Ok(orphan)) = reply.send(opened) else { return };
                execs.kill(link, orphan.number)
            }
            Self::Signal { number, signal, reply } => {
                let sent = execs.signal(link, number, signal);
                if let Some(reply) = reply {
                    let _ = reply.send(sent.map_err(|error| chain(&error)));
                }
                return;
            }
            Self::Stdin { number, data, last } => execs.stdin(link, number, data, last),
            Self::Resize { number, size } => execs.resize(link, number, size),
            Self::Kill { number } => execs.kill(link, number),
        };
        if let Err(error) = done {
            tracing::debug!(%error, "an ask about a program");
        }
    }
}

/// The queue's end that the loop holds.
#[derive(Debug)]
pub(crate) struct Asks {
    queue: mpsc::Receiver<Ask>,
    /// Taken from the queue and not yet dealt with, in order.
    deferred: VecDeque<Ask>,
}

impl Asks {
    /// A queue; clients hold the sender.
    pub(crate) fn new() -> (mpsc::Sender<Ask>, Self) {
        let (sender, queue) = mpsc::channel(QUEUE);
        (sender, Self { queue, deferred: VecDeque::new() })
    }

    /// The next ask. Cancelling it loses nothing.
    pub(super) async fn next(&mut self) -> Ask {
        match self.deferred.pop_front() {
            Some(ask) => ask,
            None => self.arriving().await,
        }
    }

    /// The next stop that is asked for; everything else waits for [`Self::next`], in order. When too much waits, only the
    /// store still says that a stop is wanted. Cancelling it loses nothing.
    pub(super) async fn stop(&mut self) -> (StopOrder, Reply) {
        loop {
            if self.deferred.len() >= QUEUE {
                return std::future::pending().await;
            }
            match self.arriving().await {
                Ask::Stop { order, reply } => return (order, reply),
                other => self.deferred.push_back(other),
            }
        }
    }

    async fn arriving(&mut self) -> Ask {
        match self.queue.recv().await {
            Some(ask) => ask,
            // The control server is gone; nobody can ask any more.
            None => std::future::pending().await,
        }
    }
}
