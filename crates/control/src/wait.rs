//! Waiting for descriptors, always with a deadline.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// Waits until one of `descriptors` can be read or has hung up, and gives the index of the first that has;
/// `None` when `within` passes first. A signal does not end the wait.
pub(crate) fn readable(descriptors: &[BorrowedFd<'_>], within: Duration) -> io::Result<Option<usize>> {
    let watched: Vec<_> = descriptors.iter().map(|descriptor| (*descriptor, PollFlags::IN)).collect();
    ready(&watched, within)
}

/// The same for descriptors each of which is waited for in its own way.
pub(crate) fn ready(watched: &[(BorrowedFd<'_>, PollFlags)], within: Duration) -> io::Result<Option<usize>> {
    let end = Instant::now().checked_add(within);
    let mut polled: Vec<PollFd<'_>> =
        watched.iter().map(|(descriptor, flags)| PollFd::from_borrowed_fd(*descriptor, *flags)).collect();
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        // A deadline too far away to be counted is the same as a year.
        let left = left.unwrap_or(Duration::from_secs(365 * 24 * 3600));
        let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 365 * 24 * 3600, tv_nsec: 0 });
        match poll(&mut polled, Some(&timeout)) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(polled.iter().position(|fd| !fd.revents().is_empty())),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn the_first_ready_descriptor_is_told_and_a_deadline_passes() {
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let ((first, _keep), (second, writer)) = (pipe(), pipe());
        let both = [first.as_fd(), second.as_fd()];
        assert_eq!(readable(&both, Duration::from_millis(1)).unwrap(), None);
        drop(writer); // A hang-up counts.
        assert_eq!(readable(&both, Duration::from_secs(20)).unwrap(), Some(1));
    }
}
