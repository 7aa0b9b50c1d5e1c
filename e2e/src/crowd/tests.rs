//! The judge is shown planted faults, and must see them.

use super::*;
use std::collections::BTreeMap;

/// Calls of one client after the other, each a second long.
fn told(calls: &[(Verb, Answer)]) -> Vec<Call> {
    let call = |(index, (verb, answer)): (usize, &(Verb, Answer))| {
        let begun = u64::try_from(index).unwrap() * 1_000_000_000;
        let (verb, answer) = (*verb, *answer);
        Call { client: 0, verb, name: "one".to_owned(), begun, ended: begun + 900_000_000, answer }
    };
    calls.iter().enumerate().map(call).collect()
}

fn vmm(incarnation: &str, pid: u32) -> Vmm {
    Vmm { incarnation: incarnation.to_owned(), pid, start: 7 }
}

/// A life with everything in it, and the VMMs of it.
fn whole() -> Crowd {
    let calls = told(&[
        (Verb::Show, Answer::NotFound),
        (Verb::Create, Answer::Done),
        (Verb::Create, Answer::Exists),
        (Verb::Exec, Answer::NotRunning),
        (Verb::Start, Answer::Done),
        (Verb::Start, Answer::Already),
        (Verb::Exec, Answer::Done),
        (Verb::Pause, Answer::Done),
        (Verb::List, Answer::Is(Word::Paused)),
        (Verb::Resume, Answer::Done),
        (Verb::Stop, Answer::Done),
        (Verb::Stop, Answer::Already),
        (Verb::Start, Answer::Done),
        (Verb::ForcedRemove, Answer::Done),
        (Verb::Start, Answer::NotFound),
        (Verb::Create, Answer::Done),
    ]);
    let names = [("a", "one"), ("b", "one"), ("c", "two")];
    let names = names.map(|(incarnation, name)| (incarnation.to_owned(), name.to_owned()));
    let together = vec![vec![vmm("a", 1), vmm("c", 3)], vec![vmm("b", 2), vmm("c", 3)]];
    Crowd { calls, wrong: Vec::new(), together, names: BTreeMap::from(names) }
}

#[test]
fn what_agrees_is_not_wrong() {
    assert_eq!(violations(&whole()), Vec::<String>::new());
}

#[test]
fn two_vmms_of_one_vm_at_a_time_are_wrong_and_one_after_the_other_are_not() {
    let mut crowd = whole();
    crowd.together.push(vec![vmm("a", 1), vmm("b", 2)]);
    let wrong = violations(&crowd);
    assert!(matches!(wrong.as_slice(), [one] if one.contains("one had 2 VMMs at once")), "{wrong:?}");
    // Two of one incarnation, too.
    let mut crowd = whole();
    crowd.together.push(vec![vmm("a", 1), vmm("a", 9)]);
    assert_eq!(violations(&crowd).len(), 1);
}

#[test]
fn every_answer_that_cannot_be_true_is_wrong() {
    let lies = [
        (4, Answer::Already),
        (6, Answer::NotRunning),
        (8, Answer::Is(Word::Running)),
        (8, Answer::Is(Word::Starting)),
        (8, Answer::Is(Word::Stopping)),
        (10, Answer::Already),
        (11, Answer::Done),
        (12, Answer::Already),
        (12, Answer::EndedMeanwhile),
        (14, Answer::Done),
        (14, Answer::BeingRemoved),
        (15, Answer::Exists),
        (3, Answer::Done),
        (3, Answer::CutOff),
        (1, Answer::Exists),
    ];
    for (index, answer) in lies {
        let mut crowd = whole();
        crowd.calls[index].answer = answer;
        let wrong = violations(&crowd);
        assert!(wrong.iter().any(|wrong| wrong.contains("in no order")), "{index} {answer:?}: {wrong:?}");
    }
}

#[test]
fn what_passes_may_be_seen_by_whoever_looks_meanwhile() {
    let mut crowd = whole();
    // Somebody looks while the VM is stopped, and somebody stops it, too.
    let stop = crowd.calls[10].clone();
    for (client, verb, answer) in [
        (1, Verb::Show, Answer::Is(Word::Stopping)),
        (2, Verb::Start, Answer::Is(Word::Stopping)),
        (3, Verb::ForcedStop, Answer::Done),
        (4, Verb::Exec, Answer::CutOff),
    ] {
        crowd.calls.push(Call { client, verb, answer, ..stop.clone() });
    }
    // And while it is removed: its last incarnation ends first.
    let removal = crowd.calls[13].clone();
    crowd.calls.push(Call {
        client: 1,
        verb: Verb::Show,
        answer: Answer::Is(Word::Stopped),
        ..removal.clone()
    });
    crowd.calls.push(Call { client: 2, verb: Verb::Remove, answer: Answer::Done, ..removal });
    assert_eq!(violations(&crowd), Vec::<String>::new());
    // Of two starts at once one is new.
    let start = crowd.calls[4].clone();
    crowd.calls.push(Call { client: 5, answer: Answer::Already, ..start.clone() });
    assert_eq!(violations(&crowd), Vec::<String>::new());
    crowd.calls.push(Call { client: 6, answer: Answer::Done, ..start });
    assert_eq!(violations(&crowd).len(), 1, "but not two");
}

#[test]
fn a_crowd_that_got_nothing_done_shows_nothing() {
    assert!(violations(&Crowd::default()).len() > 3);
}

#[test]
fn wishes_are_a_function_of_seed_and_client_and_have_everything_in_them() {
    let wishes = |seed, client| Wishes::of(seed, client).take(400).collect::<Vec<_>>();
    assert_eq!(wishes(7, 1), wishes(7, 1));
    assert_ne!(wishes(7, 1), wishes(7, 2));
    assert_ne!(wishes(7, 1), wishes(8, 1));
    let verbs: std::collections::BTreeSet<Verb> = wishes(7, 1).into_iter().map(|wish| wish.verb).collect();
    assert_eq!(verbs.len(), 12);
}
