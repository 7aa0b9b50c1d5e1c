//! From a kernel that has just started PID 1 to a guest in which programs can run.
//!
//! ```text
//!   proc, sys, dev ─► modules ─► root disk? ── yes: overlay, switch root ──┐
//!                                     └────── no (canary): stay ───────────┴─► ptys, shm, tmp, run, cgroups,
//!                                                                              protections, loopback
//! ```
//!
//! Everything is done in order and nothing waits except for a device that was promised and is not there yet.
//! The link to the host is not made here.

mod command_line;
mod modules;
mod mounts;
mod protection;
mod root;

use crate::console;
use crate::link::{Uevents, WaitError};
use crate::program::prepare_cgroups;
use crate::sys::interfaces;
pub(crate) use root::{RootError, mount_image};

use command_line::{Options, RootDisk};
use rustix::fs::Mode;
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// How long the root disk may take to appear after its driver was loaded.
const DISK_LIMIT: Duration = Duration::from_secs(10);

/// Where a root disk is looked for when the command line does not say.
const USUAL_DISK: &str = "/dev/vda";

/// The guest cannot be brought up. The agent ends then, and with it the kernel.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum BootError {
    /// A file system the agent itself needs.
    #[error("mount {0}")]
    Mount(&'static str, #[source] Errno),
    /// The kernel does not announce devices.
    #[error("listen for devices")]
    Uevents(#[source] Errno),
    /// The root disk that was promised did not come.
    #[error("root disk {0}")]
    Disk(PathBuf, #[source] WaitError),
    /// The root disk cannot be used.
    #[error("root file system")]
    Root(#[from] RootError),
    /// Staying in memory and alive is what all else rests on.
    #[error("protect the agent: {0}")]
    Protection(&'static str, #[source] Errno),
}

/// A guest that is up.
pub(crate) struct Booted {
    /// The announcements that were listened to. The link needs them too: a device may have come in the meantime.
    pub(crate) uevents: Uevents,
    /// The disk with the image, if its root is one.
    pub(crate) image: Option<PathBuf>,
}

/// Brings the guest up.
pub(crate) fn boot() -> Result<Booted, BootError> {
    rustix::process::umask(Mode::from_raw_mode(0o022));
    mounts::kernel_file_systems()?;
    // Listening before any driver is loaded, so that no device can be missed.
    let uevents = Uevents::listen().map_err(BootError::Uevents)?;
    let options = options();
    modules::load_all(Path::new("/modules"));
    let image = root_disk(&options, &uevents)?;
    if let Some(disk) = &image {
        root::switch_to(disk)?;
    }
    mounts::rest();
    mounts::workplaces();
    protection::of_the_agent()?;
    protection::of_the_kernel();
    prepare();
    Ok(Booted { uevents, image })
}

fn options() -> Options {
    let text = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let (options, complaints) = command_line::parse(&text);
    for complaint in &complaints {
        console::say(complaint);
    }
    options
}

fn root_disk(options: &Options, uevents: &Uevents) -> Result<Option<PathBuf>, BootError> {
    match &options.root {
        RootDisk::None => Ok(None),
        RootDisk::IfPresent => Ok(Some(PathBuf::from(USUAL_DISK)).filter(|disk| disk.exists())),
        RootDisk::Required(disk) => uevents
            .wait_for("the block device", DISK_LIMIT, || disk.exists().then(|| disk.clone()))
            .map(Some)
            .map_err(|source| BootError::Disk(disk.clone(), source)),
    }
}

/// What a guest can answer without; each failure is told, and what needs the thing is refused later.
fn prepare() {
    if let Err(error) = prepare_cgroups() {
        console::say_error("prepare cgroups", &error);
    }
    if let Err(errno) = interfaces::bring_loopback_up() {
        console::say_error("bring loopback up", &errno);
    }
}
