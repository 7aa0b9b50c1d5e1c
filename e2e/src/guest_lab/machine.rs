//! The emulated machine: QEMU of the library's VMM root, two disks, two serial ports, a deadline.
//!
//! QEMU is started by the loader of its own root, so nothing of the host's is mixed in, and without the product's
//! jail: the lab is a host, not a guest of ours. It dies with the test, in whose PID namespace it runs.

use super::record::{self, Passed};
use super::suite::{Cgroups, Suite};
use super::system::System;
use super::{initramfs, payload};
use crate::deadline::within;
use crate::entry::alone;
use crate::library;
use anyhow::{Context as _, ensure};
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Enough for the cases, their templates (which lie in memory here) and two machines at once.
const MEMORY: &str = "3072";
/// How much of the console is shown when something is wrong.
const LAST_LINES: usize = 60;

/// Runs a suite in a machine of its own and tells what passed. Prints what there is to know when it is not green.
///
/// # Errors
/// Why it is not green: what failed, what is not told, or that the machine could not be made or did not end.
#[track_caller]
pub fn run(suite: Suite, judge: impl FnOnce(anyhow::Result<Vec<Passed>>)) {
    // Order matters: the lab's system may have to be fetched, and a test's own namespaces have no network.
    let system = System::obtain().expect("the lab's operating system");
    alone(|| judge(run_here(suite, &system)));
}

fn run_here(suite: Suite, system: &System) -> anyhow::Result<Vec<Passed>> {
    let directory =
        tempfile::Builder::new().prefix("oelab").tempdir_in("/var/tmp").context("make a directory")?;
    let at = |name: &str| directory.path().join(name);
    payload::make(&at("payload.squashfs"))?;
    let program = fs::read(payload::guest_program()?).context("read the lab's own program")?;
    fs::write(at("initramfs"), initramfs::pack(&program, &system.modules()?))?;
    let began = Instant::now();
    let ended = boot(suite, system, directory.path());
    let elapsed = began.elapsed();
    let records = fs::read_to_string(at("records.log")).unwrap_or_default();
    let names: Vec<&str> = suite.cases().iter().map(|case| case.name).collect();
    let judged = record::judge(&records, suite.name(), &names).map_err(anyhow::Error::msg);
    let judged = ended.and(judged);
    match &judged {
        Ok(passed) => tell(suite, elapsed, passed),
        Err(_) => show(&records, &fs::read(at("console.log")).unwrap_or_default()),
    }
    judged
}

fn boot(suite: Suite, system: &System, directory: &Path) -> anyhow::Result<()> {
    let said = File::create(directory.join("qemu.log"))?;
    let mut child = qemu(suite, system, directory)?
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(said)
        .spawn()
        .context("start QEMU")?;
    let status = within(suite.deadline(), || child.try_wait().ok().flatten());
    if status.is_none() {
        child.kill().context("kill QEMU")?;
        child.wait().context("wait for QEMU")?;
    }
    let status = status.with_context(|| format!("the machine did not end within {:?}", suite.deadline()))?;
    let said = fs::read_to_string(directory.join("qemu.log")).unwrap_or_default();
    ensure!(status.success(), "QEMU ended with {status}: {said}");
    Ok(())
}

fn qemu(suite: Suite, system: &System, directory: &Path) -> anyhow::Result<Command> {
    let root =
        fs::canonicalize(library::shared().join("vmm/qemu")).context("find the VMM root")?.join("root");
    let mut command = Command::new(root.join("lib64/ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(root.join("usr/lib/x86_64-linux-gnu"));
    command.arg(root.join("usr/bin/qemu-system-x86_64"));
    for firmware in ["usr/share/qemu", "usr/share/seabios"] {
        command.arg("-L").arg(root.join(firmware));
    }
    // Nested SVM is in `max`; two CPUs, because a host has more than one.
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35"]);
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", MEMORY, "-no-reboot"]);
    command.arg("-kernel").arg(system.kernel()).arg("-initrd").arg(directory.join("initramfs"));
    command.args(["-append", &command_line(suite)]);
    for disk in [system.root(), directory.join("payload.squashfs")] {
        command.arg("-drive").arg(joined("format=raw,if=virtio,readonly=on,file=", &disk));
    }
    for port in ["console.log", "records.log"] {
        command.arg("-serial").arg(joined("file:", &directory.join(port)));
    }
    Ok(command)
}

fn joined(before: &str, path: &Path) -> OsString {
    let mut text = OsString::from(before);
    text.push(path);
    text
}

fn command_line(suite: Suite) -> String {
    let cgroups = match suite.cgroups() {
        Cgroups::V2 => "cgroup_no_v1=all",
        Cgroups::Hybrid => "",
    };
    format!("console=ttyS0 quiet panic=-1 tsc=reliable {cgroups} outlast_lab={}", suite.name())
}

fn tell(suite: Suite, elapsed: Duration, passed: &[Passed]) {
    eprintln!("guest lab {}: {} cases in {elapsed:?}", suite.name(), passed.len());
    for Passed { case, millis } in passed {
        eprintln!("  {millis:>6} ms  {case}");
    }
}

fn show(records: &str, console: &[u8]) {
    let console = String::from_utf8_lossy(console);
    let lines: Vec<&str> = console.lines().collect();
    let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
    eprintln!("records:\n{records}\nthe end of the console:\n{}", last.join("\n"));
}
