//! Chaos: many runs, several at once, each with a random kill at a random moment; then the judgement.
//!
//! ```text
//!   seed ──► plan of every run (what it runs, whom to kill, when)     here
//!              └─► run, with its kill                                 strike
//!   what the product says of all of them, and what the host shows ──► judge
//!   the result, for people and machines                               report
//! ```
//!
//! A kill that hit nothing, because there was nothing yet or nothing any more, is counted as such: it proves
//! nothing, and is not a kill.

mod judge;
mod report;
mod strike;

pub use judge::{Seen, violations};
pub use report::Report;
pub use strike::{Ended, Landed, strike};

use serde::Serialize;
use std::time::Duration;

/// What a run runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Flavor {
    /// Python in a clone.
    Clone,
    /// Python in a machine that boots.
    Cold,
    /// A command of the image `base`, in a clone.
    Base,
    /// Python in a clone, beyond its time.
    Timeout,
    /// Python in a clone that nobody waits for.
    Detached,
}

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The runner.
    Runner,
    /// The VMM.
    Vmm,
    /// The command line.
    Cli,
}

/// One run as it is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Run {
    /// Its number.
    pub number: u32,
    /// What it runs.
    pub flavor: Flavor,
    /// Who is killed.
    pub target: Target,
    /// When, since the command was started.
    pub after: Duration,
}

impl Flavor {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Clone, Self::Cold, Self::Base, Self::Timeout, Self::Detached];

    /// Out of a hundred, so many are of it.
    const fn share(self) -> u64 {
        match self {
            Self::Clone => 40,
            Self::Cold => 10,
            Self::Base => 20,
            Self::Timeout | Self::Detached => 15,
        }
    }

    /// How it ends when nothing happens to it.
    pub const fn natural(self) -> &'static str {
        match self {
            Self::Timeout => "timed_out",
            Self::Clone | Self::Cold | Self::Base | Self::Detached => "completed",
        }
    }
}

impl Target {
    const ALL: [Self; 3] = [Self::Runner, Self::Vmm, Self::Cli];
}

impl Run {
    /// The name by which its workload is told from all others.
    pub fn mark(&self) -> String {
        format!("run-{:05}", self.number)
    }

    /// The plan of a run: a function of the seed and its number. `lasts` tells how long a run of a kind takes when
    /// nothing happens to it.
    pub fn plan(seed: u64, number: u32, lasts: impl Fn(Flavor) -> Duration) -> Self {
        let mut dice = Dice(seed ^ u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut roll = dice.below(100);
        let flavor = Flavor::ALL.into_iter().find(|flavor| {
            let hit = roll < flavor.share();
            roll = roll.saturating_sub(flavor.share());
            hit
        });
        let flavor = flavor.expect("the shares are a hundred together");
        let target = Target::ALL[usize::try_from(dice.below(3)).expect("less than three")];
        // A little beyond its end, so that its last steps are hit as often as all others.
        let span = lasts(flavor) * 11 / 10;
        let after = Duration::from_micros(dice.below(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)));
        Self { number, flavor, target, after }
    }
}

/// Numbers that look random and are a function of the seed (splitmix64).
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn house_chaos_is_a_function_of_its_seed_and_has_everything_in_it() {
        let plan =
            |seed| (0..500).map(|n| Run::plan(seed, n, |_| Duration::from_secs(1))).collect::<Vec<_>>();
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
        for flavor in Flavor::ALL {
            for target in Target::ALL {
                assert!(plan(7).iter().any(|run| run.flavor == flavor && run.target == target));
            }
        }
        assert_eq!(Flavor::ALL.map(Flavor::share).iter().sum::<u64>(), 100);
    }
}
