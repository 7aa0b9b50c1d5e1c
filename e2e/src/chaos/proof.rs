//! Whether what happened proves anything: were the runs what they were meant to be, did the kills hit, and did they
//! hit every part of a run's life. Nothing wrong without that is no pass, but unknown.
//!
//! Told by what the product wrote down of each run (its certificate, its output, its journal), not by what the plan
//! had in mind.

use super::judge::was_too_slow;
use super::{Ended, Flavor, Landed, Moment, Run, Seen, Target};
use outlast_prove::Verdict;
use outlast_wire::journal::JournalEntry;
use outlast_wire::view::WorkloadView;
use serde::Serialize;
use std::collections::BTreeMap;

/// Of a hundred kills that were to hit at most so many may come when the run is over.
const LATE: usize = 5;
/// Of a hundred runs at most so many may be ended by the boot's deadline: nobody killed them, and what they did
/// excuses itself.
const SLOW: usize = 2;
/// Of a hundred runs at least so many must tell what they started from; one that is killed before it is published
/// does not.
const TOLD: usize = 25;

/// How far a run had come when its kill hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Not published: nothing was sent.
    BeforePublish,
    /// Published, and nothing printed.
    AfterPublish,
    /// Its program had begun to print and had not come to its end.
    Program,
    /// Its program had come to its end, or its outcome was decided already.
    End,
    /// There was no kill, or it came too late: it ended by itself.
    Natural,
    /// Its command was killed, and nobody waited for it: it ended by itself.
    Unwaited,
}

impl Part {
    /// Those without which nothing is proved.
    const WANTED: [Self; 4] = [Self::BeforePublish, Self::AfterPublish, Self::Program, Self::Natural];
}

/// What was proved, in numbers, and what is missing.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Proof {
    /// By who was to be killed and how far the run had come: how many runs.
    pub parts: BTreeMap<Target, BTreeMap<Part, usize>>,
    /// By what was meant and what it started from, as the product tells it: how many runs.
    pub started: BTreeMap<String, BTreeMap<String, usize>>,
    /// Why clones booted instead, and which of them.
    pub fell_back: BTreeMap<String, Vec<String>>,
    /// Clones that booted because their VMM was killed while it was restored: that is the kill's doing.
    pub fell_back_by_kill: usize,
    /// Kills that were to hit.
    pub meant: usize,
    /// Of these, those that hit.
    pub hits: usize,
    /// Of these, those that came when the run was over although they were not aimed at its end.
    pub late: usize,
    /// Runs that the boot's deadline ended.
    pub slow: usize,
    /// Why the verdict is not pass, if nothing is wrong.
    pub doubts: Vec<String>,
}

impl Proof {
    /// Counts what happened to the runs of a plan.
    pub fn of(plan: &[Run], ended: &[Ended], seen: &Seen) -> Self {
        let mut proof = Self::default();
        for one in ended {
            proof.count(one, seen);
        }
        proof.doubt(plan, ended);
        proof
    }

    /// The verdict: what is wrong fails, what is missing leaves it unknown.
    pub fn verdict(&self, violations: &[String]) -> Verdict {
        match (violations.is_empty(), self.doubts.is_empty()) {
            (false, _) => Verdict::Fail,
            (true, false) => Verdict::Unknown,
            (true, true) => Verdict::Pass,
        }
    }

    fn count(&mut self, one: &Ended, seen: &Seen) {
        let view = seen.of(one);
        let part = part(one, view, seen);
        *self.parts.entry(one.run.target).or_default().entry(part).or_default() += 1;
        let aimed_at_the_end = matches!(one.run.moment, Moment::Ending(_));
        if one.run.moment != Moment::Never {
            self.meant += 1;
            self.hits += usize::from(one.landed == Landed::Hit);
            self.late += usize::from(one.landed != Landed::Hit && !aimed_at_the_end);
        }
        let outcome = view.and_then(|view| view.outcome.as_ref());
        self.slow += usize::from(outcome.is_some_and(was_too_slow));
        let by_kill = by_kill(one, view, seen);
        self.fell_back_by_kill += usize::from(by_kill);
        let why = view.and_then(|view| fell_back(view, seen)).filter(|_| !by_kill);
        let from = match (view.and_then(|view| view.started_from.as_deref()), &why) {
            (_, Some(_)) => "boot",
            (Some(from), None) if !by_kill => from,
            (_, None) => NOT_TOLD,
        };
        let meant = self.started.entry(one.run.flavor.starts_from().to_owned()).or_default();
        *meant.entry(from.to_owned()).or_default() += 1;
        if let Some(why) = why {
            let which = format!("{} ({:?}, {:?})", one.run.mark(), one.run.target, one.landed);
            self.fell_back.entry(why).or_default().push(which);
        }
    }

