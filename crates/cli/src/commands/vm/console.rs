//! `outlast vm console` and `vm logs`.

use super::terminal::{self, Raw};
use super::{DONE, Form};
use crate::args::{VmLogsArgs, VmNameArgs};
use crate::failure::Failure;
use crate::output::stream::{Collected, OwnStreams};
use crate::output::{json, note};
use outlast_control::vm::{Left, Seat, VmLog};
use outlast_control::{Extent, HANG_UP, Interrupts, Site};
use outlast_wire::exit_code::FailureKind;
use outlast_wire::view::LogsView;
use std::io;
use std::os::fd::AsFd;

pub(super) fn console(site: &Site, args: &VmNameArgs, form: Form) -> Result<u8, Failure> {
    if form == Form::Json {
        let message = "a console is no facts: it has no --json (outlast vm logs --json has what it said)";
        return Err(Failure::new(FailureKind::BadInput, message)
            .hint(format!("outlast vm logs --json {}", args.name)));
    }
    let left = watch(site, &args.name)?;
    match left {
        Left::Detached => note(&format!("left the console of {}", args.name)),
        Left::Ended(why) => note(&format!("{} is not running ({})", args.name, why.unwrap_or_default())),
    }
    Ok(DONE)
}

/// On a terminal what is typed goes to the guest, but for Ctrl-]; elsewhere nothing is typed, and it goes on until the VM
/// ends, or a signal ends us.
fn watch(site: &Site, name: &str) -> Result<Left, Failure> {
    let sink = &mut OwnStreams::default();
    let input = io::stdin();
    if !terminal::is_one(&input) {
        return Ok(outlast_control::vm::console(site, name, None, sink)?);
    }
    let signals = Interrupts::block_also(&[HANG_UP]).map_err(|error| terminal::failed(&error))?;
    note(&format!("the console of {name}; leave with Ctrl-]"));
    let raw = Raw::all(&input).map_err(|error| terminal::failed(&error))?;
    let seat = Seat { keys: input.as_fd(), signals: &signals };
    let left = outlast_control::vm::console(site, name, Some(seat), sink);
    drop(raw);
    note("");
    Ok(left?)
}

pub(super) fn logs(site: &Site, args: &VmLogsArgs, form: Form) -> Result<u8, Failure> {
    let log = args.exec.map_or(VmLog::Console, VmLog::Program);
    let extent = if args.follow { Extent::ToTheEnd } else { Extent::SoFar };
    if form == Form::Json {
        let mut collected = Collected::default();
        outlast_control::vm::logs(site, &args.name, log, extent, &mut collected)?;
        let (stdout, stderr) = collected.into_texts();
        json(&LogsView { stdout, stderr, truncated_bytes: 0, outcome: None })?;
        return Ok(DONE);
    }
    outlast_control::vm::logs(site, &args.name, log, extent, &mut OwnStreams::default())?;
    Ok(DONE)
}
