//! A terminal for one program: our side of it, and the side that becomes the program's three streams.
//!
//! What is shown there is read by a pump, what is typed is written by an intake. That it controls the program's session
//! is the child's own work (in `sys::spawn`).

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::Uid;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::io;
use std::rc::Rc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What ends the input of a terminal when it is typed at the beginning of a line (VEOF).
pub(super) const END_OF_FILE: u8 = 4;

/// A size that a terminal can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WindowSize {
    rows: u16,
    columns: u16,
}

impl WindowSize {
    /// `None` when a number is over what the kernel can keep.
    pub(super) fn new(rows: u32, columns: u32) -> Option<Self> {
        Some(Self { rows: rows.try_into().ok()?, columns: columns.try_into().ok()? })
    }
}

/// Our side of a terminal. The program hears a hang-up when the last holder drops it.
pub(super) struct Terminal(AsyncFd<OwnedFd>);

impl Terminal {
    /// A new one of this size, and the side for the program, which belongs to `user` if that is somebody else. Call it
    /// inside the runtime.
    pub(super) fn open(size: WindowSize, user: Option<Uid>) -> Result<(Rc<Self>, OwnedFd), Errno> {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        unlockpt(&ours)?;
        let theirs =
            ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        if user.is_some() {
            // Programs open it again by its name.
            rustix::fs::fchown(&theirs, user, None)?;
        }
        set_size(&ours, size)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        let ours = crate::sys::watch::watch(ours, Interest::READABLE | Interest::WRITABLE)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Ok((Rc::new(Self(ours)), theirs))
    }

    /// Gives it another size; the program in its foreground hears of it.
    pub(super) fn resize(&self, size: WindowSize) -> Result<(), Errno> {
        set_size(self.0.get_ref(), size)
    }

    /// Waits until something may be read.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.0.readable().await.map(|mut ready| ready.retain_ready())
    }

    /// Reads what is shown. An error, EIO that is, when nobody on the other side has it open any more.
    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut *buffer)?))
    }

    /// As [`Self::try_read`], whatever readiness was seen before.
    pub(super) fn read_now(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        rustix::io::read(self.0.get_ref(), buffer)
    }

    /// Waits until something may be typed.
    pub(super) async fn writable(&self) -> io::Result<()> {
        self.0.writable().await.map(|mut ready| ready.retain_ready())
    }

    /// Types.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, bytes)?))
    }
}

fn set_size(terminal: &OwnedFd, size: WindowSize) -> Result<(), Errno> {
    let WindowSize { rows: ws_row, columns: ws_col } = size;
    tcsetwinsize(terminal, Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 })
}
