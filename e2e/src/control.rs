//! Asking a runner on its control socket, as any client may: the probe of the guest behind it.

use outlast_wire::control::{Answer, GENERATION, Greeting, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// A connection to a runner.
#[derive(Debug)]
pub struct Control {
    stream: UnixStream,
}

/// What a row of probes found.
#[derive(Debug, Clone)]
pub struct Probed {
    /// Round trips as the runner measured them, in order of length.
    pub round_trips: Vec<Duration>,
    /// Probes that were refused, with the reason.
    pub refused: Vec<String>,
}

impl Control {
    /// Connects to the runner whose run directory this is.
    ///
    /// # Errors
    /// Nobody answers there.
    pub fn connect(run_directory: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(run_directory.join("control.sock"))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut control = Self { stream };
        let ours = Greeting { generation: GENERATION, version: "e2e".to_owned() };
        control.send(&ours)?;
        let _theirs: Greeting = control.receive()?;
        Ok(control)
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// The runner is gone, or silent for 20 s.
    pub fn ask(&mut self, request: &Request) -> io::Result<Answer> {
        self.send(request)?;
        self.receive()
    }

    /// Probes the guest one time after the other for as long as `go_on` says so, or until the runner is gone.
    pub fn probe_while(&mut self, mut go_on: impl FnMut() -> bool) -> Probed {
        let mut probed = Probed { round_trips: Vec::new(), refused: Vec::new() };
        while go_on() {
            let began = Instant::now();
            match self.ask(&Request::Probe) {
                Ok(Answer::Probed { round_trip_us }) => {
                    probed.round_trips.push(Duration::from_micros(round_trip_us));
                }
                Ok(other) => probed.refused.push(format!("{other:?} after {:?}", began.elapsed())),
                Err(_) => break,
            }
        }
        probed.round_trips.sort();
        probed
    }

    fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        let body = serde_json::to_vec(message)?;
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        self.stream.write_all(&[&length.to_be_bytes(), body.as_slice()].concat())
    }

    fn receive<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut body = vec![0; usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?];
        self.stream.read_exact(&mut body)?;
        Ok(serde_json::from_slice(&body)?)
    }
}

impl Probed {
    /// Of a hundred probes, ninety-five took no longer.
    #[track_caller]
    pub fn p95(&self) -> Duration {
        assert!(self.round_trips.len() >= 20, "too few probes were answered: {self:?}");
        self.round_trips[(self.round_trips.len() * 95).div_ceil(100) - 1]
    }

    /// The longest.
    #[track_caller]
    pub fn longest(&self) -> Duration {
        *self.round_trips.last().expect("a probe was answered")
    }
}
