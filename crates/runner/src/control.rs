//! The control socket: answers clients of the same user, and passes a kill on to the loop.
//!
//! Every client is served on its own; a slow, silent or lying one costs a place among
//! [`MAX_CLIENTS`] for at most the deadline, and nothing else.

use crate::probe::Probes;
use outlast_model::timeout;
use outlast_wire::control::{Answer, GENERATION, Greeting, MAX_FRAME, Request};
use serde_json::Value;
use std::cell::Cell;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};

/// Clients served at once.
const MAX_CLIENTS: usize = 32;
/// After a client that could not be accepted the next one is waited for only then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the server knows and tells.
#[derive(Debug)]
pub(crate) struct Desk {
    /// The incarnation's id.
    pub(crate) incarnation: String,
    /// The word for what it is doing.
    pub(crate) state: Cell<&'static str>,
    /// Where kills go; one waiting is as good as many.
    pub(crate) kills: mpsc::Sender<()>,
    /// Where probes of the guest wait.
    pub(crate) probes: Rc<Probes>,
}

/// The listening socket. Dropping it stops the service.
#[derive(Debug)]
pub(crate) struct ControlServer {
    serving: tokio::task::JoinHandle<()>,
}

impl ControlServer {
    /// Binds the socket, 0600 (the runner's umask is 077), and serves it.
    pub(crate) fn start(path: &Path, desk: Rc<Desk>) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        Ok(Self { serving: tokio::task::spawn_local(serve(listener, desk)) })
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: UnixListener, desk: Rc<Desk>) {
    let places = Rc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let Ok(place) = Rc::clone(&places).acquire_owned_local().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let desk = Rc::clone(&desk);
                tokio::task::spawn_local(async move {
                    let _place = place;
                    if let Err(error) = attend(stream, &desk).await {
                        tracing::debug!(%error, "a control client");
                    }
                });
            }
            Err(error) => {
                // Out of descriptors or memory, for now: the next client may be served again.
                tracing::warn!(%error, "cannot accept a control client");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Why a client was hung up on.
#[derive(Debug, Error)]
enum ClientError {
    #[error("not of this user")]
    Stranger,
    #[error("frame of {0} bytes")]
    TooLong(u32),
    #[error("silent")]
    Silent,
    #[error("not the protocol")]
    Malformed(#[source] serde_json::Error),
    #[error("connection failed")]
    Io(#[from] io::Error),
}

async fn attend(mut stream: UnixStream, desk: &Desk) -> Result<(), ClientError> {
    let ours = rustix::process::geteuid().as_raw();
    // Root may always; it could signal us anyway.
    let theirs = stream.peer_cred()?.uid();
    if theirs != ours && theirs != 0 {
        return Err(ClientError::Stranger);
    }
    send(&mut stream, serde_json::to_vec(&greeting())).await?;
    let Some(greeting) = receive(&mut stream).await? else { return Ok(()) };
    serde_json::from_value::<Greeting>(greeting).map_err(ClientError::Malformed)?;
    while let Some(request) = receive(&mut stream).await? {
        send(&mut stream, serde_json::to_vec(&desk.answer(request).await)).await?;
    }
    Ok(())
}

fn greeting() -> Greeting {
    Greeting { generation: GENERATION, version: env!("CARGO_PKG_VERSION").to_owned() }
}

impl Desk {
    async fn answer(&self, request: Value) -> Answer {
        match serde_json::from_value::<Request>(request) {
            Ok(Request::Ping) => {
                Answer::Pong { incarnation: self.incarnation.clone(), state: self.state.get().to_owned() }
            }
            Ok(Request::Probe) => self.probe().await,
            Ok(
                Request::Status
                | Request::Stop { .. }
                | Request::Pause
                | Request::Resume
                | Request::Monitor { .. }
                | Request::Exec(_)
                | Request::Stdin { .. }
                | Request::Signal { .. }
                | Request::Resize { .. },
            ) => Answer::Refused { cause: "that is asked of VMs, and this is none".to_owned() },
            Ok(Request::Kill) => {
                // A full queue holds a kill already.
                let _ = self.kills.try_send(());
                Answer::Accepted
            }
            Err(error) => Answer::Refused { cause: format!("unknown request: {error}") },
        }
    }
}

impl Desk {
    /// A round trip through the guest.
    async fn probe(&self) -> Answer {
        let refused = |cause: String| Answer::Refused { cause };
        match tokio::time::timeout(timeout::PROBE, self.probes.ask()).await {
            Ok(Ok(took)) => {
                Answer::Probed { round_trip_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX) }
            }
            Ok(Err(_)) => refused("the guest link ended".to_owned()),
            Err(_) => refused(format!("the agent did not answer within {} s", timeout::PROBE.as_secs())),
        }
    }
}

/// Sends a message, as [`serde_json::to_vec`] made it.
async fn send(stream: &mut UnixStream, message: serde_json::Result<Vec<u8>>) -> Result<(), ClientError> {
    let body = message.map_err(ClientError::Malformed)?;
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let written = async {
        stream.write_all(&length.to_be_bytes()).await?;
        stream.write_all(&body).await
    };
    tokio::time::timeout(timeout::CONTROL, written).await.map_err(|_| ClientError::Silent)??;
    Ok(())
}

/// The next frame, or `None` when the client hung up between frames.
async fn receive(stream: &mut UnixStream) -> Result<Option<Value>, ClientError> {
    let frame = async {
        let length = match stream.read_u32().await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            length => length?,
        };
        if length as usize > MAX_FRAME {
            return Err(ClientError::TooLong(length));
        }
        // Read as it comes: an announced length alone takes no memory.
        let mut body = Vec::new();
        stream.take(u64::from(length)).read_to_end(&mut body).await?;
        serde_json::from_slice(&body).map(Some).map_err(ClientError::Malformed)
    };
    tokio::time::timeout(timeout::CONTROL, frame).await.map_err(|_| ClientError::Silent)?
}

/// `Semaphore::acquire_owned` wants an `Arc`; everything here lives on one thread.
trait AcquireLocal {
    async fn acquire_owned_local(self) -> Result<Place, tokio::sync::AcquireError>;
}

/// A place among the clients, given back when dropped.
struct Place(Rc<Semaphore>);

impl AcquireLocal for Rc<Semaphore> {
    async fn acquire_owned_local(self) -> Result<Place, tokio::sync::AcquireError> {
        self.acquire().await?.forget();
        Ok(Place(self))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::LocalSet;

    fn desk() -> (Rc<Desk>, mpsc::Receiver<()>) {
        let (kills, received) = mpsc::channel(1);
        (
            Rc::new(Desk {
                incarnation: "inc".to_owned(),
                state: Cell::new("running"),
                kills,
                probes: Rc::default(),
            }),
            received,
        )
    }

    async fn greeted(path: &Path) -> UnixStream {
        let mut stream = UnixStream::connect(path).await.unwrap();
        assert!(receive(&mut stream).await.unwrap().is_some());
        send(&mut stream, serde_json::to_vec(&greeting())).await.unwrap();
        stream
    }

    async fn ask(stream: &mut UnixStream, request: serde_json::Result<Vec<u8>>) -> Answer {
        send(stream, request).await.unwrap();
        serde_json::from_value(receive(stream).await.unwrap().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn pings_kills_and_unknown_requests_are_answered() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let (desk, mut kills) = desk();
        let served = async {
            let _server = ControlServer::start(&path, desk).unwrap();
            let mut stream = greeted(&path).await;
            assert!(matches!(
                ask(&mut stream, serde_json::to_vec(&Request::Ping)).await,
                Answer::Pong { .. }
            ));
            let unknown = serde_json::json!({"request": "dance"});
            assert!(matches!(ask(&mut stream, serde_json::to_vec(&unknown)).await, Answer::Refused { .. }));
            for _ in 0..3 {
                assert_eq!(ask(&mut stream, serde_json::to_vec(&Request::Kill)).await, Answer::Accepted);
            }
            kills.recv().await.unwrap();
        };
        LocalSet::new().run_until(served).await;
    }

    #[tokio::test]
    async fn rubbish_and_silence_do_not_keep_others_from_being_served() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let (desk, _kills) = desk();
        let served = async {
            let _server = ControlServer::start(&path, desk).unwrap();
            let mut rude = UnixStream::connect(&path).await.unwrap();
            rude.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
            let _silent = UnixStream::connect(&path).await.unwrap();
            let mut polite = greeted(&path).await;
            assert!(matches!(
                ask(&mut polite, serde_json::to_vec(&Request::Ping)).await,
                Answer::Pong { .. }
            ));
            let mut rest = Vec::new();
            rude.read_to_end(&mut rest).await.unwrap();
            assert!(!rest.is_empty(), "the greeting, and then the end");
        };
        LocalSet::new().run_until(served).await;
    }
}
