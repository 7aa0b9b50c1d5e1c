//! Snapshots of VMs: taken, listed, verified, removed, and restored.
//!
//! ```text
//!   take ────► .new-ID (locked) ─► the runner writes machine and disk ─► manifest ─► NAME, by rename
//!   restore ─► manifest, VM, machine, every byte: checked ─► [kill what lives] ─► a start that reads it
//!                                                                                 │ published: the VM's disk is the copy
//!                                                                                 └ failed: it is the one it was
//!   sweep ───► what takers, removers and restores left that died
//! ```
//!
//! The directory is the truth: the store knows nothing of snapshots but which disk is a VM's. Reading order: `error`,
//! `shelf` (where they lie), `part` (what is in one), `take`, `look`, `differ`, `restore`, `sweep`.

mod differ;
mod error;
mod look;
mod part;
mod restore;
mod shelf;
mod sweep;
mod take;

pub use error::{Damage, Part, SnapshotError};
pub use look::{list, remove, verify};
pub use restore::{OfLiving, restore};
pub use take::take;

pub(super) use look::views;
pub(crate) use sweep::{left, sweep};
