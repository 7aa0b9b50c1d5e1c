//! What is true by thought alone.
//!
//! Ids, units, checked specs, life cycles as pure step functions, the names of the boot steps, outcomes and
//! causes of death, deadlines, verdicts. Nothing in here does I/O, reads a clock, draws a random number,
//! logs, or knows how any of it is written down: time, randomness and ids are arguments, and `wire` has
//! the forms that travel.
//!
//! Reading order: [`id`], [`mod@unit`], [`spec`], [`step`], [`place`], [`outcome`], [`death`], [`workload`],
//! [`incarnation`], [`vm`], [`vm_spec`], [`mod@near`], [`certificate`], [`hold`], [`timeout`], [`limit`], [`verdict`].

pub mod certificate;
pub mod death;
pub mod hold;
pub mod id;
pub mod incarnation;
pub mod limit;
pub mod near;
pub mod outcome;
pub mod place;
pub mod spec;
pub mod step;
pub mod timeout;
pub mod unit;
pub mod verdict;
pub mod vm;
pub mod vm_spec;
pub mod workload;

pub use certificate::{Certificate, ClockInterval};
pub use death::DeathCause;
pub use hold::{Edge, Hold};
pub use id::{IncarnationId, SnapshotId, StoreId, VmId, WorkloadId};
pub use incarnation::IncarnationState;
pub use outcome::{Killer, Outcome};
pub use place::{LauncherStep, Place, RunPhase};
pub use step::{BootStep, Walker};
pub use unit::{Age, Memory, Timeout, VcpuCount};
pub use verdict::Verdict;
pub use vm::{VmEvent, VmState};
pub use vm_spec::{DiskFormat, DiskSpec, SnapshotName, VmName, VmSpec};
pub use workload::WorkloadState;
