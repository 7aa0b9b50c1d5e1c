//! `outlast vm show`.

use super::list::now_unix_ns;
use super::{DONE, Form};
use crate::args::VmShowArgs;
use crate::failure::Failure;
use crate::output::{facts, human, json};
use outlast_control::Site;
use outlast_wire::vm_view::{IncarnationView, StepView, VmSpecView, VmView};
use std::fmt::Write;
use std::time::Duration;

/// So many incarnations are shown to people; --json has more.
const INCARNATIONS: usize = 5;

pub(super) fn show(site: &Site, args: &VmShowArgs, form: Form) -> Result<u8, Failure> {
    if args.spec {
        let view = outlast_control::vm::spec_of(site, &args.name)?;
        match form {
            Form::Json => json(&view)?,
            Form::Text => facts(&spec_sheet(&view))?,
        }
        return Ok(DONE);
    }
    let view = outlast_control::vm::show(site, &args.name)?;
    match form {
        Form::Json => json(&view)?,
        Form::Text => facts(&sheet(&view, now_unix_ns()))?,
    }
    Ok(DONE)
}

fn spec_sheet(view: &VmSpecView) -> String {
    let spec = &view.spec;
    let values = [
        ("image", spec.image.clone()),
        ("vcpus", spec.vcpus.to_string()),
        ("memory", human::bytes(spec.memory)),
        ("disk.size", human::bytes(spec.disk.size)),
        ("disk.format", spec.disk.format.clone()),
    ];
    let mut sheet = String::new();
    for (name, value) in values {
        let origin = view.origins.get(name).map_or("unknown", String::as_str);
        let _ = writeln!(sheet, "{name:<14} {value:<14} ({origin})");
    }
    sheet
}

/// Everything about a VM, a line each.
fn sheet(view: &VmView, now: u64) -> String {
    let mut sheet = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(sheet, "{}", format!("{name:<14} {value}").trim_end());
    };
    let vm = &view.summary;
    let moment = |ns: u64| format!("{} ({})", human::utc(ns), human::ago(ns, now));
    line("vm", format!("{} ({})", vm.name, vm.id));
    line("state", format!("{} since {}", vm.state, moment(vm.changed_unix_ns)));
    if let Some(removed) = view.removed_unix_ns {
        line("removed", moment(removed));
    } else if let Some(asked) = view.removal_requested_unix_ns {
        line("removal", format!("asked for {}", moment(asked)));
    }
    let spec = &vm.spec;
    line("image", spec.image.clone());
    line("machine", format!("{} vCPU, {}", spec.vcpus, human::bytes(spec.memory)));
    line("disk", format!("{} ({}) in {}", human::bytes(spec.disk.size), spec.disk.format, view.directory));
    line("created", moment(vm.created_unix_ns));
    if let Some(failed) = &vm.failed_start {
        line("failed start", format!("{}: {}", failed.step, quoted(&failed.cause)));
    }
    for (index, snapshot) in view.snapshots.iter().enumerate() {
        let damage = snapshot.damage.as_ref().map(|damage| format!(", damaged: {}", quoted(damage)));
        let taken = match snapshot.created_unix_ns {
            0 => String::new(),
            then => format!(", {}", human::ago(then, now)),
        };
        let (name, size) = (&snapshot.name, human::bytes(snapshot.bytes));
        let heading = if index == 0 { "snapshots" } else { "" };
        line(heading, format!("{name}: {size}{taken}{}", damage.unwrap_or_default()));
    }
    for incarnation in view.incarnations.iter().take(INCARNATIONS) {
        line("", String::new());
        for (name, value) in incarnation_lines(incarnation, now) {
            line(name, value);
        }
    }
    let more = view.incarnations.len().saturating_sub(INCARNATIONS);
    if more > 0 {
        line("", format!("and {more} earlier ones (--json shows them)"));
    }
    sheet
}

