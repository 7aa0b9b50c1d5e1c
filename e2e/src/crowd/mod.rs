//! A crowd: several clients that do anything to several VMs at the same time, watched from outside and judged by a model.
//!
//! ```text
//!   seed ──► what each client does next                                     plan
//!             └─► called, with when it began and ended and what was said    play
//!   all VMMs of the host, again and again, by /proc, with their identity    watch
//!   what was said: is there one order in which all of it is true?           model, order
//!   all of it together: what is wrong                                       judge
//! ```
//!
//! That every answer is true of some order, in which no call takes effect before it began or after it ended, is all that
//! one can ask of calls that overlap; and it leaves no room for a start that made a second machine, a stop that was
//! forgotten, or a state that is not in the table.

mod judge;
mod model;
mod order;
mod plan;
mod play;
#[cfg(test)]
mod tests;
mod watch;

pub use judge::{Crowd, violations};
pub use model::{Answer, Call, Verb, Word};
pub use plan::{Wish, Wishes};
pub use play::{Evening, play};
pub use watch::{Vmm, Watch};
