//! `outlast ps`, `show` and `kill`.

use super::{DONE, Form};
use crate::args::{IdArgs, PsArgs};
use crate::failure::Failure;
use crate::output::progress::warn;
use crate::output::{facts, human, json, table};
use outlast_control::{List, Site};
use outlast_model::Outcome;
use outlast_wire::record::OutcomeRecord;
use outlast_wire::view::{KilledView, WorkloadView};
use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Without a limit so many that are over are listed on a terminal's behalf.
const MOST: u32 = 1000;
/// A command is shown with so many characters.
const COMMAND: usize = 40;

pub(super) fn ps(site: &Site, args: &PsArgs, form: Form) -> Result<u8, Failure> {
    let limit = args.limit.or((form == Form::Text).then_some(MOST));
    let List { workloads, undecided } = outlast_control::list(site, args.all, limit)?;
    for text in &undecided {
        warn(&format!("incarnation {text}"));
    }
    if form == Form::Json {
        json(&workloads)?;
        return Ok(DONE);
    }
    let now = now_unix_ns();
    let rows = workloads.iter().map(|view| row(view, now)).collect();
    let empty = if args.all { "no workloads" } else { "nothing runs (outlast ps -a lists what is over)" };
    table(&["ID", "STATE", "IMAGE", "COMMAND", "FROM", "CREATED", "TOOK"], rows, empty)?;
    Ok(DONE)
}

fn row(view: &WorkloadView, now: u64) -> Vec<String> {
    let took = view.timings_ms.total.map_or_else(|| "-".to_owned(), milliseconds);
    vec![
        view.id.clone(),
        state(view),
        view.image.clone(),
        human::command(&view.argv, COMMAND),
        view.started_from.clone().unwrap_or_else(|| "-".to_owned()),
        human::ago(view.created_unix_ns, now),
        took,
    ]
}

/// The state in short: of what is over, its kind and code.
fn state(view: &WorkloadView) -> String {
    let Some(record) = &view.outcome else { return view.state.clone() };
    match (record.exit_code.filter(|code| *code != 0), record.signal) {
        (Some(code), _) => format!("{}({code})", record.kind),
        (None, Some(signal)) => format!("{}(signal {signal})", record.kind),
        (None, None) => record.kind.clone(),
    }
}

fn milliseconds(ms: f64) -> String {
    Duration::try_from_secs_f64(ms / 1000.0).map_or_else(|_| "-".to_owned(), human::duration)
}

fn now_unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

pub(super) fn show(site: &Site, args: &IdArgs, form: Form) -> Result<u8, Failure> {
    let view = outlast_control::show(site, &args.id)?;
    match form {
        Form::Json => json(&view)?,
        Form::Text => facts(&sheet(&view, now_unix_ns()))?,
    }
    Ok(DONE)
}

/// Everything about a workload, a line each.
fn sheet(view: &WorkloadView, now: u64) -> String {
    let mut sheet = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(sheet, "{name:<14} {value}");
    };
    line("workload", view.id.clone());
    line("state", outcome_text(view.outcome.as_ref()).unwrap_or_else(|| view.state.clone()));
    line("command", human::command(&view.argv, 200));
    line("image", view.image.clone());
    line("limits", limits(view));
    for sentence in [&view.limited_by, &view.keeps_user].into_iter().flatten() {
        line("", sentence.clone());
    }
    line(
        "machine",
        format!("{}, {} with {}", human::bytes(view.machine_memory), view.backend, view.accelerator),
    );
    line("started from", view.started_from.clone().unwrap_or_else(|| "-".to_owned()));
    if let Some(because) = &view.fell_back {
        line("fell back", because.clone());
    }
    line(
        "created",
        format!("{} ({})", human::utc(view.created_unix_ns), human::ago(view.created_unix_ns, now)),
    );
    line("timings", timings(view));
    if view.truncated_bytes > 0 {
        line("truncated", format!("{} bytes of output were not kept", view.truncated_bytes));
    }
    for evidence in view.dying.iter().flatten() {
        line("does not die", evidence.clone());
    }
    if let Some(death) = &view.death {
        line("death", format!("{} (told by the {})", death.cause.replace('_', " "), death.by));
        for evidence in &death.evidence {
            line("", human::command(std::slice::from_ref(evidence), 200));
        }
    }
    if let Some(certificate) = &view.certificate {
        let [low, high] = certificate.clock_offset_ns;
        let clock = format!("clock {} to {} µs off", low / 1000, high / 1000);
        let entropy = format!("{} bytes of entropy", certificate.entropy_bytes);
        line("certificate", format!("{clock}, {entropy}, host name {}", certificate.host_name));
        line("", format!("agent {}, kernel {}", certificate.agent_version, certificate.guest_kernel));
    }
    if let Some(pid) = view.runner_pid {
        line("runner", format!("pid {pid}"));
    }
    line("incarnation", view.incarnation.clone());
    let pruned = if view.evidence_pruned { "pruned (was in " } else { "" };
    line("evidence", format!("{pruned}{}{}", view.evidence, if view.evidence_pruned { ")" } else { "" }));
    sheet
}

fn limits(view: &WorkloadView) -> String {
    let timeout = human::duration(Duration::from_millis(view.timeout_ms));
    format!("{} vCPU, {} of memory, {timeout}", view.vcpus, human::bytes(view.memory))
}

fn timings(view: &WorkloadView) -> String {
    let part = |name: &str, ms: Option<f64>| ms.map(|ms| format!("{name} {}", milliseconds(ms)));
    let timings = view.timings_ms;
    let parts = [part("ready", timings.ready), part("exec", timings.exec), part("total", timings.total)];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}

fn outcome_text(record: Option<&OutcomeRecord>) -> Option<String> {
    let record = record?;
    Some(Outcome::try_from(record).map_or_else(|_| record.kind.clone(), |outcome| outcome.to_string()))
}

pub(super) fn kill(site: &Site, args: &IdArgs, form: Form) -> Result<u8, Failure> {
    let (id, outcome) = outlast_control::kill(site, &args.id)?;
    match form {
        Form::Json => json(&KilledView { id: id.to_string(), outcome: (&outcome).into() })?,
        Form::Text => facts(&format!("{id} {outcome}\n"))?,
    }
    Ok(DONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> WorkloadView {
        serde_json::from_value(serde_json::json!({
            "id": "01h", "incarnation": "01i", "state": "failed", "runtime": null, "image": "base",
            "argv": ["sh"], "vcpus": 1, "memory": 268_435_456, "machine_memory": 402_653_184,
            "timeout_ms": 30_000, "backend": "qemu", "accelerator": "tcg", "started_from": "clone",
            "created_unix_ns": 0, "ended_unix_ns": 1,
            "outcome": {"kind": "failed", "exit_code": 3, "signal": null},
            "death": null, "certificate": null,
            "timings_ms": {"ready": 55.0, "exec": null, "total": 1300.0},
            "truncated_bytes": 7, "runner_pid": null, "evidence": "/e"
        }))
        .unwrap()
    }

    #[test]
    fn a_row_tells_the_state_in_short() {
        let row = row(&view(), 5_000_000_000);
        assert_eq!(row, ["01h", "failed(3)", "base", "sh", "clone", "5.0 s ago", "1.3 s"]);
    }

    #[test]
    fn a_sheet_tells_all_there_is() {
        let text = sheet(&view(), 0);
        for words in ["failed(exit code 3)", "256.0 MiB of memory", "ready 55 ms", "7 bytes", "/e"] {
            assert!(text.contains(words), "{words} is missing in\n{text}");
        }
    }
}
