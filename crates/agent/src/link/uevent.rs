//! Waiting for devices: the kernel announces each on a netlink socket (uevents), so that nobody polls.
//! What is waited for is the caller's question; an announcement only means "look again".

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use std::time::{Duration, Instant};
use thiserror::Error;

/// The multicast group of the kernel's own announcements.
const KERNEL_GROUP: u32 = 1;

/// A device did not come.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum WaitError {
    /// The deadline passed.
    #[error("{what} did not appear within {limit:?}")]
    Late {
        /// What was waited for.
        what: &'static str,
        /// How long.
        limit: Duration,
    },
    /// The socket failed.
    #[error("wait for {what}")]
    Poll {
        /// What was waited for.
        what: &'static str,
        /// What the kernel answered.
        source: Errno,
    },
}

/// The kernel's announcements. Open it before causing what will be waited for.
pub(crate) struct Uevents(OwnedFd);

impl Uevents {
    /// Begins to listen.
    pub(crate) fn listen() -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))?;
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL_GROUP))?;
        Ok(Self(socket))
    }

    /// Calls `look` now and after every announcement until it finds something or `limit` has passed.
    pub(crate) fn wait_for<T>(
        &self,
        what: &'static str,
        limit: Duration,
        mut look: impl FnMut() -> Option<T>,
    ) -> Result<T, WaitError> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            let left = deadline.checked_duration_since(Instant::now());
            let left = left.ok_or(WaitError::Late { what, limit })?;
            self.announcement(left).map_err(|source| WaitError::Poll { what, source })?;
        }
    }

    /// Waits for announcements and throws them away; also returns when `left` has passed.
    fn announcement(&self, left: Duration) -> Result<(), Errno> {
        let timeout = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        let mut message = [0; 4096];
        loop {
            match recv(&self.0, &mut message, RecvFlags::empty()) {
                // ENOBUFS: some were lost, which is as good as having read them.
                Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(errno) => return Err(errno),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_already_is_found_without_waiting() {
        let uevents = Uevents::listen().unwrap();
        let found = uevents.wait_for("a thing", Duration::ZERO, || Some(7)).unwrap();
        assert_eq!(found, 7);
    }

    #[test]
    fn what_never_comes_ends_at_the_deadline() {
        let uevents = Uevents::listen().unwrap();
        let late = uevents.wait_for("a thing", Duration::from_millis(5), || None::<()>);
        assert!(matches!(late, Err(WaitError::Late { what: "a thing", .. })));
    }
}
