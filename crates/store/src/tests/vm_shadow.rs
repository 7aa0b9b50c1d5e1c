//! VMs in the store against a shadow of them: a few maps that know the rules in other words, fed the same operations,
//! legal or not. Whatever one refuses the other refuses, and what they hold is the same.

use crate::testing::{
    Scratch, end_with, failed_end, incarnation_id, new_vm, new_vm_start, process, publication, vm_id, vm_name,
};
use crate::{
    ClaimError, OfDisks, OfLiving, Owner, RemovalEnd, RemovalNote, StartNote, StopNote, Store, StoreError,
    VmPage,
};
use outlast_model::IncarnationState as State;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// One thing somebody does. Small numbers, so that they meet; an incarnation's number is never used twice.
#[derive(Debug, Clone)]
enum Deed {
    Create {
        vm: u64,
    },
    Start {
        vm: u64,
    },
    Stop {
        vm: u64,
    },
    Remove {
        vm: u64,
        stop: bool,
        keep: bool,
    },
    Finish {
        vm: u64,
    },
    /// Done to the newest incarnation of the VM, or to one that is not there.
    Claim {
        vm: u64,
        who: u32,
    },
    Publish {
        vm: u64,
        who: u32,
    },
    Pause {
        vm: u64,
        who: u32,
        paused: bool,
    },
    Dying {
        vm: u64,
        who: u32,
    },
    End {
        vm: u64,
        who: u32,
        says_how_far: bool,
    },
    Reap {
        vm: u64,
        expected: State,
        who: Option<u32>,
        says_how_far: bool,
    },
    Reopen,
}

fn deed() -> impl Strategy<Value = Deed> {
    let (vm, who) = (|| 1u64..4, || 2u32..4);
    prop_oneof![
        2 => vm().prop_map(|vm| Deed::Create { vm }),
        6 => vm().prop_map(|vm| Deed::Start { vm }),
        2 => vm().prop_map(|vm| Deed::Stop { vm }),
        1 => (vm(), any::<bool>(), any::<bool>()).prop_map(|(vm, stop, keep)| Deed::Remove { vm, stop, keep }),
        1 => vm().prop_map(|vm| Deed::Finish { vm }),
        6 => (vm(), who()).prop_map(|(vm, who)| Deed::Claim { vm, who }),
        6 => (vm(), who()).prop_map(|(vm, who)| Deed::Publish { vm, who }),
        4 => (vm(), who(), any::<bool>()).prop_map(|(vm, who, paused)| Deed::Pause { vm, who, paused }),
        1 => (vm(), who()).prop_map(|(vm, who)| Deed::Dying { vm, who }),
        4 => (vm(), who(), any::<bool>())
            .prop_map(|(vm, who, says_how_far)| Deed::End { vm, who, says_how_far }),
        4 => (vm(), prop::sample::select(State::ALL), prop::option::of(who()), any::<bool>()).prop_map(
            |(vm, expected, who, says_how_far)| Deed::Reap { vm, expected, who, says_how_far }
        ),
        1 => Just(Deed::Reopen),
    ]
}

/// What happened to one incarnation, as plain facts.
#[derive(Debug, Default, Clone)]
struct Life {
    number: u64,
    claimed_by: Option<u32>,
    published: bool,
    still: bool,
    dying: bool,
    ended: bool,
    said_how_far: bool,
    stop_wanted: bool,
}

impl Life {
    fn state(&self) -> State {
        match self {
            Self { ended: true, .. } => State::Ended,
            Self { dying: true, .. } => State::Dying,
            Self { published: true, .. } => State::Running,
            Self { claimed_by: Some(_), .. } => State::Claimed,
            _ => State::Intended,
        }
    }

    fn is_of(&self, who: u32) -> bool {
        self.claimed_by == Some(who) && !self.ended
    }

    /// What ended before it ran says how far it came, unless its end was wanted; what ran has nothing to say.
    fn may_end(&self, says_how_far: bool) -> bool {
        if self.published { !says_how_far } else { says_how_far || self.stop_wanted }
    }

    fn end_if(&mut self, is_judge: bool, says_how_far: bool) -> Came {
        let legal = is_judge && self.may_end(says_how_far);
        self.ended |= legal;
        self.said_how_far |= legal && says_how_far;
        done_if(legal)
    }
}

