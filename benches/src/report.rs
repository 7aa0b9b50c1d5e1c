//! What was measured, as a document for people and as JSON for programs.

use crate::host::Facts;
use crate::markdown::{number, table};
use crate::measure::Results;
use crate::statistics::{Series, Summary};
use crate::target::{self, Side, Target, Verdict};
use crate::timeline::Timeline;
use serde_json::{Value, json};

/// The series with their names and units, in the order of the table.
fn series(results: &Results) -> Vec<(&'static str, &Series)> {
    vec![
        ("floor: bare QEMU, restore → agent answers", &results.floor_clone),
        ("clone: `outlast run`, request → certified", &results.clone_ready),
        ("clone: start of the command → certified", &results.clone_certified),
        ("libvirt: `virsh restore` → agent answers", &results.libvirt),
        ("floor: bare QEMU, boot → agent answers", &results.floor_boot),
        ("cold: `outlast run --cold`, request → certified", &results.boot_ready),
        ("Python hello, whole process", &results.clone_wall),
        ("… of it the program in the guest", &results.clone_exec),
        ("… of it neither getting ready nor the program", &results.clone_rest),
        ("Python hello, whole process, `--cold`", &results.boot_wall),
        ("Node hello, whole process", &results.node_wall),
        ("Go hello (compiled in the guest), whole process", &results.go_wall),
        ("VMM killed → the waiting command has returned", &results.vmm_death),
        ("runner killed → runner and VMM gone", &results.runner_death),
        ("VM: `vm start` from a template, whole process", &results.vms.start),
        ("… of it: written down → its runner works", &results.vms.spawn),
        ("… of it: written down → certified", &results.vms.ready),
        ("VM: `vm exec … true`, whole process", &results.vms.exec),
        ("VM: `vm ping`, whole process", &results.vms.ping),
        ("VM: `vm stop` (the guest powers off), whole process", &results.vms.stop),
        ("VM: `vm stop --force`, whole process", &results.vms.force),
        ("libvirt: `virsh destroy`, whole process", &results.vms.libvirt_destroy),
        ("VM: VMM killed → death certificate written, runner gone", &results.vms.vmm_death),
        ("VM: runner killed → runner and VMM gone", &results.vms.runner_death),
        ("VM: `vm ls`, 1,000 VMs that have stopped", &results.vms.list),
        ("libvirt: `virsh list --all`, 1,000 domains that are shut off", &results.vms.libvirt_list),
    ]
}

/// The generated part of the document.
pub(crate) fn markdown(facts: &Facts, results: &Results) -> String {
    let sections = [
        ("Targets", targets(results)),
        ("Times in milliseconds", times(results)),
        ("Workloads per second", throughput(results)),
        ("Many finished workloads (ms)", growth(results)),
        ("Memory in MiB", residence(results)),
        ("Where the time goes (p50 of each stretch, ms)", timelines(results)),
        ("Measured on", measured_on(facts, results)),
        ("Command lines", command_lines(results)),
    ];
    let text: Vec<String> =
        sections.iter().map(|(title, body)| format!("## {title}\n\n{}", body.trim())).collect();
    text.join("\n\n")
}

fn targets(results: &Results) -> String {
    let row = |target: Target| {
        let side = match target.side {
            Side::AtMost => "≤",
            Side::AtLeast => "≥",
        };
        let measured = target.measured.map(|value| format!("{} {}", number(value), target.unit));
        let verdict = match target.verdict() {
            Verdict::Met => "met".to_owned(),
            Verdict::Missed(percent) => format!("**missed** by {percent:.0} %"),
            Verdict::NotMeasured => "not measured".to_owned(),
        };
        vec![
            format!("{} ({})", target.what, target.how),
            format!("{side} {} {}", number(target.limit), target.unit),
            measured.unwrap_or_else(|| "–".to_owned()),
            verdict,
        ]
    };
    let rows: Vec<_> = target::all(results).into_iter().map(row).collect();
    table(&["target", "limit", "measured", "verdict"], &rows)
}

fn times(results: &Results) -> String {
    let row = |(name, series): (&str, &Series)| {
        let mut cells = vec![name.to_owned()];
        cells.extend(figures(series.summary()));
        cells
    };
    table(
        &["what", "n", "min", "p50", "p95", "max"],
        &series(results).into_iter().map(row).collect::<Vec<_>>(),
    )
}

fn figures(summary: Option<Summary>) -> [String; 5] {
    match summary {
        Some(Summary { n, min, p50, p95, max }) => {
            [n.to_string(), number(min), number(p50), number(p95), number(max)]
        }
        None => ["0", "–", "–", "–", "–"].map(str::to_owned),
    }
}

fn throughput(results: &Results) -> String {
    let row = |level: &crate::measure::Throughput| {
        let [_, _, p50, p95, _] = figures(level.wall.summary());
        vec![level.parallel.to_string(), level.workloads.to_string(), number(level.per_second), p50, p95]
    };
    let head = ["Python hellos at once", "in all", "per second", "p50 ms each", "p95 ms each"];
    table(&head, &results.throughput.iter().map(row).collect::<Vec<_>>())
}

fn growth(results: &Results) -> String {
    let row = |growth: &crate::measure::Growth| {
        let mut cells =
            vec![growth.finished.to_string(), growth.run.summary().map_or(0, |run| run.n).to_string()];
        for series in [&growth.run, &growth.ready, &growth.list, &growth.show] {
            let [_, _, p50, p95, _] = figures(series.summary());
            cells.push(format!("{p50} / {p95}"));
        }
        cells
    };
    let head = [
        "finished workloads",
        "n",
        "Python hello p50 / p95",
        "request → certified p50 / p95",
        "`ps` p50 / p95",
        "`show` p50 / p95",
    ];
    table(&head, &results.growth.iter().map(row).collect::<Vec<_>>())
}

