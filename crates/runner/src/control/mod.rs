//! The control socket: answers clients of the same user, and passes on to the loop what only that can do.
//!
//! Every client is served on its own; a slow, silent or lying one costs a place among [`MAX_CLIENTS`] for at most
//! the deadline, and nothing else. One that runs a program in a VM keeps its place until the program is over.

mod attached;
mod desk;
mod exec;
#[cfg(test)]
mod exec_tests;
mod frame;

pub(crate) use desk::{Desk, Doing, VmDesk};

use frame::{ClientError, receive, send};
use outlast_wire::control::{GENERATION, Greeting, Request};
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// Clients served at once: as many as programs may run in a VM, and as many again to look after them.
const MAX_CLIENTS: usize = 128;
/// After a client that could not be accepted the next one is waited for only then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The listening socket. Dropping it stops the service.
#[derive(Debug)]
pub(crate) struct ControlServer {
    serving: tokio::task::JoinHandle<()>,
}

impl ControlServer {
    /// Binds the socket, 0600, and serves it.
    pub(crate) fn start(path: &Path, desk: Rc<Desk>) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        // A socket is made 0777 less the umask, which is 077: others never have it, and nobody executes it.
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
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

async fn attend(mut stream: UnixStream, desk: &Rc<Desk>) -> Result<(), ClientError> {
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
        match serde_json::from_value::<Request>(request) {
            // From here on the connection is the program's.
            Ok(Request::Exec(request)) => return exec::attend(stream, desk, request).await,
            request => send(&mut stream, serde_json::to_vec(&desk.answer(request).await)).await?,
        }
    }
    Ok(())
}

fn greeting() -> Greeting {
    Greeting { generation: GENERATION, version: env!("CARGO_PKG_VERSION").to_owned() }
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
    use outlast_wire::control::Answer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::mpsc;
    use tokio::task::LocalSet;

    fn desk() -> (Rc<Desk>, mpsc::Receiver<()>) {
        let (kills, received) = mpsc::channel(1);
        (
            Rc::new(Desk {
                incarnation: "inc".to_owned(),
                state: Doing::new("running"),
                kills,
                probes: Rc::default(),
                vm: None,
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
