//! Work on a thread of its own, with somebody who hears signals meanwhile: what is taken in and published can be told to
//! stop as long as it goes on.

use crate::follow::FollowError;
use crate::wait;
use outlast_copy::Stop;
use outlast_machine::sys::signal::{HANG_UP, INTERRUPT, Interrupts, TERMINATE};
use rustix::event::PollFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Duration;

/// Waited at once; then it is waited on.
const LOOK: Duration = Duration::from_secs(60);

/// Work that goes on.
pub(super) struct Work<'scope, T> {
    thread: ScopedJoinHandle<'scope, T>,
    /// Closes when it is done.
    going: OwnedFd,
}

impl<'scope, T: Send + 'scope> Work<'scope, T> {
    /// Begins it.
    pub(super) fn begin<'env>(
        scope: &'scope Scope<'scope, 'env>,
        work: impl FnOnce() -> T + Send + 'scope,
    ) -> Result<Self, FollowError> {
        let (going, end) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| FollowError::Wait(errno.into()))?;
        let thread = scope.spawn(move || {
            // Closed however the work ends.
            let _end = end;
            work()
        });
        Ok(Self { thread, going })
    }

    /// Waits for its end. The first signal tells it to stop.
    pub(super) fn finish(self, signals: Option<&Interrupts>, stop: &Stop) -> T {
        // Whoever cannot be waited for attentively is waited for all the same.
        while let Ok(false) = self.is_done_or_told(signals, stop) {}
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn is_done_or_told(&self, signals: Option<&Interrupts>, stop: &Stop) -> io::Result<bool> {
        let mut watched = vec![(self.going.as_fd(), PollFlags::IN)];
        watched.extend(signals.map(|signals| (signals.as_fd(), PollFlags::IN)));
        match wait::ready(&watched, LOOK)? {
            None => Ok(false),
            Some(0) => Ok(true),
            Some(_) => {
                let numbers = signals.map_or(Ok(Vec::new()), Interrupts::take_numbers)?;
                if numbers.iter().any(|number| matches!(*number, INTERRUPT | TERMINATE | HANG_UP)) {
                    stop.tell();
                }
                Ok(false)
            }
        }
    }
}

/// Does it, and hears signals meanwhile.
pub(super) fn attentively<T: Send>(
    signals: Option<&Interrupts>,
    stop: &Stop,
    work: impl FnOnce() -> T + Send,
) -> Result<T, FollowError> {
    thread::scope(|scope| Ok(Work::begin(scope, work)?.finish(signals, stop)))
}
