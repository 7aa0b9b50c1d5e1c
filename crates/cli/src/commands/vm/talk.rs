//! `outlast vm ping`, `pause`, `resume`, `monitor` and `stats`.

use super::{DONE, Form};
use crate::args::{VmMonitorArgs, VmNameArgs};
use crate::failure::Failure;
use crate::output::{facts, human, json};
use outlast_control::Site;
use outlast_control::vm::Vcpus;
use outlast_wire::vm_live_view::{CgroupUse, GuestUse, ProcessUse, VmPingView, VmStatsView};
use std::fmt::Write;
use std::time::Duration;

pub(super) fn ping(site: &Site, args: &VmNameArgs, form: Form) -> Result<u8, Failure> {
    let view = outlast_control::vm::ping(site, &args.name)?;
    match form {
        Form::Json => json(&view)?,
        Form::Text => facts(&ping_text(&view))?,
    }
    Ok(DONE)
}

fn ping_text(view: &VmPingView) -> String {
    let guest = match view.guest_us {
        Some(us) => format!("its guest in {us} µs"),
        None => "its guest was not asked".to_owned(),
    };
    format!("{} is {}: its runner answered in {} µs, {guest}\n", view.name, view.state, view.runner_us)
}

pub(super) fn set_vcpus(site: &Site, args: &VmNameArgs, wanted: Vcpus, form: Form) -> Result<u8, Failure> {
    let view = outlast_control::vm::set_vcpus(site, &args.name, wanted)?;
    match form {
        Form::Json => json(&view)?,
        Form::Text => {
            let already = if view.already { "already " } else { "" };
            facts(&format!("{} is {already}{}\n", view.name, view.state))?;
        }
    }
    Ok(DONE)
}

pub(super) fn monitor(site: &Site, args: &VmMonitorArgs, form: Form) -> Result<u8, Failure> {
    let view = outlast_control::vm::monitor(site, &args.name, &args.command)?;
    match form {
        Form::Json => json(&view)?,
        // The monitor speaks JSON to everybody.
        Form::Text => json(&view.said)?,
    }
    Ok(DONE)
}

pub(super) fn stats(site: &Site, args: &VmNameArgs, form: Form) -> Result<u8, Failure> {
    let view = outlast_control::vm::stats(site, &args.name)?;
    match form {
        Form::Json => json(&view)?,
        Form::Text => facts(&stats_sheet(&view))?,
    }
    Ok(DONE)
}

fn stats_sheet(view: &VmStatsView) -> String {
    let mut sheet = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(sheet, "{name:<14} {value}");
    };
    let up = human::duration(Duration::from_millis(view.up_ms));
    line("vm", format!("{}, {} for {up}", view.name, view.state));
    line("machine", format!("{} vCPU, {}", view.vcpus, human::bytes(view.memory)));
    line("VMM", process(view.vmm.as_ref()));
    line("runner", process(view.runner.as_ref()));
    let disk = view
        .disk
        .map(|disk| format!("{} on the host, of {}", human::bytes(disk.host_bytes), human::bytes(disk.size)));
    line("disk", disk.unwrap_or_else(|| "-".to_owned()));
    line("control group", view.cgroup.as_ref().map_or_else(|| "-".to_owned(), cgroup));
    let guest = view.guest.as_ref();
    line("guest memory", guest.and_then(guest_memory).unwrap_or_else(|| "-".to_owned()));
    line("guest load", guest.and_then(guest_load).unwrap_or_else(|| "-".to_owned()));
    line("guest disk", guest.and_then(guest_disk).unwrap_or_else(|| "-".to_owned()));
    sheet
}

/// What is counted there; what is not is left out.
fn cgroup(used: &CgroupUse) -> String {
    let limit =
        |limit: Option<u64>| limit.map(|limit| format!(" of {}", human::bytes(limit))).unwrap_or_default();
    let threads_limit = used.threads_limit.map(|limit| format!(" of {limit}")).unwrap_or_default();
    let parts = [
        used.memory_bytes
            .map(|bytes| format!("{}{} of memory", human::bytes(bytes), limit(used.memory_limit))),
        used.cpu_ms.map(|ms| format!("{} of processor time", human::duration(Duration::from_millis(ms)))),
        used.threads.map(|threads| format!("{threads}{threads_limit} threads")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn guest_memory(used: &GuestUse) -> Option<String> {
    let (all, available) = (used.memory_bytes?, used.memory_available_bytes?);
    Some(format!("{} available, of {}", human::bytes(available), human::bytes(all)))
}

fn guest_load(used: &GuestUse) -> Option<String> {
    let shown = |percent: u64| format!("{}.{:02}", percent / 100, percent % 100);
    let loads = [used.load_1_percent?, used.load_5_percent?, used.load_15_percent?].map(shown);
    let threads = used.threads.map(|threads| format!(", {threads} threads")).unwrap_or_default();
    Some(format!("{}{threads}", loads.join(" ")))
}

fn guest_disk(used: &GuestUse) -> Option<String> {
    Some(format!("{} free, of {}", human::bytes(used.root_free_bytes?), human::bytes(used.root_bytes?)))
}

fn process(used: Option<&ProcessUse>) -> String {
    let Some(used) = used else { return "-".to_owned() };
    let cpu = human::duration(Duration::from_millis(used.cpu_ms));
    format!("pid {}, {} resident, {cpu} of processor time", used.pid, human::bytes(used.resident_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_tells_both_round_trips() {
        let mut view: VmPingView = serde_json::from_value(serde_json::json!({
            "id": "01h", "name": "web", "incarnation": "01i", "state": "running", "runner_us": 120, "guest_us": 900
        }))
        .unwrap();
        assert_eq!(ping_text(&view), "web is running: its runner answered in 120 µs, its guest in 900 µs\n");
        view.guest_us = None;
        assert!(ping_text(&view).contains("was not asked"));
    }

    #[test]
    fn what_is_not_known_of_a_process_is_said() {
        assert_eq!(process(None), "-");
        let used = ProcessUse { pid: 7, resident_bytes: 8 << 20, cpu_ms: 1500 };
        assert_eq!(process(Some(&used)), "pid 7, 8.0 MiB resident, 1.5 s of processor time");
    }
}
