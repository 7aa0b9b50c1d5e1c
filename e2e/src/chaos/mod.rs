//! Chaos: many runs, several at once, each with a random kill at a random moment; then the judgement.
//!
//! ```text
//!   seed ──► plan of every run (what it runs, whom to kill, when)     here
//!              └─► run, with its kill                                 strike
//!   what the product says of all of them ──► what is wrong with it    judge
//!                                        └─► what was proved by it    proof
//!   the result, for people and machines                               report
//! ```
//!
//! A kill that hit nothing, because there was nothing yet or nothing any more, is counted as such: it proves
//! nothing, and is not a kill. Nothing wrong is not enough: the kills must have hit what was meant, in every part
//! of a run's life, or the verdict is unknown.

mod judge;
mod plan;
mod proof;
mod report;
mod strike;
#[cfg(test)]
mod tests;

pub use judge::{Seen, violations};
pub use plan::{Flavor, Life, Moment, Run, Target, plan};
pub use proof::{Part, Proof};
pub use report::{Report, host};
pub use strike::{Ended, Landed, strike};
