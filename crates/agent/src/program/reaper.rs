//! Collects every process that ends: orphans that fell to PID 1, whose status nobody wants, and our own
//! programs, whose status is kept for whoever waits for it.
//!
//! Nothing is lost between a program's start and its registration, because both happen in one thread without
//! a wait in between, and statuses are collected by that same thread.

use rustix::process::{Pid, WaitOptions, WaitStatus};
use std::cell::RefCell;
use std::collections::HashMap;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Which ended processes to collect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All of them: we are PID 1.
    Everything,
    /// Only those that are expected, so that tests leave each other's children alone.
    #[cfg(test)]
    Expected,
}

/// The only place of the agent that waits for processes.
pub(crate) struct Reaper {
    scope: Scope,
    expected: RefCell<HashMap<Pid, oneshot::Sender<WaitStatus>>>,
}

impl Reaper {
    /// A reaper that expects nobody yet.
    pub(crate) fn new(scope: Scope) -> Self {
        Self { scope, expected: RefCell::default() }
    }

    /// The status of a child just made, once it has ended. Call it before anything is awaited.
    pub(super) fn expect(&self, pid: Pid) -> oneshot::Receiver<WaitStatus> {
        let (sender, receiver) = oneshot::channel();
        self.expected.borrow_mut().insert(pid, sender);
        receiver
    }

    /// Collects for ever.
    ///
    /// # Errors
    /// When SIGCHLD cannot be listened to; the agent cannot work then.
    pub(crate) async fn run(&self) -> std::io::Result<std::convert::Infallible> {
        let mut children = signal(SignalKind::child())?;
        loop {
            // One signal may stand for many ends, and some may have come before we listened.
            self.collect();
            children.recv().await;
        }
    }

    fn collect(&self) {
        match self.scope {
            Scope::Everything => self.collect_everything(),
            #[cfg(test)]
            Scope::Expected => self.collect_expected(),
        }
    }

    fn collect_everything(&self) {
        // Ends with None (nobody ended) or ECHILD (nobody is there).
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            self.deliver(pid, status);
        }
    }

    #[cfg(test)]
    fn collect_expected(&self) {
        let pids: Vec<Pid> = self.expected.borrow().keys().copied().collect();
        for pid in pids {
            if let Ok(Some((pid, status))) = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG) {
                self.deliver(pid, status);
            }
        }
    }

    fn deliver(&self, pid: Pid, status: WaitStatus) {
        if let Some(waiting) = self.expected.borrow_mut().remove(&pid) {
            // Whoever waited may have gone; the process is collected all the same.
            let _ = waiting.send(status);
        }
    }
}
