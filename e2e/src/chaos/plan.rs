//! The plan of chaos: what each run runs, who is killed, and when. A function of the seed, and of how long a run
//! takes here.
//!
//! Targets and moments are dealt like cards, so that every stretch of a few dozen runs has all of them in it,
//! however fast or slow the host is. Most moments are told by the clock alone; some wait for a sign of the run's
//! own, because on a busy host the clock says little about how far a run has come.

use crate::dice::Dice;
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

/// When.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// So long after the command was started.
    Clock(Duration),
    /// So long after its journal has begun.
    Booting(Duration),
    /// So long after its journal says that it is published.
    Published(Duration),
    /// So long after its program has begun to print.
    Program(Duration),
    /// So long after its program has printed its last line, or was to be over: at its end, or too late.
    Ending(Duration),
    /// Never: it ends by itself, and whoever would have been killed must be gone then.
    Never,
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
    /// When.
    pub moment: Moment,
}

/// How long a run of a kind takes when nothing happens to it, with as many neighbours as it will have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Life {
    /// Until its command ends.
    pub command: Duration,
    /// Until it is over.
    pub whole: Duration,
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

    /// What it starts from.
    pub const fn starts_from(self) -> &'static str {
        match self {
            Self::Cold => "boot",
            Self::Clone | Self::Base | Self::Timeout | Self::Detached => "clone",
        }
    }
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Runner, Self::Vmm, Self::Cli];
}

impl Run {
    /// The name by which its workload is told from all others.
    pub fn mark(&self) -> String {
        format!("run-{:05}", self.number)
    }
}

/// What a card of the deck says about the moment. Each target has each of these once.
const CARDS: [Card; 10] = [
    Card::Clock,
    Card::Clock,
    Card::Clock,
    Card::Clock,
    Card::Booting,
    Card::Published,
    Card::Program,
    Card::Program,
    Card::Ending,
    Card::Never,
];

#[derive(Debug, Clone, Copy)]
enum Card {
    Clock,
    Booting,
    Published,
    Program,
    Ending,
    Never,
}

/// A clone on a quiet host is published in some 200 ms; on a busy one this is early.
const BOOTING: Duration = Duration::from_millis(150);
/// Programs take the image's interpreter some 200 ms to begin with.
const BEGINNING: Duration = Duration::from_millis(150);
/// Less than a program's nap, so that it still runs then, seen late or not.
const PROGRAM: Duration = Duration::from_millis(200);
/// What a runner needs to bury its VMM and write down the end.
const ENDING: Duration = Duration::from_millis(60);

/// The plan: `kills` runs that are to be struck, and among them one in ten that is left alone.
pub fn plan(seed: u64, kills: u32, life: impl Fn(Flavor) -> Life) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut struck = 0;
    while struck < kills {
        let block = u64::try_from(runs.len()).unwrap_or(u64::MAX);
        let mut dice = Dice::new(seed ^ block.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut deck: Vec<(Target, Card)> =
            Target::ALL.into_iter().flat_map(|target| CARDS.map(|card| (target, card))).collect();
        for last in (1..deck.len()).rev() {
            deck.swap(last, dice.index(last + 1));
        }
        for (target, card) in deck {
            if struck == kills {
                break;
            }
            let number = u32::try_from(runs.len()).expect("far fewer runs than that");
            let run = deal(number, target, card, &mut dice, &life);
            struck += u32::from(run.moment != Moment::Never);
            runs.push(run);
        }
    }
    runs
}

