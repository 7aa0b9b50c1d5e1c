//! VMs: what was asked for, the wishes of whoever keeps them, and where they stand.
//!
//! ```text
//!   create_vm ─► start_vm ─► (claim, publish, end: the incarnation's life, in `own`) ─► start_vm ─► …
//!                  request_stop, request_removal: wishes, for the runner to see        ─► finish_removal
//! ```
//!
//! A VM's state changes in the transaction of whatever changes it: a start is written together with its
//! incarnation's intent, and an incarnation that ends takes its VM's state along. So nobody ever sees a VM that runs
//! without an incarnation that lives, or two of them.

mod intent;
mod pause;
mod read;
pub(crate) mod standing;
mod types;
mod wish;

pub use types::{
    NewVm, NewVmStart, OfDisks, OfLiving, RemovalEnd, RemovalNote, StartNote, StopNote, VmPage, VmRow,
    VmStanding,
};