#[derive(Debug, Default, Clone)]
struct Facts {
    lives: Vec<Life>,
    removal_wanted: bool,
    kept: bool,
    removed: bool,
}

impl Facts {
    fn alive(&mut self) -> Option<&mut Life> {
        self.lives.last_mut().filter(|life| !life.ended)
    }

    fn start(&mut self, number: u64) -> Came {
        if self.removal_wanted {
            return Came::Refused;
        }
        if self.alive().is_some() {
            return Came::Nothing;
        }
        self.lives.push(Life { number, ..Life::default() });
        Came::Done
    }

    fn stop(&mut self) -> Came {
        match self.alive() {
            Some(life) if !life.stop_wanted => {
                life.stop_wanted = true;
                Came::Done
            }
            Some(_) | None => Came::Nothing,
        }
    }

    fn remove(&mut self, stop: bool, keep: bool) -> Came {
        if self.removal_wanted || (self.alive().is_some() && !stop) {
            return Came::Nothing;
        }
        self.removal_wanted = true;
        self.kept = keep;
        if let Some(life) = self.alive() {
            life.stop_wanted = true;
        }
        Came::Done
    }

    fn finish(&mut self) -> Came {
        if self.removed || self.alive().is_some() {
            return Came::Nothing;
        }
        self.removed = self.removal_wanted;
        done_if(self.removal_wanted)
    }

    fn word(&self) -> &'static str {
        match self.lives.last() {
            None => "created",
            Some(Life { ended: true, published: false, stop_wanted: false, .. }) => "failed",
            Some(Life { ended: true, .. }) => "stopped",
            Some(Life { stop_wanted: true, .. }) => "stopping",
            Some(Life { still: true, .. }) => "paused",
            Some(Life { published: true, .. }) => "running",
            Some(_) => "starting",
        }
    }
}

#[derive(Debug, Default)]
struct Shadow {
    vms: BTreeMap<u64, Facts>,
    next: u64,
    events: u64,
}

/// What came of a deed, as far as both can tell.
#[derive(Debug, Clone, PartialEq)]
enum Came {
    Done,
    Refused,
    Nothing,
}

fn done_if(legal: bool) -> Came {
    if legal { Came::Done } else { Came::Refused }
}

impl Shadow {
    fn suffers(&mut self, deed: &Deed) -> Came {
        let came = self.change(deed);
        self.events += u64::from(came == Came::Done);
        came
    }

    fn change(&mut self, deed: &Deed) -> Came {
        match *deed {
            Deed::Create { vm } => {
                // The id is the same each time: a VM that was removed does not come back.
                if self.vms.contains_key(&vm) {
                    return Came::Refused;
                }
                self.vms.insert(vm, Facts::default());
                Came::Done
            }
            Deed::Start { vm } => {
                self.next += 1;
                let number = self.next;
                self.present(vm, |facts| facts.start(number))
            }
            Deed::Stop { vm } => self.present(vm, Facts::stop),
            Deed::Remove { vm, stop, keep } => self.present(vm, |facts| facts.remove(stop, keep)),
            Deed::Finish { vm } => self.vms.get_mut(&vm).map_or(Came::Refused, Facts::finish),
            Deed::Claim { vm, who } => self.newest(vm, |life| {
                let free = life.state() == State::Intended;
                life.claimed_by = life.claimed_by.or(free.then_some(who));
                done_if(free)
            }),
            Deed::Publish { vm, who } => self.newest(vm, |life| {
                let legal = life.is_of(who) && life.state() == State::Claimed;
                life.published |= legal;
                done_if(legal)
            }),
            Deed::Pause { vm, who, paused } => self.newest(vm, |life| {
                let runs = life.published && !life.stop_wanted;
                let legal = life.is_of(who) && runs;
                if legal && life.still == paused {
                    return Came::Nothing;
                }
                life.still ^= legal;
                done_if(legal)
            }),
            Deed::Dying { vm, who } => self.newest(vm, |life| {
                if life.is_of(who) && life.dying {
                    return Came::Nothing;
                }
                let legal = life.is_of(who);
                life.dying |= legal;
                done_if(legal)
            }),
            Deed::End { vm, who, says_how_far } => {
                self.newest(vm, |life| life.end_if(life.is_of(who), says_how_far))
            }
            Deed::Reap { vm, expected, who, says_how_far } => self.newest(vm, |life| {
                let judged = life.state() == expected && life.claimed_by == who && !life.ended;
                life.end_if(judged, says_how_far)
            }),
            Deed::Reopen => Came::Nothing,
        }
    }