    fn doubt(&mut self, plan: &[Run], ended: &[Ended]) {
        let mut doubts = Vec::new();
        if !ended.iter().map(|one| &one.run).eq(plan) {
            doubts.push(format!("{} runs were planned, and {} are not all of them", plan.len(), ended.len()));
        }
        for target in Target::ALL {
            for part in Part::WANTED {
                let count = self.parts.get(&target).and_then(|parts| parts.get(&part)).copied().unwrap_or(0);
                let wanted = (plan.len() / 100).max(1);
                if count < wanted {
                    doubts.push(format!("{target:?}, {part:?}: {count} runs, and {wanted} are needed"));
                }
            }
        }
        for (meant, started) in &self.started {
            let count = |from: &str| started.get(from).copied().unwrap_or(0);
            let all: usize = started.values().sum();
            let told = all - count(NOT_TOLD);
            if told > count(meant) {
                let other = told - count(meant);
                doubts.push(format!(
                    "{other} runs were to start by a {meant} and did not: {:?}",
                    self.fell_back
                ));
            }
            // One that was to boot has nothing to fall back from.
            if meant == Flavor::Clone.starts_from() && told * 100 < all * TOLD {
                doubts.push(format!("of {all} runs that were to start by a {meant} only {told} tell of it"));
            }
        }
        if self.late * 100 > self.meant * LATE {
            let meant = self.meant;
            doubts
                .push(format!("{} of {meant} kills came too late, more than {LATE} in a hundred", self.late));
        }
        if self.slow * 100 > ended.len() * SLOW {
            let all = ended.len();
            doubts.push(format!(
                "the boot's deadline ended {} of {all} runs, more than {SLOW} in a hundred",
                self.slow
            ));
        }
        self.doubts = doubts;
    }
}

/// A run that was killed before it was published.
const NOT_TOLD: &str = "not told";

/// Why it booted although it was to be a clone: known beforehand, or found by its runner.
fn fell_back(view: &WorkloadView, seen: &Seen) -> Option<String> {
    view.fell_back.clone().or_else(|| found_by_its_runner(view, seen))
}

fn found_by_its_runner(view: &WorkloadView, seen: &Seen) -> Option<String> {
    let journal = seen.journals.get(&view.id)?;
    journal.lines.iter().find_map(|line| match &line.entry {
        JournalEntry::FellBack { cause } => Some(cause.clone()),
        _ => None,
    })
}

/// Whether a clone booted because its VMM was killed while it was restored.
fn by_kill(one: &Ended, view: Option<&WorkloadView>, seen: &Seen) -> bool {
    let struck = one.landed == Landed::Hit && one.run.target == Target::Vmm;
    struck && view.is_some_and(|view| found_by_its_runner(view, seen).is_some())
}

fn part(one: &Ended, view: Option<&WorkloadView>, seen: &Seen) -> Part {
    if one.landed != Landed::Hit {
        return Part::Natural;
    }
    let Some(view) = view else { return Part::BeforePublish };
    let natural = view.outcome.as_ref().is_some_and(|outcome| outcome.kind == one.run.flavor.natural());
    let printed = seen.printed_by(view);
    let ended = printed.contains(&format!("{} ends", one.run.mark()));
    let detached = one.run.target == Target::Cli && one.run.flavor == Flavor::Detached;
    match (natural || ended, view.certificate.is_some(), printed.is_empty()) {
        _ if by_kill(one, Some(view), seen) => Part::BeforePublish,
        (true, ..) if detached => Part::Unwaited,
        (true, ..) => Part::End,
        (false, false, _) => Part::BeforePublish,
        (false, true, true) => Part::AfterPublish,
        (false, true, false) => Part::Program,
    }
}