fn incarnation_lines(view: &IncarnationView, now: u64) -> Vec<(&'static str, String)> {
    let mut lines = vec![("incarnation", format!("{}, {}", view.id, view.state))];
    let created = human::utc(view.created_unix_ns);
    lines.push(("  started", format!("{created} ({})", human::ago(view.created_unix_ns, now))));
    let from = view.started_from.as_deref().unwrap_or("never");
    let ready = view.timings_ms.ready.map(|ms| format!(", ready in {}", milliseconds(ms)));
    let machine = format!("{} with {}", view.backend, view.accelerator);
    lines.push(("  started from", format!("{from}{}, {machine}", ready.unwrap_or_default())));
    if let Some(snapshot) = &view.restored_from {
        lines.push(("  restored from", snapshot.clone()));
    }
    if let Some(because) = &view.fell_back {
        lines.push(("  fell back", quoted(because)));
    }
    if let Some(pid) = view.runner_pid {
        let vmm = view.vmm_pid.map(|pid| format!(", VMM pid {pid}"));
        lines.push(("  runner", format!("pid {pid}{}", vmm.unwrap_or_default())));
    }
    if let Some(certificate) = &view.certificate {
        let [low, high] = certificate.clock_offset_ns;
        let clock = format!("clock {} to {} µs off", low / 1000, high / 1000);
        let entropy = format!("{} bytes of entropy", certificate.entropy_bytes);
        lines.push((
            "  certificate",
            format!("{clock}, {entropy}, host name {}", quoted(&certificate.host_name)),
        ));
    }
    for evidence in view.dying.iter().flatten() {
        lines.push(("  does not die", quoted(evidence)));
    }
    if let Some(death) = &view.death {
        let when = human::utc(death.unix_ns);
        lines.push((
            "  death",
            format!("{} at {when} (told by the {})", death.cause.replace('_', " "), death.by),
        ));
        lines.extend(death.evidence.iter().map(|evidence| ("", quoted(evidence))));
    }
    lines.extend(
        view.steps
            .iter()
            .enumerate()
            .map(|(index, step)| (if index == 0 { "  steps" } else { "" }, step_text(step))),
    );
    lines.push(("  evidence", view.evidence.clone()));
    lines
}

fn step_text(step: &StepView) -> String {
    let took = step.took_ms.map_or_else(|| "-".to_owned(), milliseconds);
    let error = step.error.as_ref().map(|error| format!(": {}", quoted(error)));
    format!(
        "{:>9} {:<14} {:<9} {took}{}",
        milliseconds(step.began_ms),
        step.step,
        step.phase,
        error.unwrap_or_default()
    )
}

fn milliseconds(ms: f64) -> String {
    Duration::try_from_secs_f64(ms / 1000.0).map_or_else(|_| "-".to_owned(), human::duration)
}

/// Words that may be a guest's, fit to be shown.
fn quoted(text: &str) -> String {
    human::command(&[text.to_owned()], 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> VmView {
        serde_json::from_value(serde_json::json!({
            "id": "01h", "name": "web", "state": "stopped", "image": "base", "vcpus": 1,
            "memory": 268_435_456, "disk": {"format": "raw", "size": 1_073_741_824},
            "created_unix_ns": 0, "changed_unix_ns": 0, "incarnation": "01i", "runner_pid": null, "death": null,
            "stop_requested_unix_ns": null, "removal_requested_unix_ns": null, "removed_unix_ns": null,
            "directory": "/h/vms/01h", "snapshots": [],
            "incarnations": [{
                "id": "01i", "state": "ended", "backend": "qemu", "accelerator": "tcg",
                "started_from": "clone", "created_unix_ns": 0, "running_unix_ns": 1, "ended_unix_ns": 2,
                "certificate": null, "timings_ms": {"ready": 312.0, "exec": null, "total": null},
                "runner_pid": null, "vmm_pid": null,
                "death": {"cause": "vmm_signalled", "signal": 9, "evidence": ["signal 9"], "unix_ns": 1, "by": "runner"},
                "steps": [{"step": "claim", "phase": "done", "began_ms": 0.0, "took_ms": 4.0}],
                "evidence": "/e"
            }]
        }))
        .unwrap()
    }

    #[test]
    fn a_sheet_tells_of_every_incarnation_with_its_death_and_steps() {
        let text = sheet(&view(), 0);
        for words in [
            "web (01h)",
            "stopped since",
            "ready in 312 ms",
            "vmm signalled",
            "signal 9",
            "claim",
            "4 ms",
            "/e",
        ] {
            assert!(text.contains(words), "{words} is missing in\n{text}");
        }
    }

    #[test]
    fn a_spec_tells_where_its_values_came_from() {
        let origins = [("memory".to_owned(), "default".to_owned())].into();
        let view = VmSpecView { name: "web".to_owned(), spec: view().summary.spec, origins };
        let text = spec_sheet(&view);
        assert!(
            text.contains("256.0 MiB") && text.contains("(default)") && text.contains("(unknown)"),
            "{text}"
        );
    }
}
