//! VMs: long-lived machines with a name, each with a runner of its own and nobody above it.
//!
//! ```text
//!   create ─► disk, row                                              rm ─► stop, wait, disk, row
//!   start ──► find (reconciles) ─► ground, template ─► intent (one commit) ─► launch ─► wait until published
//!   stop ───► wish in the store ─► the runner's socket ─► its death, proved ─► settle
//!   snapshot, restore ─► snapshot/
//!   cp ─────► exec of the agent's own program, a tar on its standard streams (`outlast_copy`)
//!   exec, ping, pause, resume, monitor, stats, console ─► living ─► the runner's socket, or the evidence on disk
//! ```
//!
//! Every operation looks at the VM first and brings its row into line with what is (`find`): whoever asks
//! something of a VM whose runner or VMM is gone is told so, with the cause, and never gets a socket's error.
//! A VM's runner holds no lease: it outlives whoever started it.

mod console;
mod copy;
mod create;
mod error;
mod exec;
mod find;
mod list;
mod living;
mod remove;
pub mod snapshot;
pub mod spec;
pub mod spec_file;
mod start;
mod stats;
mod steps;
mod stop;
mod talk;
#[cfg(test)]
mod testing;
mod words;

pub use console::{AfterVmLog, Left, Seat, VmLog, console, logs};
pub use copy::{Beside, Copied, Here, copy_in, copy_out};
pub use create::create;
pub use error::VmError;
pub use exec::{Company, Ended, Program, exec};
pub use list::{VmList, list, show, spec_of, summary};
pub use remove::{Removal, remove};
pub use start::{StartRequest, start};
pub use stats::stats;
pub use stop::{StopRequest, stop};
pub use talk::{Vcpus, monitor, ping, set_vcpus};

pub(crate) use create::half_made;