fn residence(results: &Results) -> String {
    let row = |residence: &crate::measure::Residence| {
        let columns = [
            &residence.vmm_pss,
            &residence.vmm_private,
            &residence.vmm_rss,
            &residence.runner_pss,
            &residence.runner_rss,
        ];
        let mut cells = vec![residence.clones.to_string()];
        cells.extend(columns.map(|series| figures(series.summary())[2].clone()));
        cells
    };
    let head = ["clones at once", "VMM PSS", "VMM private", "VMM RSS", "runner PSS", "runner RSS"];
    table(&head, &results.residence.iter().map(row).collect::<Vec<_>>())
}

fn timelines(results: &Results) -> String {
    let product = beside(&results.clone_timeline, &results.boot_timeline);
    let floor = beside(&results.floor_clone_timeline, &results.floor_boot_timeline);
    format!(
        "{}\nAnd the floor's. Certification is no part of it, but asked of the same guest to see its price:\n\n{}",
        table(&["`outlast run`", "clone", "cold"], &product),
        table(&["bare QEMU", "restore", "boot"], &floor),
    )
}

/// The medians of two timelines with the same stretches.
fn beside(left: &Timeline, right: &Timeline) -> Vec<Vec<String>> {
    let median = |series: &Series| figures(series.summary())[2].clone();
    let right = right.stretches();
    let in_right =
        |wanted: &str| right.iter().find(|(name, _)| *name == wanted).map(|(_, series)| median(series));
    let row = |(name, series): (&str, &Series)| {
        vec![name.to_owned(), median(series), in_right(name).unwrap_or_else(|| "–".to_owned())]
    };
    left.stretches().into_iter().map(row).collect()
}

fn measured_on(facts: &Facts, results: &Results) -> String {
    let mut rows: Vec<Vec<String>> =
        facts.rows().into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    rows.extend(results.libvirt_versions.iter().map(|text| vec!["libvirt".to_owned(), text.clone()]));
    let skipped = results.skipped.iter().map(|(name, reason)| format!("Skipped: {name}: {reason}\n"));
    format!("{}\n{}", table(&["", ""], &rows), skipped.collect::<String>())
}

fn command_lines(results: &Results) -> String {
    let block = |(name, text): &(String, String)| format!("{name}:\n\n```\n{}\n```\n\n", text.trim());
    results.command_lines.iter().map(block).collect()
}

/// The same for programs, with every single measurement.
pub(crate) fn json(facts: &Facts, results: &Results) -> Value {
    let one = |series: &Series| json!({ "summary": series.summary(), "values": series });
    let named = |list: Vec<(&str, &Series)>| -> Value {
        list.into_iter().map(|(name, series)| json!({ "name": name, "ms": one(series) })).collect()
    };
    let judged = |target: Target| {
        let verdict = target.verdict();
        json!({ "target": target, "verdict": verdict })
    };
    json!({
        "format": 1,
        "facts": facts,
        "targets": target::all(results).into_iter().map(judged).collect::<Value>(),
        "times": named(series(results)),
        "throughput": results.throughput.iter().map(|level| json!({
            "parallel": level.parallel,
            "workloads": level.workloads,
            "per_second": level.per_second,
            "wall_ms": one(&level.wall),
        })).collect::<Value>(),
        "growth": results.growth.iter().map(|growth| json!({
            "finished": growth.finished,
            "run_ms": one(&growth.run),
            "ready_ms": one(&growth.ready),
            "ps_ms": one(&growth.list),
            "show_ms": one(&growth.show),
        })).collect::<Value>(),
        "memory_mib": results.residence.iter().map(|residence| json!({
            "clones": residence.clones,
            "vmm_pss": one(&residence.vmm_pss),
            "vmm_private": one(&residence.vmm_private),
            "vmm_rss": one(&residence.vmm_rss),
            "runner_pss": one(&residence.runner_pss),
            "runner_rss": one(&residence.runner_rss),
        })).collect::<Value>(),
        "timeline_ms": {
            "clone": named(results.clone_timeline.stretches()),
            "cold": named(results.boot_timeline.stretches()),
            "floor_restore": named(results.floor_clone_timeline.stretches()),
            "floor_boot": named(results.floor_boot_timeline.stretches()),
        },
        "command_lines": results.command_lines,
        "libvirt": results.libvirt_versions,
        "skipped": results.skipped,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts::gather("outlast 0".to_owned(), "QEMU 10".to_owned(), "tcg".to_owned())
    }

    #[test]
    fn what_was_not_measured_is_shown_as_that() {
        let mut results = Results::default();
        results.skipped.push(("libvirt".to_owned(), "not installed".to_owned()));
        let text = markdown(&facts(), &results);
        assert!(text.contains("| libvirt: `virsh restore` → agent answers | 0 | – | – | – | – |"), "{text}");
        assert!(text.contains("Skipped: libvirt: not installed") && text.contains("not measured"));
    }

    #[test]
    fn what_was_measured_is_in_the_table_and_in_the_json() {
        let mut results = Results::default();
        results.floor_clone.add(50.0);
        results.clone_ready.add(60.0);
        let text = markdown(&facts(), &results);
        assert!(
            text.contains("| clone: `outlast run`, request → certified | 1 | 60.0 | 60.0 | 60.0 | 60.0 |")
        );
        assert!(text.contains("| ≤ 1.40 × | 1.20 × | met |"), "{text}");
        let value = json(&facts(), &results);
        assert_eq!(value["times"][1]["ms"]["values"], json!([60.0]));
        assert_eq!(value["targets"][0]["verdict"], json!("met"));
    }
}
