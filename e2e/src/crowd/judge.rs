//! What is wrong with what a crowd saw: a function to the sentences of the fault.

use super::model::{Answer, Call, Verb};
use super::order::{Order, order};
use super::watch::Vmm;
use std::collections::{BTreeMap, BTreeSet};

/// Everything that was seen.
#[derive(Debug, Clone, Default)]
pub struct Crowd {
    /// All calls.
    pub calls: Vec<Call>,
    /// What was said that cannot be.
    pub wrong: Vec<String>,
    /// Every set of VMMs that lived together.
    pub together: Vec<Vec<Vmm>>,
    /// The VM's name of each incarnation.
    pub names: BTreeMap<String, String>,
}

/// Everything that is wrong, a sentence each.
pub fn violations(crowd: &Crowd) -> Vec<String> {
    let mut wrong = crowd.wrong.clone();
    wrong.extend(two_at_once(crowd));
    wrong.extend(lies(crowd));
    wrong.extend(nothing_done(crowd));
    wrong
}

/// One VM, one VMM.
fn two_at_once(crowd: &Crowd) -> Vec<String> {
    let mut wrong = BTreeSet::new();
    for together in &crowd.together {
        let mut of: BTreeMap<&str, Vec<&Vmm>> = BTreeMap::new();
        for vmm in together {
            match crowd.names.get(&vmm.incarnation) {
                Some(name) => of.entry(name).or_default().push(vmm),
                None => drop(wrong.insert(format!("{vmm:?} is of no VM"))),
            }
        }
        let several = of.into_iter().filter(|(_, vmms)| vmms.len() > 1);
        wrong.extend(several.map(|(name, vmms)| format!("{name} had {} VMMs at once: {vmms:?}", vmms.len())));
    }
    wrong.into_iter().collect()
}

/// For each VM there is an order in which every answer is true.
fn lies(crowd: &Crowd) -> Vec<String> {
    let names: BTreeSet<&str> = crowd.calls.iter().map(|call| call.name.as_str()).collect();
    names.into_iter().filter_map(|name| lie(name, &crowd.calls)).collect()
}

fn lie(name: &str, calls: &[Call]) -> Option<String> {
    let (calls, needs) = halves(calls.iter().filter(|call| call.name == name));
    match order(&calls, &needs) {
        Order::Found => None,
        Order::Unknown => Some(format!("{name}: whether its {} calls agree is not known", calls.len())),
        Order::None(next) => {
            let end = next.iter().map(|index| calls[*index].ended).max().unwrap_or(u64::MAX);
            let begin = next.iter().map(|index| calls[*index].begun).min().unwrap_or(0);
            let mut near: Vec<&Call> =
                calls.iter().filter(|call| call.ended >= begin && call.begun <= end).collect();
            let earlier = calls.iter().filter(|call| call.ended < begin);
            near.extend(earlier.rev().take(12));
            near.sort_by_key(|call| call.begun);
            let near: Vec<String> = near.into_iter().map(ToString::to_string).collect();
            let next: Vec<String> = next.iter().map(|index| calls[*index].to_string()).collect();
            Some(format!(
                "{name}: in no order are all of its {} answers true; next would be one of\n{}\nof\n{}",
                calls.len(),
                next.join("\n"),
                near.join("\n")
            ))
        }
    }
}

/// A forced removal is two things, one after the other: somebody may look in between.
fn halves<'a>(calls: impl Iterator<Item = &'a Call>) -> (Vec<Call>, Vec<Option<usize>>) {
    let (mut all, mut needs) = (Vec::new(), Vec::new());
    let mut sorted: Vec<&Call> = calls.collect();
    sorted.sort_by_key(|call| call.begun);
    for call in sorted {
        let mut before = None;
        if (call.verb, call.answer) == (Verb::ForcedRemove, Answer::Done) {
            before = Some(all.len());
            all.push(Call { verb: Verb::EndForRemoval, ..call.clone() });
            needs.push(None);
        }
        all.push(call.clone());
        needs.push(before);
    }
    (all, needs)
}

/// A crowd that got nothing done shows nothing.
fn nothing_done(crowd: &Crowd) -> Vec<String> {
    let done = |verb: Verb| crowd.calls.iter().any(|call| call.verb == verb && call.answer == Answer::Done);
    let mut wrong = missing(done);
    if crowd.together.iter().all(Vec::is_empty) {
        wrong.push("no VMM was seen".to_owned());
    }
    wrong
}

/// What must have been done for anything to be shown, and was not.
pub(super) fn missing(done: impl Fn(Verb) -> bool) -> Vec<String> {
    let needed = [Verb::Create, Verb::Start, Verb::Exec];
    let mut missing: Vec<String> =
        needed.into_iter().filter(|verb| !done(*verb)).map(|verb| format!("no {verb:?} was done")).collect();
    if ![Verb::Stop, Verb::ForcedStop, Verb::ForcedRemove].into_iter().any(done) {
        missing.push("nothing was stopped".to_owned());
    }
    missing
}
