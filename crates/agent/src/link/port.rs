//! The virtio-serial port of the agent: found by its name, opened once, read and written without blocking,
//! and followed through hang-ups and new hosts.
//!
//! What Linux's virtio_console does, and what follows from it:
//! * A port can be open once at a time, so it is opened once, for both directions, and never again.
//! * While no host is there, poll says HUP without end and read returns 0 at once. Level-triggered waiting
//!   would spin. An edge-triggered epoll reports every change once, the coming of a host among them.
//! * tokio takes HUP for final and would never wait again. So the port sits in an epoll of its own, and
//!   tokio waits for that one to be readable.
//! * Bytes of a new host may be readable before the port counts as open (the control message is worked on
//!   by a kernel thread), so "closed" means a hang-up only after "open" was seen.
//! * For the same reason a hang-up and the first bytes of the next host may be found in one look. The hang-up
//!   is told first and the bytes are kept for the next read: told the other way round, the hang-up would end
//!   the new host's conversation, and the host would wait for an answer for ever.
//! * Writing while closed answers EAGAIN.

use super::ByteStream;
use super::uevent::{Uevents, WaitError};
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Where the kernel lists virtio-serial ports.
const PORTS: &str = "/sys/class/virtio-ports";

/// How long the port may take to appear. Its driver hears its name from the VMM in a few milliseconds.
const APPEAR_LIMIT: Duration = Duration::from_secs(10);

/// There is no way to the host. The agent cannot do anything without it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum PortError {
    /// No port of that name.
    #[error("virtio-serial port")]
    Absent(#[from] WaitError),
    /// It is there but cannot be opened.
    #[error("open {0}")]
    Open(PathBuf, #[source] Errno),
    /// It cannot be waited for.
    #[error("watch {0}")]
    Watch(PathBuf, #[source] io::Error),
}

/// The open port.
pub(crate) struct Port {
    device: OwnedFd,
    /// An edge-triggered epoll with the port in it, readable when something about the port changed.
    changes: AsyncFd<OwnedFd>,
    /// Whether the present host was seen as connected.
    open: Cell<bool>,
    /// Bytes that were found together with a hang-up; the next read begins with them.
    kept: RefCell<Vec<u8>>,
}

impl Port {
    /// Waits for the port called `name` and opens it. Call it inside the runtime.
    pub(crate) fn open(name: &str, uevents: &Uevents) -> Result<Self, PortError> {
        let what = "the agent's virtio-serial port";
        let path = uevents.wait_for(what, APPEAR_LIMIT, || find(Path::new(PORTS), name))?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let device = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(|source| PortError::Open(path.clone(), source))?;
        let changes = watch(&device).map_err(|source| PortError::Watch(path, source))?;
        Ok(Self { device, changes, open: Cell::new(false), kept: RefCell::default() })
    }

    /// Hands out what was kept, as far as there is room.
    fn give_kept(&self, buffer: &mut [u8]) -> usize {
        let mut kept = self.kept.borrow_mut();
        let length = kept.len().min(buffer.len());
        buffer[..length].copy_from_slice(&kept[..length]);
        kept.drain(..length);
        length
    }

    /// Bytes have come. Those that were found with a hang-up are kept, and the hang-up is told in their place.
    fn arrived(&self, bytes: &[u8]) -> io::Result<usize> {
        if !self.hung_up()? {
            return Ok(bytes.len());
        }
        self.kept.borrow_mut().extend_from_slice(bytes);
        self.open.set(false);
        Ok(0)
    }

    /// Waits until something about the port has changed since this was last waited for. Reader and writer wait at
    /// the same time; an event that one of them takes out has woken both.
    async fn change(&self) -> io::Result<()> {
        let mut ready = self.changes.readable().await?;
        // Taking the event out is what makes the next change an edge; what it says is asked for afresh.
        let mut events = Vec::with_capacity(1);
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        epoll::wait(self.changes.get_ref(), rustix::buffer::spare_capacity(&mut events), Some(&now))?;
        ready.clear_ready();
        Ok(())
    }

    /// Looks whether a host is connected; once one was seen, its going is a hang-up.
    fn hung_up(&self) -> io::Result<bool> {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut polled = [PollFd::new(&self.device, PollFlags::IN)];
        poll(&mut polled, Some(&now))?;
        let closed = polled[0].revents().contains(PollFlags::HUP);
        if !closed {
            self.open.set(true);
        }
        Ok(closed && self.open.get())
    }
}

impl ByteStream for Port {
    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let kept = self.give_kept(buffer);
        if kept > 0 {
            return Ok(kept);
        }
        loop {
            match rustix::io::read(&self.device, &mut *buffer) {
                // Closed and empty.
                Ok(0) if self.open.replace(false) => return Ok(0),
                Ok(0) | Err(Errno::INTR) => {}
                Ok(length) => return self.arrived(&buffer[..length]),
                // Only a port whose host is connected answers this.
                Err(Errno::AGAIN) => self.open.set(true),
                Err(errno) => return Err(errno.into()),
            }
            self.change().await?;
        }
    }

    async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(&self.device, bytes) {
                Err(Errno::AGAIN) => {}
                Err(Errno::INTR) => continue,
                result => return Ok(result?),
            }
            if self.hung_up()? {
                // The bytes have nobody to go to. The reader finds the hang-up too, unless it is not reading
                // because its answers wait behind these bytes.
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.change().await?;
        }
    }
}

