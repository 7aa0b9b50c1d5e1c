//! One VM on the stage: started, restored or booted, asked, killed.

use super::Marks;
use super::agent::Port;
use super::monitor::Monitor;
use crate::clock;
use crate::recipe::{Purpose, Recipe};
use anyhow::Context as _;
use rustix::fd::{AsFd, AsRawFd as _, OwnedFd};
use rustix::io::FdFlags;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A VM that has not answered by then never will.
const PATIENCE: Duration = Duration::from_secs(60);

/// Our ends of the VMM's channels.
#[derive(Debug, Default)]
struct Ends {
    monitor: Option<UnixStream>,
    agent: Option<UnixStream>,
}

/// A VMM that dies with this value.
struct Vmm(Child);

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// From nothing to an answer.
pub(super) fn once(recipe: &Recipe, state: Option<&File>, sockets: &Path) -> anyhow::Result<Marks> {
    let began = Instant::now();
    let (vmm, ends) = start(recipe, state, sockets)?;
    let mut monitor = Monitor::greeted(ends.monitor.context("there is a monitor")?)?;
    let greeted = clock::ms_since(began);
    if let Some(address) = recipe.state_address() {
        monitor.restore(&address)?;
    }
    monitor.execute("cont", None)?;
    let started = clock::ms_since(began);
    let port = ends.agent.context("there is an agent's port")?;
    let mut port = Port::greeted(&port)?;
    let answered = clock::ms_since(began);
    let certification = certification(&mut port)?;
    drop(vmm);
    Ok(Marks { monitor: greeted, started, answered, certification })
}

fn certification(port: &mut Port<'_>) -> anyhow::Result<Vec<(String, f64)>> {
    let mut requests = Vec::new();
    let mut since = Instant::now();
    port.certify(|name| {
        requests.push((name.to_owned(), clock::ms_since(since)));
        since = Instant::now();
    })?;
    Ok(requests)
}

fn start(recipe: &Recipe, state: Option<&File>, sockets: &Path) -> anyhow::Result<(Vmm, Ends)> {
    let mut arguments = recipe.arguments.clone();
    let mut ends = Ends::default();
    let mut theirs: Vec<OwnedFd> = Vec::new();
    for one in recipe.inherited() {
        let descriptor = match one.purpose {
            Purpose::State => rewound(state.context("there is a device state")?)?,
            Purpose::Monitor | Purpose::Agent | Purpose::Console => {
                let (descriptor, end) = channel(one.listens, &sockets.join(format!("{:?}", one.purpose)))?;
                match one.purpose {
                    Purpose::Monitor => ends.monitor = Some(end),
                    Purpose::Agent => ends.agent = Some(end),
                    Purpose::Console | Purpose::State => drain(end),
                }
                descriptor
            }
        };
        rustix::io::fcntl_setfd(&descriptor, FdFlags::empty())?;
        arguments[one.argument] = recipe.with_descriptor(one.argument, descriptor.as_fd().as_raw_fd());
        theirs.push(descriptor);
    }
    let mut command = Command::new(&recipe.program);
    command.args(arguments).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    let child = command.spawn().with_context(|| format!("start {}", recipe.program.display()))?;
    drop(theirs);
    Ok((Vmm(child), ends))
}

/// The position in the file is shared with the VMM before, which has read to its end.
fn rewound(mut state: &File) -> anyhow::Result<OwnedFd> {
    state.rewind()?;
    Ok(state.try_clone()?.into())
}

/// What the VMM gets, and our end of it.
fn channel(listens: bool, path: &Path) -> anyhow::Result<(OwnedFd, UnixStream)> {
    let (descriptor, end) = if listens {
        let _ = fs::remove_file(path);
        let listener = UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))?;
        (listener.into(), UnixStream::connect(path)?)
    } else {
        let (theirs, ours) = UnixStream::pair()?;
        (theirs.into(), ours)
    };
    end.set_read_timeout(Some(PATIENCE))?;
    Ok((descriptor, end))
}

/// Reads a console so that a guest that writes to it does not stand still.
fn drain(mut console: UnixStream) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while console.read(&mut buffer).is_ok_and(|count| count > 0) {}
    });
}
