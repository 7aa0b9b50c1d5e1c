//! Probes of the guest: a round trip through whatever link there is, for who wants to know whether the agent lives.
//!
//! ```text
//!   control client ── probe ──► Probes (they wait here) ──► Link::next sends a ping, hears the pong ──► answer
//! ```
//!
//! A probe rides along with what the incarnation does, and never holds it up: at most one ping is on its way, and
//! all who ask meanwhile get the answer to the next one.

use std::cell::RefCell;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// Who waits for a round trip.
pub(crate) type Waiting = Vec<oneshot::Sender<Duration>>;

/// Probes that nobody has begun yet.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    waiting: RefCell<Waiting>,
    asked: Notify,
}

impl Probes {
    /// Asks for a round trip. The receiver fails when the link ends before the guest has answered.
    pub(crate) fn ask(&self) -> oneshot::Receiver<Duration> {
        let (answer, answered) = oneshot::channel();
        let mut waiting = self.waiting.borrow_mut();
        // Who has given up needs no answer; so there are never more than clients.
        waiting.retain(|waiting| !waiting.is_closed());
        waiting.push(answer);
        self.asked.notify_one();
        answered
    }

    /// Waits until somebody asks. Cancelling it loses nothing.
    pub(crate) async fn asked(&self) {
        while self.waiting.borrow().is_empty() {
            self.asked.notified().await;
        }
    }

    /// All who wait.
    pub(crate) fn take(&self) -> Waiting {
        std::mem::take(&mut self.waiting.borrow_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_gave_up_are_forgotten() {
        let probes = Probes::default();
        for _ in 0..100 {
            drop(probes.ask());
        }
        let _waiting = probes.ask();
        assert_eq!(probes.take().len(), 1);
    }
}