fn watch(device: &OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    let changes = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let interest = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
    epoll::add(&changes, device, epoll::EventData::new_u64(0), interest)?;
    crate::sys::watch::watch(changes, Interest::READABLE)
}

/// The device file of the port called `name`. A port without a name file has not heard its name yet.
fn find(ports: &Path, name: &str) -> Option<PathBuf> {
    std::fs::read_dir(ports).ok()?.filter_map(Result::ok).find_map(|entry| {
        let found = std::fs::read_to_string(entry.path().join("name")).ok()?;
        (found.trim_end() == name).then(|| Path::new("/dev").join(entry.file_name()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    /// A socket stands for the port: as that, it says HUP once the other end is gone, with bytes still in it.
    fn port() -> (Port, std::os::unix::net::UnixStream) {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let device = OwnedFd::from(ours);
        let changes = watch(&device).unwrap();
        (Port { device, changes, open: Cell::new(false), kept: RefCell::default() }, theirs)
    }

    async fn read(port: &Port) -> Vec<u8> {
        let mut buffer = [0; 4];
        let length = port.read(&mut buffer).await.unwrap();
        buffer[..length].to_vec()
    }

    #[tokio::test]
    async fn a_hang_up_is_told_before_bytes_that_are_found_with_it() {
        let (port, mut host) = port();
        host.write_all(b"old").unwrap();
        assert_eq!(read(&port).await, b"old");
        host.write_all(b"hello").unwrap();
        drop(host);
        assert_eq!(read(&port).await, b"", "the host that was there is gone");
        assert_eq!(read(&port).await, b"hell");
        assert_eq!(read(&port).await, b"o");
    }

    #[tokio::test]
    async fn a_writer_goes_on_while_a_reader_waits() {
        let (port, mut host) = port();
        let bytes = vec![7; 1 << 20];
        let drained = std::thread::spawn(move || {
            let mut all = vec![0; 1 << 20];
            host.read_exact(&mut all).map(|()| host)
        });
        let writing = async {
            let mut written = 0;
            while written < bytes.len() {
                written += port.write(&bytes[written..]).await.unwrap();
            }
        };
        let mut buffer = [0; 4];
        let both = async {
            tokio::select! {
                biased;
                read = port.read(&mut buffer) => panic!("nobody said anything: {read:?}"),
                () = writing => {}
            }
        };
        tokio::time::timeout(Duration::from_secs(30), both)
            .await
            .expect("the reader took the writer's event");
        drop(drained.join().unwrap().unwrap());
    }

    #[tokio::test]
    async fn bytes_of_a_host_that_does_not_count_as_connected_yet_are_no_hang_up() {
        let (port, mut host) = port();
        host.write_all(b"new").unwrap();
        drop(host);
        assert_eq!(read(&port).await, b"new");
    }

    #[test]
    fn the_port_is_found_by_its_name_and_not_by_its_number() {
        let ports = tempfile::tempdir().unwrap();
        for (port, name) in
            [("vport0p1", Some("other\n")), ("vport0p2", None), ("vport2p1", Some("outlast.agent\n"))]
        {
            std::fs::create_dir(ports.path().join(port)).unwrap();
            if let Some(name) = name {
                std::fs::write(ports.path().join(port).join("name"), name).unwrap();
            }
        }
        assert_eq!(find(ports.path(), "outlast.agent"), Some(PathBuf::from("/dev/vport2p1")));
        assert_eq!(find(ports.path(), "absent"), None);
        assert_eq!(find(&ports.path().join("absent"), "absent"), None);
    }
}
