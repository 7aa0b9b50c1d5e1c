//! Is there one order of all calls to a VM in which every answer is true? The search of Wing and Gong, with memory.
//!
//! A call is put in its place when nothing that is not placed yet ended before it began. Places and the model's state
//! that were met before are not gone on from again.

use super::model::{Beside, Call, State, after};
use std::collections::HashSet;

/// So many steps, and then nobody knows.
const BUDGET: u64 = 5_000_000;

/// What came of a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    /// There is one.
    Found,
    /// There is none. These are the calls that were next when it had come farthest.
    None(Vec<usize>),
    /// It took too long.
    Unknown,
}

struct Search<'a> {
    calls: &'a [Call],
    beside: Vec<Beside>,
    /// The call that must be placed before, if any.
    needs: &'a [Option<usize>],
    met: HashSet<(Vec<u64>, State)>,
    steps: u64,
    farthest: (usize, Vec<usize>),
}

/// Looks for an order. `needs` names for a call another one that comes before it.
pub(super) fn order(calls: &[Call], needs: &[Option<usize>]) -> Order {
    let beside = (0..calls.len()).map(|index| Beside::of(calls, index)).collect();
    let mut search =
        Search { calls, beside, needs, met: HashSet::new(), steps: 0, farthest: (0, Vec::new()) };
    let mut placed = Placed { bits: vec![0; calls.len().div_ceil(64)], count: 0 };
    match search.go_on(&mut placed, State::Absent) {
        Some(true) => Order::Found,
        Some(false) => Order::None(search.farthest.1),
        None => Order::Unknown,
    }
}

struct Placed {
    bits: Vec<u64>,
    count: usize,
}

impl Placed {
    fn has(&self, index: usize) -> bool {
        self.bits[index / 64] & (1 << (index % 64)) != 0
    }

    fn flip(&mut self, index: usize) {
        self.bits[index / 64] ^= 1 << (index % 64);
        if self.has(index) { self.count += 1 } else { self.count -= 1 }
    }
}

impl Search<'_> {
    /// `None` when the budget is used up.
    fn go_on(&mut self, placed: &mut Placed, state: State) -> Option<bool> {
        if placed.count == self.calls.len() {
            return Some(true);
        }
        self.steps += 1;
        if self.steps > BUDGET {
            return None;
        }
        if !self.met.insert((placed.bits.clone(), state)) {
            return Some(false);
        }
        let next = self.next(placed);
        if placed.count >= self.farthest.0 {
            self.farthest = (placed.count, next.clone());
        }
        for index in next {
            for state in after(&self.calls[index], state, self.beside[index]) {
                placed.flip(index);
                let found = self.go_on(placed, state);
                placed.flip(index);
                if found != Some(false) {
                    return found;
                }
            }
        }
        Some(false)
    }

    /// The calls that may be next.
    fn next(&self, placed: &Placed) -> Vec<usize> {
        let open = || (0..self.calls.len()).filter(|index| !placed.has(*index));
        let first_end = open().map(|index| self.calls[index].ended).min().unwrap_or(u64::MAX);
        let may = |index: &usize| {
            self.calls[*index].begun <= first_end && self.needs[*index].is_none_or(|other| placed.has(other))
        };
        open().filter(may).collect()
    }
}
