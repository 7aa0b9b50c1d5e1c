//! `outlast vm ls`.

use super::{DONE, Form};
use crate::failure::Failure;
use crate::output::progress::warn;
use crate::output::{human, json, table};
use outlast_control::Site;
use outlast_control::vm::VmList;
use outlast_wire::vm_view::VmSummary;
use std::time::{SystemTime, UNIX_EPOCH};

pub(super) fn ls(site: &Site, form: Form) -> Result<u8, Failure> {
    let VmList { vms, undecided } = outlast_control::vm::list(site)?;
    for text in &undecided {
        warn(&format!("incarnation {text}"));
    }
    if form == Form::Json {
        json(&vms)?;
        return Ok(DONE);
    }
    let now = now_unix_ns();
    let rows = vms.iter().map(|vm| row(vm, now)).collect();
    table(
        &["NAME", "STATE", "SINCE", "IMAGE", "VCPUS", "MEMORY", "DISK"],
        rows,
        "no VMs (outlast vm create)",
    )?;
    Ok(DONE)
}

fn row(vm: &VmSummary, now: u64) -> Vec<String> {
    let spec = &vm.spec;
    vec![
        vm.name.clone(),
        state(vm),
        human::ago(vm.changed_unix_ns, now),
        spec.image.clone(),
        spec.vcpus.to_string(),
        human::bytes(spec.memory),
        human::bytes(spec.disk.size),
    ]
}

/// The state in short; of what ended by itself, or did not start, with why.
fn state(vm: &VmSummary) -> String {
    match (vm.state.as_str(), &vm.failed_start, &vm.death) {
        ("failed", Some(failed), _) => format!("failed({})", failed.step),
        ("stopped", _, Some(death)) if death.cause != "stopped" => {
            format!("stopped({})", death.cause.replace('_', " "))
        }
        (state, _, _) => state.to_owned(),
    }
}

pub(super) fn now_unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_the_state_and_why_it_is_that() {
        let mut vm: VmSummary = serde_json::from_value(serde_json::json!({
            "id": "01h", "name": "web", "state": "stopped", "image": "base", "vcpus": 1,
            "memory": 268_435_456, "disk": {"format": "raw", "size": 1_073_741_824},
            "created_unix_ns": 0, "changed_unix_ns": 0, "incarnation": null, "runner_pid": null,
            "death": {"cause": "runner_killed", "evidence": [], "unix_ns": 1, "by": "reconciler"}
        }))
        .unwrap();
        assert_eq!(
            row(&vm, 5_000_000_000),
            ["web", "stopped(runner killed)", "5.0 s ago", "base", "1", "256.0 MiB", "1.0 GiB"]
        );
        vm.death = None;
        assert_eq!(state(&vm), "stopped");
    }
}