    fn present(&mut self, vm: u64, change: impl FnOnce(&mut Facts) -> Came) -> Came {
        self.vms.get_mut(&vm).filter(|facts| !facts.removed).map_or(Came::Refused, change)
    }

    fn newest(&mut self, vm: u64, change: impl FnOnce(&mut Life) -> Came) -> Came {
        self.vms.get_mut(&vm).and_then(|facts| facts.lives.last_mut()).map_or(Came::Refused, change)
    }

    /// The number of the VM's newest incarnation; of none, when there is none.
    fn newest_number(&self, vm: u64) -> u64 {
        let newest = self.vms.get(&vm).and_then(|facts| facts.lives.last());
        newest.map_or(999_999, |life| 1_000 + life.number)
    }
}

fn refused(error: StoreError) -> Came {
    match error {
        StoreError::Exists { .. }
        | StoreError::VmExists { .. }
        | StoreError::NoVm { .. }
        | StoreError::VmRemoved { .. }
        | StoreError::VmBeingRemoved { .. }
        | StoreError::RemovalNotAsked { .. }
        | StoreError::IllegalVm { .. }
        | StoreError::NoIncarnation { .. }
        | StoreError::NotOwner { .. }
        | StoreError::IllegalIncarnation { .. }
        | StoreError::FailedStartMissing { .. }
        | StoreError::FailedStartUnexpected { .. } => Came::Refused,
        error => panic!("{error:?}"),
    }
}

fn unit(result: Result<(), StoreError>) -> Came {
    result.map_or_else(refused, |()| Came::Done)
}

/// The same deed done to the store; `number` is that of the incarnation it is done to, or that is to be.
fn done(scratch: &Scratch, store: &mut Store, deed: &Deed, number: u64) -> Came {
    let id = incarnation_id(number);
    let end = |says_how_far: bool| if says_how_far { failed_end() } else { end_with(None) };
    match *deed {
        Deed::Create { vm } => unit(store.create_vm(&new_vm(vm))),
        Deed::Start { vm } => match store.start_vm(&new_vm_start(vm, number)) {
            Ok(StartNote::New) => Came::Done,
            Ok(StartNote::AlreadyLiving { .. }) => Came::Nothing,
            Err(error) => refused(error),
        },
        Deed::Stop { vm } => match store.request_stop(vm_id(vm), 5) {
            Ok(StopNote::Noted { .. }) => Came::Done,
            Ok(StopNote::AlreadyNoted { .. } | StopNote::NotLiving(_)) => Came::Nothing,
            Err(error) => refused(error),
        },
        Deed::Remove { vm, stop, keep } => {
            let of_living = if stop { OfLiving::Stop } else { OfLiving::Refuse };
            let of_disks = if keep { OfDisks::Keep } else { OfDisks::Remove };
            match store.request_removal(vm_id(vm), of_living, of_disks, 6) {
                Ok(RemovalNote::Noted) => Came::Done,
                Ok(RemovalNote::AlreadyNoted { .. } | RemovalNote::Living { .. }) => Came::Nothing,
                Err(error) => refused(error),
            }
        }
        Deed::Finish { vm } => match store.finish_removal(vm_id(vm), 7) {
            Ok(RemovalEnd::Removed) => Came::Done,
            Ok(RemovalEnd::AlreadyRemoved | RemovalEnd::Living { .. }) => Came::Nothing,
            Err(error) => refused(error),
        },
        Deed::Claim { who, .. } => match store.claim(id, &process(who), 2) {
            Ok(_) => Came::Done,
            Err(ClaimError::Taken { .. }) => Came::Refused,
            Err(ClaimError::Store(error)) => refused(error),
        },
        Deed::Publish { who, .. } => unit(store.publish(id, &process(who), &publication())),
        Deed::Pause { vm, who, paused } => {
            let before = store.vm(vm_id(vm)).unwrap();
            let came = unit(store.pause_vm(id, &process(who), paused, 3));
            let same = store.vm(vm_id(vm)).unwrap() == before;
            if same && came == Came::Done { Came::Nothing } else { came }
        }
        Deed::Dying { who, .. } => {
            let already = store.incarnation(id).unwrap().is_some_and(|row| row.state == State::Dying);
            let came = unit(store.mark_dying(id, &process(who), &[], 3));
            if already && came == Came::Done { Came::Nothing } else { came }
        }
        Deed::End { who, says_how_far, .. } => {
            unit(store.end(id, &Owner::Runner(&process(who)), &end(says_how_far)))
        }
        Deed::Reap { expected, who, says_how_far, .. } => {
            let owner = Owner::Reconciler { expected, runner: who.map(process) };
            unit(store.end(id, &owner, &end(says_how_far)))
        }
        Deed::Reopen => {
            *store = scratch.open();
            Came::Nothing
        }
    }
}

