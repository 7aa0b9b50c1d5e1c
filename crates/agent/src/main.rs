//! `outlast-agent`: PID 1 of the guest (`/init` of its initramfs). It brings the guest up, then does what the
//! host asks over one byte stream, for as long as the guest lives.
//!
//! ```text
//!   boot ─► link (virtio-serial port) ─► session ─┬─► service   clock, randomness, identity, files
//!                                        ▲    │   └─► program   cgroup, process, streams, exit
//!                                        └────┘ hang-up: the next connection
//! ```
//!
//! The same program, run by a request like any other, is what copies files (`copy`) and says what the guest uses
//! (`usage`): a guest needs no programs of its own for that.
//!
//! It decides nothing: what runs, with which limits, and what its answers mean is the host's business, and it
//! knows neither the host's paths nor its policy. If it cannot go on it ends, and the kernel panics with it:
//! a guest without its agent is of no use to anyone.

mod boot;
mod console;
mod copy;
mod link;
mod program;
mod refusal;
mod service;
mod session;
mod sys;
mod usage;

use boot::Booted;
use link::Port;
use outlast_wire::guest::PORT_NAME;
use program::{Groups, Reaper, Scope, Site};
use refusal::chain;
use service::{Facts, Generator, Home, Nameplate};
use session::{Ended, Services};
use std::cell::{Cell, RefCell};
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;

fn main() -> ExitCode {
    if !rustix::process::getpid().is_init() {
        // Somebody in the guest runs the agent's own program: a copy does.
        return copy::run(std::env::args_os().skip(1));
    }
    console::panics_end_the_guest();
    let error = match live() {
        Ok(never) => match never {},
        Err(error) => error,
    };
    console::say(&format!("cannot go on: {}", chain(error.as_ref())));
    ExitCode::FAILURE
}

fn live() -> Result<std::convert::Infallible, Box<dyn Error>> {
    let booted = boot::boot()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, serve(booted))
}

async fn serve(booted: Booted) -> Result<std::convert::Infallible, Box<dyn Error>> {
    let Booted { uevents, image } = booted;
    let port = Port::open(PORT_NAME, &uevents)?;
    drop(uevents);
    let reaper = Rc::new(Reaper::new(Scope::Everything));
    let groups = Rc::new(Groups::new());
    groups.prepare_one();
    let services = Rc::new(Services {
        site: Site::new(Rc::clone(&reaper), groups)?,
        facts: Facts::gather(),
        generator: Generator::open()?,
        nameplate: RefCell::new(Nameplate::put_up(Path::new("/etc"))?),
        home: RefCell::new(Home::new(image)),
        seated: Cell::new(false),
    });
    let reaping = tokio::task::spawn_local(async move { reaper.run().await });
    tokio::select! {
        broken = connections(&port, &services) => broken,
        stopped = reaping => Err(match stopped {
            Ok(Err(error)) => error.into(),
            Ok(Ok(never)) => match never {},
            Err(error) => error.into(),
        }),
    }
}

/// Serves one connection after the other.
async fn connections(
    port: &Port,
    services: &Rc<Services>,
) -> Result<std::convert::Infallible, Box<dyn Error>> {
    loop {
        match session::serve(port, services).await? {
            Ended::HangUp => {}
            Ended::PowerOff => {
                // Order matters: what the agent itself has open on the disk would keep it writable.
                services.nameplate.borrow_mut().close();
                service::power_off(&services.home.borrow())
            }
        }
    }
}
