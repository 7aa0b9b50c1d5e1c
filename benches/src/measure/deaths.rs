//! How long the death of a part stays unnoticed.

use super::{Extent, Results};
use crate::clock;
use crate::product::{Product, Sleeper};
use anyhow::{Context as _, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::time::Instant;

/// What has not happened by then is not measured but broken.
const PATIENCE: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

pub(super) fn measure(product: &Product, extent: Extent, results: &mut Results) -> anyhow::Result<()> {
    eprintln!("deaths, {} × 2", extent.runs);
    for round in 0..extent.runs {
        results.vmm_death.add(vmm(product, &format!("vmm-death-{round}"))?);
        results.runner_death.add(runner(product)?);
    }
    Ok(())
}

/// Kills the VMM of a run that somebody waits for: the outcome is in the store before the command returns.
fn vmm(product: &Product, key: &str) -> anyhow::Result<f64> {
    let (mut child, sleeper) = product.start_attended(key)?;
    let vmm = held(sleeper.vmm)?;
    let began = Instant::now();
    pidfd_send_signal(&vmm, Signal::KILL)?;
    let status = child.wait()?;
    let ms = clock::ms_since(began);
    ensure!(!status.success(), "the run of a VM that was killed ended well");
    Ok(ms)
}

/// Kills a runner: the kernel ends its VMM.
fn runner(product: &Product) -> anyhow::Result<f64> {
    let sleeper: Sleeper = product.start_sleeper(&[])?;
    let (runner, vmm) = (held(sleeper.runner)?, held(sleeper.vmm)?);
    let began = Instant::now();
    pidfd_send_signal(&runner, Signal::KILL)?;
    wait(&vmm)?;
    // PID 1 of a namespace is the last of it to die.
    wait(&runner)?;
    let ms = clock::ms_since(began);
    // Looking at it makes the product notice, so that nothing is left for the next one.
    let view = product.show(&sleeper.id)?;
    ensure!(view.outcome.is_some(), "a workload without a runner has no outcome");
    Ok(ms)
}

pub(super) fn held(pid: u32) -> anyhow::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a pid is a positive number")?;
    pidfd_open(pid, PidfdFlags::empty()).context("hold a process")
}

pub(super) fn wait(process: &OwnedFd) -> anyhow::Result<()> {
    let mut polled = [PollFd::new(process, PollFlags::IN)];
    ensure!(poll(&mut polled, Some(&PATIENCE))? == 1, "a process outlived its runner");
    Ok(())
}
