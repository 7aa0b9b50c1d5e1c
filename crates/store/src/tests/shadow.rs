//! The store against a shadow of it: a few maps that know the rules in other words, fed the same operations,
//! legal or not. Whatever one refuses the other refuses, and what they hold is the same.

use crate::testing::{
    Scratch, end_with, incarnation_id, new_canary, new_workload, process, publication, workload_id,
};
use crate::{Acceptance, ClaimError, KillNote, Owner, Page, StoreError};
use outlast_model::{BootStep, IncarnationState as State, Killer, Outcome};
use outlast_wire::identity::ProcessIdentity;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// One thing somebody does. Small numbers, so that they meet.
#[derive(Debug, Clone)]
enum Deed {
    Accept { number: u64, key: Option<u8> },
    Intend { number: u64 },
    Claim { number: u64, who: u32 },
    RecordVmm { number: u64, who: u32 },
    Publish { number: u64, who: u32 },
    Dying { number: u64, who: u32 },
    EndByRunner { number: u64, who: u32, outcome: Option<Outcome> },
    EndByReconciler { number: u64, expected: State, who: Option<u32>, outcome: Option<Outcome> },
    Kill { number: u64 },
    Reopen,
}

fn outcome() -> impl Strategy<Value = Option<Outcome>> {
    prop_oneof![
        3 => Just(Some(Outcome::Completed)),
        1 => Just(Some(Outcome::Signalled { signal: 9 })),
        1 => Just(Some(Outcome::Killed { by: Killer::Request })),
        2 => prop::sample::select(&[BootStep::LaunchVmm, BootStep::StartProgram][..])
            .prop_map(|step| Some(Outcome::NotStarted { step, cause: "x".to_owned() })),
        1 => Just(Some(Outcome::Lost { cause: "x".to_owned() })),
        2 => Just(None),
    ]
}

fn deed() -> impl Strategy<Value = Deed> {
    let (number, who) = (|| 1u64..6, || 2u32..4);
    let expected = prop::sample::select(State::ALL);
    prop_oneof![
        4 => (number(), prop::option::of(0u8..3)).prop_map(|(number, key)| Deed::Accept { number, key }),
        1 => number().prop_map(|number| Deed::Intend { number }),
        4 => (number(), who()).prop_map(|(number, who)| Deed::Claim { number, who }),
        1 => (number(), who()).prop_map(|(number, who)| Deed::RecordVmm { number, who }),
        4 => (number(), who()).prop_map(|(number, who)| Deed::Publish { number, who }),
        1 => (number(), who()).prop_map(|(number, who)| Deed::Dying { number, who }),
        4 => (number(), who(), outcome())
            .prop_map(|(number, who, outcome)| Deed::EndByRunner { number, who, outcome }),
        4 => (number(), expected, prop::option::of(who()), outcome()).prop_map(
            |(number, expected, who, outcome)| Deed::EndByReconciler { number, expected, who, outcome }
        ),
        1 => number().prop_map(|number| Deed::Kill { number }),
        1 => Just(Deed::Reopen),
    ]
}

/// What happened to one incarnation, as plain facts.
#[derive(Debug, Default, Clone, PartialEq)]
struct Facts {
    is_workload: bool,
    key: Option<u8>,
    claimed_by: Option<u32>,
    published: bool,
    dying: bool,
    ended: bool,
    outcome: Option<Outcome>,
    kill_noted: bool,
}

impl Facts {
    fn state(&self) -> State {
        match self {
            Self { ended: true, .. } => State::Ended,
            Self { dying: true, .. } => State::Dying,
            Self { published: true, .. } => State::Running,
            Self { claimed_by: Some(_), .. } => State::Claimed,
            _ => State::Intended,
        }
    }

    fn owned_by(&self, who: u32) -> bool {
        self.claimed_by == Some(who) && !self.ended
    }

    /// Before publication nothing ran; after it something may have, unless its very start was refused; a kill is
    /// possible at any time.
    fn may_end_with(&self, outcome: Option<&Outcome>) -> bool {
        match outcome {
            None => !self.is_workload,
            Some(_) if !self.is_workload => false,
            Some(Outcome::Killed { .. }) => true,
            Some(Outcome::NotStarted { step, .. }) => !self.published || *step == BootStep::StartProgram,
            Some(_) => self.published,
        }
    }
}

