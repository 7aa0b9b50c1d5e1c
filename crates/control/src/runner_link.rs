//! Talks to a runner over its control socket, every step under a deadline.
//!
//! Who answers is checked first: the kernel names the process that listens, and that must be the runner whose
//! identity the store has. A socket that somebody else has put in its place is not spoken to.

use crate::site::Site;
use outlast_model::timeout;
use outlast_store::IncarnationRow;
use outlast_wire::control::{Answer, GENERATION, Greeting, MAX_FRAME, Request};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A runner did not do what it was asked.
#[derive(Debug, Error)]
pub(crate) enum LinkError {
    /// Nothing answers at its socket.
    #[error("cannot connect to {}", .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else answers.
    #[error("another process (pid {pid}, uid {uid}) listens at {}", .path.display())]
    Stranger {
        /// The socket.
        path: PathBuf,
        /// Its pid.
        pid: i32,
        /// Its user.
        uid: u32,
    },
    /// It was silent, hung up, or the connection broke.
    #[error("cannot talk to the runner")]
    Io(#[from] io::Error),
    /// It said something that is not the protocol.
    #[error("the runner's answer is not one")]
    Malformed(#[from] serde_json::Error),
    /// A frame over the limit.
    #[error("the runner announces a frame of {0} bytes")]
    TooLong(u32),
    /// It does not do that.
    #[error("the runner refused: {cause}")]
    Refused {
        /// Why.
        cause: String,
    },
    /// It answered another question.
    #[error("the runner answered another question")]
    Unexpected,
}

/// Asks a runner to kill its workload. `Ok` means that it will; its end is seen elsewhere.
pub(crate) fn ask_to_kill(site: &Site, row: &IncarnationRow) -> Result<(), LinkError> {
    let path = site.places().run_directory(row.id).control_socket();
    let mut stream = connect_to(&path)?;
    check_peer(&stream, row, &path)?;
    send(&mut stream, &Greeting { generation: GENERATION, version: env!("CARGO_PKG_VERSION").to_owned() })?;
    let _: Greeting = receive(&mut stream)?;
    send(&mut stream, &Request::Kill)?;
    match receive(&mut stream)? {
        Answer::Accepted => Ok(()),
        Answer::Refused { cause } => Err(LinkError::Refused { cause }),
        Answer::Pong { .. }
        | Answer::Probed { .. }
        | Answer::Status { .. }
        | Answer::Monitor { .. }
        | Answer::ExecStarted { .. }
        | Answer::ExecOutput { .. }
        | Answer::ExecEnded { .. } => Err(LinkError::Unexpected),
    }
}

/// Connects without ever waiting: a stopped runner with a full queue would keep us for good.
fn connect_to(path: &Path) -> Result<UnixStream, LinkError> {
    let failed = |errno: Errno| LinkError::Connect { path: path.to_owned(), source: errno.into() };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failed)?;
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    connect(&socket, &address).map_err(failed)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(timeout::CONTROL))?;
    stream.set_write_timeout(Some(timeout::CONTROL))?;
    Ok(stream)
}

fn check_peer(stream: &UnixStream, row: &IncarnationRow, path: &Path) -> Result<(), LinkError> {
    let peer = socket_peercred(stream).map_err(io::Error::from)?;
    let (pid, uid) = (peer.pid.as_raw_pid(), peer.uid.as_raw());
    let ours = uid == rustix::process::geteuid().as_raw();
    let expected = row.runner.as_ref().and_then(|runner| i32::try_from(runner.pid).ok());
    if ours && expected == Some(pid) {
        return Ok(());
    }
    Err(LinkError::Stranger { path: path.to_owned(), pid, uid })
}

fn send(stream: &mut UnixStream, message: &impl Serialize) -> Result<(), LinkError> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).map_err(|_| LinkError::TooLong(u32::MAX))?;
    stream.write_all(&[&length.to_be_bytes(), body.as_slice()].concat())?;
    Ok(())
}

fn receive<T: DeserializeOwned>(stream: &mut UnixStream) -> Result<T, LinkError> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if usize::try_from(length).unwrap_or(usize::MAX) > MAX_FRAME {
        return Err(LinkError::TooLong(length));
    }
    // Read as it comes: an announced length alone takes no memory.
    let mut body = Vec::new();
    stream.take(u64::from(length)).read_to_end(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn frames_are_read_back_and_rubbish_is_refused() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        send(&mut theirs, &Answer::Accepted).unwrap();
        assert_eq!(receive::<Answer>(&mut ours).unwrap(), Answer::Accepted);
        theirs.write_all(&u32::MAX.to_be_bytes()).unwrap();
        assert!(matches!(receive::<Answer>(&mut ours), Err(LinkError::TooLong(_))));
        theirs.write_all(&[0, 0, 0, 1, b'{']).unwrap();
        assert!(matches!(receive::<Answer>(&mut ours), Err(LinkError::Malformed(_))));
        drop(theirs);
        assert!(matches!(receive::<Answer>(&mut ours), Err(LinkError::Io(_))));
    }

    #[test]
    fn a_silent_listener_with_a_full_queue_is_not_waited_for() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("sock");
        assert!(matches!(connect_to(&path), Err(LinkError::Connect { .. })));
        let _listener = UnixListener::bind(&path).unwrap();
        // Nobody accepts: sooner or later the queue is full, and that is an error at once.
        let full = (0..100_000).map(|_| connect_to(&path)).take_while(Result::is_ok).count();
        assert!(full < 100_000);
    }
}
