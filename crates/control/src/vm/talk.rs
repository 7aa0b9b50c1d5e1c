//! Short words with a VM's runner: ping, pause, resume, and commands for the VMM's monitor.

use super::error::VmError;
use super::living::{Living, living};
use crate::error::Error;
use crate::runner_link::LinkError;
use crate::site::Site;
use outlast_model::{VmState, timeout};
use outlast_wire::control::{Answer, Request};
use outlast_wire::vm_live_view::{VmMonitorView, VmPingView, VmStateView};
use serde_json::Value;
use std::time::{Duration, Instant};

/// What the runner itself needs beside what it waits for.
const MARGIN: Duration = timeout::CONTROL;

/// Whether virtual CPUs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vcpus {
    /// They stand still.
    Paused,
    /// They run.
    Running,
}

/// Asks the runner whether it is there, and the agent in the guest, too, unless the VM is paused.
///
/// # Errors
/// [`VmError::NotRunning`] when nothing of it lives; [`VmError::Refused`] when its agent does not answer.
pub fn ping(site: &Site, name: &str) -> Result<VmPingView, Error> {
    let living = living(site, name)?;
    let began = Instant::now();
    let Answer::Pong { state, .. } = living.ask(site, &Request::Ping, timeout::CONTROL)? else {
        return living.explained(site, LinkError::Unexpected);
    };
    let runner_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    let guest_us = match living.vm.state {
        VmState::Paused => None,
        _ => match living.ask(site, &Request::Probe, timeout::PROBE + MARGIN)? {
            Answer::Probed { round_trip_us } => Some(round_trip_us),
            _ => return living.explained(site, LinkError::Unexpected),
        },
    };
    let incarnation = living.row.id.to_string();
    let (id, name) = (living.vm.id.to_string(), living.name());
    Ok(VmPingView { id, name, incarnation, state, runner_us, guest_us })
}

/// Lets the virtual CPUs stand still, or run again: the guest is certified anew then. What is so already is a success.
///
/// # Errors
/// [`VmError::NotRunning`], [`VmError::Refused`].
pub fn set_vcpus(site: &Site, name: &str, wanted: Vcpus) -> Result<VmStateView, Error> {
    let living = living(site, name)?;
    let (request, state) = match wanted {
        Vcpus::Paused => (Request::Pause, VmState::Paused),
        Vcpus::Running => (Request::Resume, VmState::Running),
    };
    // What the row says may be what the runner could not write down: the runner knows, and mends the row.
    accepted(site, &living, &request)?;
    let already = living.vm.state == state;
    let (id, name) = (living.vm.id.to_string(), living.name());
    Ok(VmStateView { id, name, state: state.name().to_owned(), already })
}

fn accepted(site: &Site, living: &Living, request: &Request) -> Result<(), Error> {
    match living.ask(site, request, timeout::VM_REQUEST + MARGIN)? {
        Answer::Accepted => Ok(()),
        _ => living.explained(site, LinkError::Unexpected),
    }
}

/// Passes a command on to the VMM's monitor: the name of one without arguments, or a JSON object.
///
/// # Errors
/// [`VmError::BadCommand`] when it is neither; [`VmError::Monitor`] when the monitor did not carry it out.
pub fn monitor(site: &Site, name: &str, command: &str) -> Result<VmMonitorView, Error> {
    check_command(command)?;
    let living = living(site, name)?;
    let request = Request::Monitor { command: command.to_owned() };
    let said = match living.ask(site, &request, timeout::VM_REQUEST + MARGIN) {
        Ok(Answer::Monitor { said }) => said,
        Ok(_) => return living.explained(site, LinkError::Unexpected),
        Err(Error::Vm(VmError::Refused { name, cause })) => {
            return Err(VmError::Monitor { name, command: shown(command), cause }.into());
        }
        Err(error) => return Err(error),
    };
    Ok(VmMonitorView { id: living.vm.id.to_string(), name: living.name(), said })
}

/// The commands' names are the monitor's own to know; here only what cannot be one is refused.
fn check_command(command: &str) -> Result<(), VmError> {
    let bad = |cause: String| VmError::BadCommand { command: shown(command), cause };
    if !command.trim_start().starts_with('{') {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if command.is_empty() || !command.bytes().all(is_name) {
            return Err(bad("it is neither a name nor a JSON object".to_owned()));
        }
        return Ok(());
    }
    let value: Value = serde_json::from_str(command).map_err(|error| bad(format!("not JSON: {error}")))?;
    match value.get("execute").and_then(Value::as_str) {
        Some(_) => Ok(()),
        None => Err(bad(r#"it has no "execute""#.to_owned())),
    }
}

fn shown(text: &str) -> String {
    text.chars().take(60).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlast_wire::exit_code::FailureKind;

    #[test]
    fn what_cannot_be_a_command_is_refused_here() {
        for good in ["query-status", r#"{"execute": "query-status"}"#, r#" {"execute":"x","arguments":{}}"#] {
            check_command(good).unwrap();
        }
        for bad in ["", "query status", "{", r#"{"run": "x"}"#, "{}", "query-status\n", r#"{"execute": 1}"#] {
            let error = check_command(bad).unwrap_err();
            assert_eq!(error.kind(), FailureKind::BadInput, "{bad}");
        }
    }
}
