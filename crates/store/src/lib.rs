//! SQLite: the only source of truth about intent, and the index of evidence.
//!
//! One database per home, used by many processes at once: the command line writes intents, each runner its own
//! incarnation's row, whoever reconciles the rows of the dead. The store knows nothing of processes, VMMs and
//! HTTP: identities are values it compares, and no clock is read (but for the id of a new store).
//!
//! Promises, each kept by a test in this crate:
//!
//! - a write that returned is on disk; one that did not return happened wholly or not at all;
//! - a row has one owner, a workload one incarnation and one outcome, an idempotency key one workload;
//! - of a VM one incarnation lives, however many start it at once; its state and its incarnation's agree;
//! - every change is told in the audit log, in the same transaction;
//! - nothing that is not a store of ours, or is newer than this build, is written to;
//! - values of the environment, which may be secrets, are in no event and no debug output, and no file of the
//!   store is readable for others;
//! - the cost of an operation does not depend on how much is over.
//!
//! A run costs four commits: accept, claim, publish, end. [`Store`] blocks: an event loop gives it a thread.
//!
//! Reading order: [`request`], [`row`], [`event`], [`error`]; then `place`, `create`, `connection` and `schema`
//! (how a database comes to be open), `store`, `accept`, `own`, `read`, `vm` (what is done with it), `audit`.

pub mod error;
pub mod event;
pub mod request;
pub mod row;

mod accept;
mod audit;
mod connection;
mod create;
mod decode;
mod own;
mod place;
mod read;
mod schema;
mod sql;
mod standing;
mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod vm;

pub use audit::finding::{AuditFinding, AuditReport};
pub use connection::BUSY_TIMEOUT;
pub use error::{ClaimError, StoreError};
pub use event::{Digest, DigestError, EventKind, EventRow, Subject};
pub use read::PREFIX_LEAST;
pub use request::{Acceptance, KillNote, NewIncarnation, NewWorkload, Owner, Page, Publication, StartedFrom};
pub use row::{Found, IncarnationRow, WorkloadRow};
pub use store::Store;
pub use vm::{
    NewVm, NewVmStart, OfDisks, OfLiving, RemovalEnd, RemovalNote, StartNote, StopNote, VmPage, VmRow,
    VmStanding,
};