#[derive(Debug, Default)]
struct Shadow {
    rows: BTreeMap<u64, Facts>,
    events: u64,
}

/// What came of a deed, as far as both can tell.
#[derive(Debug, Clone, PartialEq)]
enum Came {
    Done,
    Existing(u64),
    Refused,
    Nothing,
}

impl Shadow {
    fn suffers(&mut self, deed: &Deed) -> Came {
        let came = self.change(deed);
        self.events += u64::from(came == Came::Done);
        came
    }

    fn change(&mut self, deed: &Deed) -> Came {
        let refuse_unless = |legal: bool| if legal { Came::Done } else { Came::Refused };
        match deed {
            Deed::Accept { number, key } => {
                let first = self.rows.iter().find(|(_, row)| key.is_some() && row.key == *key);
                if let Some((first, _)) = first {
                    return Came::Existing(*first);
                }
                self.insert(*number, Facts { is_workload: true, key: *key, ..Facts::default() })
            }
            Deed::Intend { number } => self.insert(*number, Facts::default()),
            Deed::Claim { number, who } => self.with(*number, |row| {
                let free = row.state() == State::Intended;
                if free {
                    row.claimed_by = Some(*who);
                }
                refuse_unless(free)
            }),
            Deed::RecordVmm { number, who } => self.with(*number, |row| refuse_unless(row.owned_by(*who))),
            Deed::Publish { number, who } => self.with(*number, |row| {
                let legal = row.owned_by(*who) && row.state() == State::Claimed;
                row.published |= legal;
                refuse_unless(legal)
            }),
            Deed::Dying { number, who } => self.with(*number, |row| {
                if row.owned_by(*who) && row.dying {
                    return Came::Nothing;
                }
                let legal = row.owned_by(*who);
                row.dying |= legal;
                refuse_unless(legal)
            }),
            Deed::EndByRunner { number, who, outcome } => self.with(*number, |row| {
                let legal = row.owned_by(*who) && row.may_end_with(outcome.as_ref());
                row.end_if(legal, outcome.as_ref())
            }),
            Deed::EndByReconciler { number, expected, who, outcome } => self.with(*number, |row| {
                let judged = row.state() == *expected && row.claimed_by == *who && !row.ended;
                let legal = judged && row.may_end_with(outcome.as_ref());
                row.end_if(legal, outcome.as_ref())
            }),
            Deed::Kill { number } => self.with(*number, |row| {
                if !row.is_workload {
                    return Came::Refused;
                }
                if row.ended || row.kill_noted {
                    return Came::Nothing;
                }
                row.kill_noted = true;
                Came::Done
            }),
            Deed::Reopen => Came::Nothing,
        }
    }

    fn insert(&mut self, number: u64, row: Facts) -> Came {
        if self.rows.contains_key(&number) {
            return Came::Refused;
        }
        self.rows.insert(number, row);
        Came::Done
    }

    fn with(&mut self, number: u64, change: impl FnOnce(&mut Facts) -> Came) -> Came {
        self.rows.get_mut(&number).map_or(Came::Refused, change)
    }
}

impl Facts {
    fn end_if(&mut self, legal: bool, outcome: Option<&Outcome>) -> Came {
        if !legal {
            return Came::Refused;
        }
        self.ended = true;
        self.outcome = outcome.cloned();
        Came::Done
    }
}

fn key_text(key: Option<u8>) -> Option<String> {
    key.map(|key| format!("key {key}"))
}

