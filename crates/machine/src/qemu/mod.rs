//! QEMU behind the backend trait (being written).

use crate::backend::{Backend, BackendError, Capabilities, GuestLink, LaunchError, LaunchPlan, VmmEvents};
use crate::process::Process;
use std::path::Path;
use tokio::net::UnixStream;

/// A QEMU process.
#[derive(Debug)]
pub struct Qemu {
    process: Process,
}

impl Backend for Qemu {
    const NAME: &'static str = "qemu";
    fn capabilities() -> Capabilities {
        Capabilities { snapshots: true, emulation: true, hardware: true, guest_link: GuestLink::VirtioSerial }
    }
    fn topology() -> String {
        String::new()
    }
    async fn launch(_plan: &LaunchPlan) -> Result<(Self, VmmEvents), LaunchError> {
        Err(LaunchError::Refused { backend: "qemu", reason: String::new() })
    }
    async fn boot(&mut self) -> Result<(), BackendError> {
        Err(BackendError::NothingToBoot)
    }
    async fn restore(&mut self) -> Result<(), BackendError> {
        Err(BackendError::NothingToRestore)
    }
    async fn connect_agent(&mut self) -> Result<UnixStream, BackendError> {
        Err(BackendError::NothingToBoot)
    }
    async fn pause(&mut self) -> Result<(), BackendError> {
        Err(BackendError::NothingToBoot)
    }
    async fn resume(&mut self) -> Result<(), BackendError> {
        Err(BackendError::NothingToBoot)
    }
    async fn save(&mut self, _state_file: &Path) -> Result<(), BackendError> {
        Err(BackendError::NothingToBoot)
    }
    async fn power_off(&mut self) -> Result<(), BackendError> {
        Err(BackendError::NothingToBoot)
    }
    fn process(&self) -> &Process {
        &self.process
    }
    fn kill(&self) -> Result<(), BackendError> {
        Err(BackendError::NothingToBoot)
    }
}

/// The CPU model that guests get under an accelerator.
pub fn cpu_model(accelerator: &str) -> &'static str {
    if accelerator == "kvm" { "host" } else { "max" }
}

/// The base of the guest kernel's command line under an accelerator; the runner's additions follow.
pub fn command_line(_accelerator: &str) -> String {
    String::new()
}
