//! The outer half: makes the cgroups and the PID namespace, waits, removes the cgroups.

use super::cgroup::Cgroups;
use super::{AS_INIT, code_of};
use anyhow::{Context as _, bail};
use rustix::thread::UnshareFlags;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

/// Runs `program` inside and returns its exit code.
///
/// # Errors
/// When the namespaces cannot be made, with what is missing. Nothing is left behind then.
pub(super) fn main(program: &[OsString]) -> anyhow::Result<u8> {
    if program.is_empty() {
        bail!("usage: outlast-e2e-init PROGRAM [ARGUMENT…]");
    }
    if !rustix::process::geteuid().is_root() {
        bail!("tests on real VMs need root: they make PID, mount, network and cgroup namespaces");
    }
    Cgroups::sweep();
    let cgroups = Cgroups::create().context("make cgroups for the test")?;
    let ended = run(program, &cgroups);
    // Order matters: PID 1 is dead and with it every process inside, so the cgroups are empty now.
    cgroups.remove();
    ended
}

fn run(program: &[OsString], cgroups: &Cgroups) -> anyhow::Result<u8> {
    #[expect(deprecated, reason = "the sound subset: no CLONE_FILES, and this process has one thread")]
    rustix::thread::unshare(UnshareFlags::NEWPID).context("make a PID namespace")?;
    let mut command = Command::new("/proc/self/exe");
    command.arg(AS_INIT).arg(cgroups.argument()).args(program);
    let status = command.status().context("start PID 1 of the test")?;
    Ok(code_of(status.code(), status.signal()))
}