/// The same deed done to the store. Refusals must be of the kinds that say so; any other error is a failure.
fn done(scratch: &Scratch, store: &mut crate::Store, deed: &Deed) -> Came {
    let refused = |error: StoreError| match error {
        StoreError::Exists { .. }
        | StoreError::NoIncarnation { .. }
        | StoreError::NoWorkload { .. }
        | StoreError::NotOwner { .. }
        | StoreError::IllegalIncarnation { .. }
        | StoreError::IllegalWorkload { .. }
        | StoreError::OutcomeMissing { .. }
        | StoreError::OutcomeUnexpected { .. } => Came::Refused,
        error => panic!("{deed:?}: {error:?}"),
    };
    let unit = |result: Result<(), StoreError>| result.map_or_else(refused, |()| Came::Done);
    match deed {
        Deed::Accept { number, key } => {
            match store.accept(&new_workload(*number, key_text(*key).as_deref())) {
                Ok(Acceptance::New) => Came::Done,
                Ok(Acceptance::Existing(id)) => {
                    Came::Existing((1..6).find(|n| workload_id(*n) == id).unwrap())
                }
                Err(error) => refused(error),
            }
        }
        Deed::Intend { number } => unit(store.intend(&new_canary(*number))),
        Deed::Claim { number, who } => match store.claim(incarnation_id(*number), &process(*who), 2) {
            Ok(_) => Came::Done,
            Err(ClaimError::Taken { .. }) => Came::Refused,
            Err(ClaimError::Store(error)) => refused(error),
        },
        Deed::RecordVmm { number, who } => {
            unit(store.record_vmm(incarnation_id(*number), &process(*who), &process(50), 3))
        }
        Deed::Publish { number, who } => {
            unit(store.publish(incarnation_id(*number), &process(*who), &publication()))
        }
        Deed::Dying { number, who } => {
            let id = incarnation_id(*number);
            let already = store.incarnation(id).unwrap().is_some_and(|row| row.state == State::Dying);
            let came = unit(store.mark_dying(id, &process(*who), &[], 3));
            if already && came == Came::Done { Came::Nothing } else { came }
        }
        Deed::EndByRunner { number, who, outcome } => {
            let owner: &ProcessIdentity = &process(*who);
            unit(store.end(incarnation_id(*number), &Owner::Runner(owner), &end_with(outcome.as_ref())))
        }
        Deed::EndByReconciler { number, expected, who, outcome } => {
            let owner = Owner::Reconciler { expected: *expected, runner: who.map(process) };
            unit(store.end(incarnation_id(*number), &owner, &end_with(outcome.as_ref())))
        }
        Deed::Kill { number } => match store.request_kill(workload_id(*number), 4) {
            Ok(KillNote::Noted) => Came::Done,
            Ok(KillNote::AlreadyNoted | KillNote::Over(_)) => Came::Nothing,
            Err(error) => refused(error),
        },
        Deed::Reopen => {
            *store = scratch.open();
            Came::Nothing
        }
    }
}

fn agree(store: &crate::Store, shadow: &Shadow) -> Result<(), TestCaseError> {
    for (number, facts) in &shadow.rows {
        let row = store.incarnation(incarnation_id(*number)).unwrap().unwrap();
        prop_assert_eq!(row.state, facts.state());
        prop_assert_eq!(row.runner, facts.claimed_by.map(process));
        prop_assert_eq!(row.death.is_some(), facts.ended);
        let workload = store.workload(workload_id(*number)).unwrap();
        prop_assert_eq!(workload.is_some(), facts.is_workload);
        if let Some(workload) = workload {
            let outcome = match workload.state {
                outlast_model::WorkloadState::Over(outcome) => Some(outcome),
                _ => None,
            };
            prop_assert_eq!(&outcome, &facts.outcome);
            prop_assert_eq!(workload.kill_requested_unix_ns.is_some(), facts.kill_noted);
            prop_assert_eq!(workload.idempotency_key, key_text(facts.key));
        }
    }
    let count = |wanted: fn(&Facts) -> bool| shadow.rows.values().filter(|row| wanted(row)).count();
    let page = Page { all: true, limit: 100, before: None };
    prop_assert_eq!(store.workloads(&page).unwrap().len(), count(|row| row.is_workload));
    let open = store.workloads(&Page { all: false, ..page }).unwrap().len();
    prop_assert_eq!(open, count(|row| row.is_workload && !row.ended));
    prop_assert_eq!(store.living().unwrap().len(), count(|row| !row.ended));
    let report = store.audit_verify().unwrap();
    prop_assert!(report.is_intact(), "{:?}", report);
    prop_assert_eq!(report.count, shadow.events, "one event for each change, none for anything else");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_store_agrees_with_its_shadow(deeds in prop::collection::vec(deed(), 1..60)) {
        let scratch = Scratch::new();
        let (mut store, mut shadow) = (scratch.open(), Shadow::default());
        for deed in deeds {
            let expected = shadow.suffers(&deed);
            prop_assert_eq!(done(&scratch, &mut store, &deed), expected, "{:?}", deed);
        }
        agree(&store, &shadow)?;
    }
}
