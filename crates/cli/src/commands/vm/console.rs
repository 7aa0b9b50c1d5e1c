//! `outlast vm console` and `vm logs`.

use super::terminal::{self, Raw};
use super::{DONE, Form};
use crate::args::{VmLogsArgs, VmNameArgs};
use crate::failure::Failure;
use crate::output::progress::warn;
use crate::output::stream::{Collected, OwnStreams};
use crate::output::{json, note};
use outlast_control::vm::{AfterVmLog, Left, Seat, VmLog};
use outlast_control::{Extent, HANG_UP, Interrupts, Site};
use outlast_model::Outcome;
use outlast_wire::exit_code::{FailureKind, of_outcome, run};
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
        let after = outlast_control::vm::logs(site, &args.name, log, extent, &mut collected)?;
        let (stdout, stderr) = collected.into_texts();
        let code = code_of(&after);
        let outcome = after.outcome.as_ref().map(Into::into);
        json(&LogsView { stdout, stderr, truncated_bytes: after.truncated_bytes, outcome })?;
        return Ok(code);
    }
    let after = outlast_control::vm::logs(site, &args.name, log, extent, &mut OwnStreams::default())?;
    if after.truncated_bytes > 0 {
        warn(&format!("output truncated, {} bytes dropped", after.truncated_bytes));
    }
    if let Some(outcome @ (Outcome::Lost { .. } | Outcome::TimedOut | Outcome::OutOfMemory)) = &after.outcome
    {
        note(&format!("outlast: {outcome}"));
    }
    Ok(code_of(&after))
}

/// A program that is over gives its code, as if we had been beside it; a log alone is no program's.
fn code_of(after: &AfterVmLog) -> u8 {
    match &after.outcome {
        None => DONE,
        Some(_) if after.truncated_bytes > 0 => run::OURS,
        Some(outcome) => of_outcome(outcome),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_of_a_program_that_is_over_ends_with_its_code() {
        let code = |outcome, truncated_bytes| code_of(&AfterVmLog { outcome, truncated_bytes });
        assert_eq!(code(None, 0), 0, "it runs still");
        assert_eq!(code(Some(Outcome::Completed), 0), 0);
        assert_eq!(code(Some(Outcome::Exited { code: 3 }), 0), 3);
        assert_eq!(code(Some(Outcome::Completed), 1), 125, "a copy that is not whole is no success");
        assert_eq!(code(Some(Outcome::Lost { cause: String::new() }), 0), 125);
    }
}
