//! What each client does next: a function of the seed, of the client and of how much it has done.

use super::model::Verb;
use crate::dice::Dice;

/// The VMs.
pub(super) const NAMES: [&str; 4] = ["one", "two", "three", "four"];

/// How often each is wished, of all together.
const SHARES: [(Verb, u64); 12] = [
    (Verb::Create, 12),
    (Verb::Start, 24),
    (Verb::Stop, 4),
    (Verb::ForcedStop, 4),
    (Verb::Pause, 5),
    (Verb::Resume, 11),
    (Verb::Exec, 24),
    (Verb::Remove, 2),
    (Verb::ForcedRemove, 2),
    (Verb::Ping, 4),
    (Verb::Show, 5),
    (Verb::List, 3),
];

/// One wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// What.
    pub verb: Verb,
    /// Of which VM; a list is of all.
    pub name: &'static str,
}

/// All wishes of one client, for ever.
#[derive(Debug)]
pub struct Wishes {
    dice: Dice,
}

impl Wishes {
    /// Those of a client.
    pub fn of(seed: u64, client: u64) -> Self {
        Self { dice: Dice::new(seed ^ (client + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)) }
    }
}

impl Iterator for Wishes {
    type Item = Wish;

    fn next(&mut self) -> Option<Wish> {
        let all = SHARES.iter().map(|(_, share)| share).sum();
        let mut roll = self.dice.below(all);
        let verb = SHARES.into_iter().find(|(_, share)| {
            let hit = roll < *share;
            roll = roll.saturating_sub(*share);
            hit
        });
        let (verb, _) = verb.expect("a roll below the sum of the shares hits one");
        Some(Wish { verb, name: NAMES[self.dice.index(NAMES.len())] })
    }
}
