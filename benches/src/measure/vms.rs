//! Long-lived VMs: their starts and stops, programs in them, deaths of their parts, and a look at a thousand of them.
//!
//! Everything is what a person at a shell would wait, the start of the command's process included, where nothing else is
//! said.

use super::deaths::{held, wait};
use super::{Extent, Results};
use crate::clock;
use crate::libvirt::Saved;
use crate::product::{Product, done};
use crate::statistics::Series;
use anyhow::{Context as _, ensure};
use outlast_wire::journal::Journal;
use outlast_wire::paths::Evidence;
use outlast_wire::vm_view::{VmStartedView, VmView};
use rustix::process::{Signal, pidfd_send_signal};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// What every VM is made of: as much memory as the guest that libvirt restores has.
const MACHINE: [&str; 6] = ["--image", "base", "--memory", "256M", "--disk", "256M"];
const NAME: &str = "bench";
/// So many programs are run for each start: they are short.
const EXECS: usize = 5;
/// VMs that a look goes over.
const MANY: u64 = 1_000;
/// What a program that says nothing is run by.
const TRUE: [&str; 5] = ["vm", "exec", NAME, "--", "true"];

/// Milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Vms {
    /// `vm start`, from a template, the whole process.
    pub(crate) start: Series,
    /// Of it: the start is written down → its runner has begun its work.
    pub(crate) spawn: Series,
    /// Of it: the start is written down → certified.
    pub(crate) ready: Series,
    /// `vm exec`, of a program that does nothing.
    pub(crate) exec: Series,
    /// `vm ping`: the runner and the agent in the guest.
    pub(crate) ping: Series,
    /// `vm stop`: the guest powers off.
    pub(crate) stop: Series,
    /// `vm stop --force`.
    pub(crate) force: Series,
    /// VMM killed → its runner has written down why, and left.
    pub(crate) vmm_death: Series,
    /// Runner killed → VMM and runner gone.
    pub(crate) runner_death: Series,
    /// `vm ls` with [`MANY`] VMs that have stopped.
    pub(crate) list: Series,
    /// libvirt: `virsh destroy`.
    pub(crate) libvirt_destroy: Series,
    /// libvirt: `virsh list --all` with as many domains.
    pub(crate) libvirt_list: Series,
}

pub(super) fn measure(
    product: &Product,
    filler: Option<&Path>,
    libvirt: Option<&Saved>,
    extent: Extent,
    results: &mut Results,
) -> anyhow::Result<()> {
    eprintln!("VMs, {} × 4", extent.runs);
    let home = product.beside("vms")?;
    create(&home)?;
    // The first start makes the template.
    home.time(&["vm", "start", NAME])?;
    home.time(&["vm", "stop", "--force", NAME])?;
    let vms = &mut results.vms;
    for _ in 0..extent.runs {
        life(&home, vms)?;
        let (runner, vmm) = running(&home)?;
        vms.vmm_death.add(killed(vmm, &[runner])?);
        let (runner, vmm) = running(&home)?;
        // PID 1 of a namespace is the last of it to die.
        vms.runner_death.add(killed(runner, &[vmm, runner])?);
    }
    home.time(&["vm", "rm", "--force", NAME])?;
    look(&home, filler, extent, results)?;
    if let Some(libvirt) = libvirt {
        peer(libvirt, extent, &mut results.vms)?;
    }
    Ok(())
}

fn create(home: &Product) -> anyhow::Result<()> {
    home.time(&[&["vm", "create", NAME][..], &MACHINE].concat()).map(drop)
}

/// A start, programs, and both kinds of stop.
fn life(home: &Product, vms: &mut Vms) -> anyhow::Result<()> {
    start(home, vms)?;
    for _ in 0..EXECS {
        vms.exec.add(home.time(&TRUE)?);
        vms.ping.add(home.time(&["vm", "ping", NAME])?);
    }
    vms.stop.add(home.time(&["vm", "stop", NAME])?);
    start(home, vms)?;
    vms.force.add(home.time(&["vm", "stop", "--force", NAME])?);
    Ok(())
}

fn start(home: &Product, vms: &mut Vms) -> anyhow::Result<()> {
    let began = Instant::now();
    let output = home.command(["vm", "start", "--json", NAME]).output()?;
    vms.start.add(clock::ms_since(began));
    let started: VmStartedView =
        serde_json::from_slice(&done(output)?.stdout).context("read vm start --json")?;
    ensure!(started.started_from.as_deref() == Some("clone"), "a start that is no clone: {started:?}");
    let view = show(home)?;
    let incarnation = view.incarnations.first().context("a VM that runs has an incarnation")?;
    vms.ready.add(incarnation.timings_ms.ready.context("a VM that runs says when it was ready")?);
    let path = Evidence::at(incarnation.evidence.clone().into()).journal();
    let journal = Journal::parse(&std::fs::read(&path).with_context(|| format!("read {}", path.display()))?);
    let first = journal.lines.first().context("a runner that runs has written its journal")?;
    let spawn = first.unix_ns.saturating_sub(incarnation.created_unix_ns);
    vms.spawn.add(std::time::Duration::from_nanos(spawn).as_secs_f64() * 1000.0);
    Ok(())
}

fn show(home: &Product) -> anyhow::Result<VmView> {
    let output = done(home.command(["vm", "show", "--json", NAME]).output()?)?;
    serde_json::from_slice(&output.stdout).context("read vm show --json")
}

/// The runner and the VMM of a VM that was started.
fn running(home: &Product) -> anyhow::Result<(u32, u32)> {
    home.time(&["vm", "start", NAME])?;
    let view = show(home)?;
    let runner = view.summary.runner_pid.context("a VM that runs has a runner")?;
    let vmm = view.incarnations.first().and_then(|incarnation| incarnation.vmm_pid);
    Ok((runner, vmm.context("a VM that runs has a VMM")?))
}

/// Kills one and waits for others.
fn killed(victim: u32, gone: &[u32]) -> anyhow::Result<f64> {
    let victim = held(victim)?;
    let gone = gone.iter().map(|pid| held(*pid)).collect::<anyhow::Result<Vec<_>>>()?;
    let began = Instant::now();
    pidfd_send_signal(&victim, Signal::KILL)?;
    gone.iter().try_for_each(wait)?;
    Ok(clock::ms_since(began))
}

/// `vm ls` over many.
fn look(home: &Product, filler: Option<&Path>, extent: Extent, results: &mut Results) -> anyhow::Result<()> {
    let Some(filler) = filler else {
        results.skipped.push(("a look at many VMs".to_owned(), "no --filler was given".to_owned()));
        return Ok(());
    };
    let mut command = Command::new(filler);
    command.arg(home.database()).arg(MANY.to_string()).arg("vms").stdin(Stdio::null());
    let status = command.status().with_context(|| format!("start {}", filler.display()))?;
    ensure!(status.success(), "{} ended with {status}", filler.display());
    home.time(&["vm", "ls"])?;
    for _ in 0..extent.runs {
        results.vms.list.add(home.time(&["vm", "ls"])?);
    }
    Ok(())
}

/// What libvirt takes for what can be compared: it runs no programs in a guest without an agent of its own there, and our
/// guest does not listen for its power button.
fn peer(libvirt: &Saved, extent: Extent, vms: &mut Vms) -> anyhow::Result<()> {
    for _ in 0..extent.runs {
        vms.libvirt_destroy.add(libvirt.destroy()?);
    }
    let _many = libvirt.define_many(MANY)?;
    for _ in 0..extent.runs {
        vms.libvirt_list.add(libvirt.list()?);
    }
    Ok(())
}
