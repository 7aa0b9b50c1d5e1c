//! Waiting for descriptors, always with a deadline; and a descriptor that tells of changes to files.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
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

/// Changes to files and directories, told by the kernel. What exactly has changed is looked at afterwards, so of
/// any number of changes one word is enough.
#[derive(Debug)]
pub(crate) struct Changes(OwnedFd);

impl Changes {
    /// Of nothing yet.
    pub(crate) fn of_nothing() -> io::Result<Self> {
        Ok(Self(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?))
    }

    /// Of this kind, to this file or directory.
    pub(crate) fn of(path: &Path, kind: WatchFlags) -> io::Result<Self> {
        let changes = Self::of_nothing()?;
        changes.and_of(path, kind)?;
        Ok(changes)
    }

    /// To this one as well. Order matters for whoever calls: what happened before is told by nobody, so it is
    /// watched first and looked at then.
    pub(crate) fn and_of(&self, path: &Path, kind: WatchFlags) -> io::Result<()> {
        inotify::add_watch(&self.0, path, kind)?;
        Ok(())
    }

    /// Takes note of what was told; from now on only what comes later can be read.
    pub(crate) fn acknowledge(&self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match rustix::io::read(&self.0, &mut buffer) {
                Ok(1..) | Err(Errno::INTR) => {}
                Ok(0) | Err(Errno::WOULDBLOCK) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_until_it_is_acknowledged() {
        let top = tempfile::tempdir().unwrap();
        let changes = Changes::of(top.path(), WatchFlags::CREATE | WatchFlags::MODIFY).unwrap();
        let told = |within| readable(&[changes.as_fd()], within).unwrap().is_some();
        assert!(!told(Duration::ZERO));
        std::fs::write(top.path().join("file"), "content").unwrap();
        assert!(told(Duration::from_secs(20)));
        changes.acknowledge().unwrap();
        assert!(!told(Duration::ZERO));
    }

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