fn deal(number: u32, target: Target, card: Card, dice: &mut Dice, life: impl Fn(Flavor) -> Life) -> Run {
    let mut flavor = dice.flavor();
    // The command of a run that nobody waits for is gone before any sign of it.
    if target == Target::Cli && flavor == Flavor::Detached && !matches!(card, Card::Clock | Card::Never) {
        flavor = Flavor::Clone;
    }
    let Life { command, whole } = life(flavor);
    let moment = match card {
        Card::Clock if target == Target::Cli => Moment::Clock(dice.before(command)),
        Card::Clock => Moment::Clock(dice.before(whole)),
        Card::Booting => Moment::Booting(dice.before(BOOTING)),
        Card::Published => Moment::Published(dice.before(BEGINNING)),
        Card::Program => Moment::Program(dice.before(PROGRAM)),
        Card::Ending => Moment::Ending(dice.before(ENDING)),
        Card::Never => Moment::Never,
    };
    Run { number, flavor, target, moment }
}

impl Dice {
    fn before(&mut self, end: Duration) -> Duration {
        Duration::from_micros(self.below(u64::try_from(end.as_micros()).unwrap_or(u64::MAX)))
    }

    fn flavor(&mut self) -> Flavor {
        let mut roll = self.below(100);
        let flavor = Flavor::ALL.into_iter().find(|flavor| {
            let hit = roll < flavor.share();
            roll = roll.saturating_sub(flavor.share());
            hit
        });
        flavor.expect("the shares are a hundred together")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(seed: u64, kills: u32) -> Vec<Run> {
        let second = Duration::from_secs(1);
        plan(seed, kills, |_| Life { command: second, whole: second })
    }

    #[test]
    fn house_chaos_is_a_function_of_its_seed_and_has_everything_in_it() {
        assert_eq!(planned(7, 500), planned(7, 500));
        assert_ne!(planned(7, 500), planned(8, 500));
        for flavor in Flavor::ALL {
            for target in Target::ALL {
                assert!(planned(7, 500).iter().any(|run| run.flavor == flavor && run.target == target));
            }
        }
        assert_eq!(Flavor::ALL.map(Flavor::share).iter().sum::<u64>(), 100);
    }

    #[test]
    fn house_so_many_runs_of_chaos_are_struck_as_were_asked_for_and_one_in_ten_is_left_alone() {
        for kills in [1, 9, 40, 1000] {
            let runs = planned(3, kills);
            let (alone, struck): (Vec<&Run>, Vec<&Run>) =
                runs.iter().partition(|run| run.moment == Moment::Never);
            assert_eq!(struck.len(), usize::try_from(kills).unwrap());
            assert!(alone.len() <= 3 + runs.len() / 10, "{} of {}", alone.len(), runs.len());
        }
    }

    #[test]
    fn house_thirty_runs_of_chaos_have_every_target_at_every_moment() {
        for seed in 0..20 {
            let runs = planned(seed, 27);
            for target in Target::ALL {
                let of = |wanted: fn(&Moment) -> bool| {
                    runs.iter().filter(|run| run.target == target && wanted(&run.moment)).count()
                };
                assert_eq!(of(|moment| matches!(moment, Moment::Clock(_))), 4);
                assert_eq!(of(|moment| matches!(moment, Moment::Booting(_))), 1);
                assert_eq!(of(|moment| matches!(moment, Moment::Published(_))), 1);
                assert_eq!(of(|moment| matches!(moment, Moment::Program(_))), 2);
                assert_eq!(of(|moment| matches!(moment, Moment::Ending(_))), 1);
            }
        }
    }

    #[test]
    fn house_a_command_that_does_not_wait_is_struck_while_it_lives() {
        let (command, whole) = (Duration::from_millis(100), Duration::from_secs(1));
        let runs = plan(5, 900, |_| Life { command, whole });
        let mut of_commands = runs.iter().filter(|run| run.target == Target::Cli);
        assert!(of_commands.all(|run| !matches!(run.moment, Moment::Clock(after) if after >= command)));
        let signless = |run: &&Run| run.target == Target::Cli && run.flavor == Flavor::Detached;
        let mut signless = runs.iter().filter(signless);
        assert!(signless.all(|run| matches!(run.moment, Moment::Clock(_) | Moment::Never)));
    }
}
