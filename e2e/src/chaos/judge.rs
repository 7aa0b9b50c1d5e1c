//! What is wrong: a function from what was planned and what the product says to the sentences of the fault.
//! Not here: whether enough happened to prove anything (`proof`).

use super::{Ended, Flavor, Landed, Target};
use outlast_wire::journal::Journal;
use outlast_wire::record::OutcomeRecord;
use outlast_wire::view::{EventView, WorkloadView};
use std::collections::BTreeMap;

/// What the product says when all is over.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// All workloads.
    pub workloads: Vec<WorkloadView>,
    /// The whole audit log.
    pub events: Vec<EventView>,
    /// What each workload printed, by its id.
    pub printed: BTreeMap<String, String>,
    /// What each runner wrote down, by its workload's id.
    pub journals: BTreeMap<String, Journal>,
}

impl Seen {
    /// The workload of that run, if it was accepted.
    pub(super) fn of(&self, one: &Ended) -> Option<&WorkloadView> {
        self.workloads.iter().find(|view| is_of(view, one))
    }

    /// What it printed.
    pub(super) fn printed_by(&self, view: &WorkloadView) -> &str {
        self.printed.get(&view.id).map_or("", String::as_str)
    }
}

/// Everything that is wrong, a sentence each.
pub fn violations(ended: &[Ended], seen: &Seen) -> Vec<String> {
    let mut wrong = Vec::new();
    for one in ended {
        let its: Vec<_> = seen.workloads.iter().filter(|view| is_of(view, one)).collect();
        match its.as_slice() {
            [] if may_be_unaccepted(one) => {}
            [] => wrong.push(format!("{}: no workload, and its client lived: {}", one.run.mark(), one.said)),
            [view] => wrong.extend(judge(one, view, seen)),
            several => wrong.push(format!("{}: {} workloads", one.run.mark(), several.len())),
        }
        if one.landed == Landed::Left {
            wrong.push(format!("{}: it is over, and its {:?} is there", one.run.mark(), one.run.target));
        }
    }
    let known = seen.workloads.iter().filter(|view| !ended.iter().any(|one| is_of(view, one)));
    wrong.extend(known.map(|view| format!("workload {} belongs to no run", view.id)));
    wrong.extend(ends(seen));
    wrong
}

fn is_of(view: &WorkloadView, one: &Ended) -> bool {
    let mark = one.run.mark();
    view.argv.iter().any(|word| word.contains(&mark))
}

/// A client that was killed may not have come so far.
fn may_be_unaccepted(one: &Ended) -> bool {
    one.run.target == Target::Cli && one.landed == Landed::Hit
}

fn judge(one: &Ended, view: &WorkloadView, seen: &Seen) -> Vec<String> {
    let mut wrong = Vec::new();
    let mark = one.run.mark();
    let Some(outcome) = &view.outcome else { return vec![format!("{mark}: no outcome")] };
    let kind = outcome.kind.as_str();
    if !legal(one, kind, outcome.by.as_deref()) && !was_too_slow(outcome) {
        let (run, by) = (&one.run, &outcome.by);
        wrong.push(format!(
            "{mark}: {kind} by {by:?} ({:?}) is not legal for {run:?}, {:?}",
            outcome.cause, one.landed
        ));
    }
    if view.death.is_none() {
        wrong.push(format!("{mark}: no death certificate"));
    }
    // What was never published was never sent, and can not have run.
    if kind == "lost" && view.certificate.is_none() {
        wrong.push(format!("{mark}: lost, and it was never published"));
    }
    let printed = seen.printed_by(view);
    let whole = format!("{mark} begins\n{mark} ends\n");
    let agrees = match kind {
        "completed" => printed == whole,
        "not_started" => printed.is_empty(),
        // A program may write a line in pieces, and its end comes between any two.
        _ => whole.starts_with(printed),
    };
    if !agrees {
        wrong.push(format!("{mark}: {kind}, and printed {printed:?}"));
    }
    if kind == "completed" && one.code.is_some_and(|code| code != 0) {
        wrong.push(format!("{mark}: completed, and its client ended with {:?}", one.code));
    }
    if kind != "completed" && one.code == Some(0) && one.run.flavor != Flavor::Detached {
        wrong.push(format!("{mark}: {kind}, and its client said success"));
    }
    wrong
}

/// A host with far more to do than it can exceeds the deadline of a boot. That is an honest end of a run that
/// nobody harmed; it is counted, and only few of them are a proof.
pub(super) fn was_too_slow(outcome: &OutcomeRecord) -> bool {
    outcome.kind == "not_started"
        && outcome.cause.as_ref().is_some_and(|cause| cause.contains("deadline passed"))
}

/// Whether that outcome may follow from what was done.
fn legal(one: &Ended, kind: &str, by: Option<&str>) -> bool {
    if kind == one.run.flavor.natural() {
        return true;
    }
    match (one.landed, one.run.target) {
        (Landed::Hit, Target::Runner | Target::Vmm) => matches!(kind, "not_started" | "lost"),
        // Killed before it had a runner to lose its client, or before the runner was told who it is.
        (Landed::Hit, Target::Cli) if kind == "not_started" => true,
        (Landed::Hit, Target::Cli) => {
            kind == "killed" && by == Some("client gone") && one.run.flavor != Flavor::Detached
        }
        (Landed::Over | Landed::Left, _) => false,
    }
}

/// Every incarnation ended once, whatever it was for, and every workload was accepted once.
fn ends(seen: &Seen) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut ends: BTreeMap<&str, usize> = BTreeMap::new();
    for event in seen.events.iter().filter(|event| event.kind == "incarnation.ended") {
        *ends.entry(event.subject.as_str()).or_default() += 1;
    }
    let several = ends.into_iter().filter(|(_, count)| *count > 1);
    wrong.extend(several.map(|(subject, count)| format!("{subject}: ended {count} times")));
    for view in &seen.workloads {
        let count = |kind: &str, subject: String| {
            seen.events.iter().filter(|event| event.kind == kind && event.subject == subject).count()
        };
        let ended = count("incarnation.ended", format!("incarnation:{}", view.incarnation));
        let accepted = count("workload.accepted", format!("workload:{}", view.id));
        if (accepted, ended) != (1, 1) {
            wrong.push(format!("workload {}: accepted {accepted} times, ended {ended} times", view.id));
        }
    }
    wrong
}