fn agree(store: &Store, shadow: &Shadow) -> Result<(), TestCaseError> {
    for (vm, facts) in &shadow.vms {
        let row = store.vm(vm_id(*vm)).unwrap().unwrap();
        prop_assert_eq!(row.state.name(), facts.word());
        prop_assert_eq!(row.removal_requested_unix_ns.is_some(), facts.removal_wanted);
        prop_assert_eq!(row.of_disks == OfDisks::Keep, facts.kept);
        prop_assert_eq!(row.removed_unix_ns.is_some(), facts.removed);
        let newest = facts.lives.last();
        prop_assert_eq!(row.incarnation, newest.map(|life| incarnation_id(1_000 + life.number)));
        prop_assert_eq!(row.stop_requested_unix_ns.is_some(), newest.is_some_and(|life| life.stop_wanted));
        prop_assert_eq!(row.failed_start.is_some(), newest.is_some_and(|life| life.said_how_far));
        let incarnations = store.incarnations_of(vm_id(*vm), 100).unwrap();
        let states: Vec<State> = incarnations.iter().rev().map(|row| row.state).collect();
        prop_assert_eq!(states, facts.lives.iter().map(Life::state).collect::<Vec<_>>());
        let by_name = store.vm_by_name(&vm_name(*vm)).unwrap();
        prop_assert_eq!(by_name, (!facts.removed).then_some(row));
        if let Some(life) = newest {
            let standing = store.standing_of_vm(incarnation_id(1_000 + life.number)).unwrap();
            prop_assert_eq!(standing.is_some(), !facts.removed);
        }
    }
    let present = shadow.vms.values().filter(|facts| !facts.removed).count();
    prop_assert_eq!(store.vms(&VmPage { limit: 100, after: None }).unwrap().len(), present);
    let alive = shadow.vms.values().flat_map(|facts| &facts.lives).filter(|life| !life.ended).count();
    prop_assert_eq!(store.living().unwrap().len(), alive);
    let report = store.audit_verify().unwrap();
    prop_assert!(report.is_intact(), "{:?}", report);
    prop_assert_eq!(report.count, shadow.events, "one event for each change, none for anything else");
    prop_assert_eq!(store.check_integrity().unwrap(), Vec::<String>::new());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn vms_in_the_store_agree_with_their_shadow(deeds in prop::collection::vec(deed(), 1..80)) {
        let scratch = Scratch::new();
        let (mut store, mut shadow) = (scratch.open(), Shadow::default());
        for deed in deeds {
            let number = match deed {
                Deed::Start { .. } => 1_000 + shadow.next + 1,
                Deed::Claim { vm, .. } | Deed::Publish { vm, .. } | Deed::Pause { vm, .. } | Deed::Dying { vm, .. }
                | Deed::End { vm, .. } | Deed::Reap { vm, .. } => shadow.newest_number(vm),
                Deed::Create { .. } | Deed::Stop { .. } | Deed::Remove { .. } | Deed::Finish { .. } | Deed::Reopen => 0,
            };
            let expected = shadow.suffers(&deed);
            prop_assert_eq!(done(&scratch, &mut store, &deed, number), expected, "{:?}", deed);
        }
        agree(&store, &shadow)?;
    }
}
