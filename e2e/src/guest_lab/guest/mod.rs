//! The lab's program inside the guest, in three roles:
//!
//! ```text
//!   /init           from the initramfs: modules, disks, the root; then executes `first`
//!   first           PID 1 of the root: mounts the rest, starts `cases`, reaps; or systemd is, and does that
//!   cases           runs the suite of the kernel command line, tells the records, powers off
//! ```

mod init;
mod run;
mod systemd;

use super::payload::{BINARIES, PROGRAM};
use super::suite::Suite;
use anyhow::{Context as _, bail};
use rustix::system::{RebootCommand, reboot};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// On the kernel command line, before the suite's name.
const PARAMETER: &str = "outlast_lab=";

/// Runs the role that the name and the arguments of this process give.
pub fn main() -> ExitCode {
    let name = env::args().next().unwrap_or_default();
    let role = if name == "/init" { "init".to_owned() } else { env::args().nth(1).unwrap_or_default() };
    let ended = match role.as_str() {
        "init" => init::enter_root(),
        "first" => init::be_first(),
        "cases" => run::cases(),
        other => Err(anyhow::anyhow!("no role is called '{other}'; this program is for the guest lab alone")),
    };
    if let Err(error) = &ended {
        eprintln!("{PROGRAM}: {role}: {error:#}");
    }
    if is_the_lab() {
        power_off();
    }
    if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether this is a guest of the lab, and not the machine of somebody who called this by mistake.
fn is_the_lab() -> bool {
    suite().is_ok()
}

/// The suite of the kernel command line.
fn suite() -> anyhow::Result<Suite> {
    let line = fs::read_to_string("/proc/cmdline").context("read the kernel command line")?;
    let name = line.split_whitespace().find_map(|word| word.strip_prefix(PARAMETER));
    let Some(suite) = name.and_then(Suite::named) else { bail!("the kernel command line names no suite") };
    Ok(suite)
}

/// Where this program is once the root is entered.
fn program() -> PathBuf {
    Path::new(BINARIES).join(PROGRAM)
}

fn power_off() {
    rustix::fs::sync();
    if let Err(error) = reboot(RebootCommand::PowerOff) {
        eprintln!("{PROGRAM}: power off: {error}");
    }
}
