//! What callers hand to the store: requests for rows, publications, ends. Plain values, checked when they
//! are written. Nothing here knows SQL.
//!
//! Debug output never shows a value of the environment: those may be secrets, and `outlast_model::spec` and
//! `outlast_wire::intent` redact them.

use outlast_model::spec::WorkloadSpec;
use outlast_model::{IncarnationId, IncarnationState, Outcome, WorkloadId};
use outlast_wire::identity::ProcessIdentity;
use outlast_wire::intent::Intent;
use outlast_wire::record::{CertificateRecord, Timings};
use std::fmt;

/// A workload that is to be accepted, with the intent of the one incarnation that will run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewWorkload {
    /// Its id.
    pub id: WorkloadId,
    /// The id of its incarnation.
    pub incarnation: IncarnationId,
    /// A repeated key answers with the first workload; 1 to [`outlast_model::limit::IDEMPOTENCY_KEY_BYTES`] bytes.
    pub idempotency_key: Option<String>,
    /// What was asked for.
    pub spec: WorkloadSpec,
    /// What the runner is to do; its purpose names this workload.
    pub intent: Intent,
    /// Wall clock, in nanoseconds since the Unix epoch.
    pub created_unix_ns: u64,
}

/// What became of a request for a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "an existing workload must not be launched a second time"]
pub enum Acceptance {
    /// It was written down; it may be launched.
    New,
    /// Its idempotency key belongs to this earlier workload; nothing was written.
    Existing(WorkloadId),
}

/// An incarnation that runs no workload: a template's maker, a canary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewIncarnation {
    /// Its id.
    pub id: IncarnationId,
    /// What the runner is to do.
    pub intent: Intent,
    /// Wall clock, in nanoseconds since the Unix epoch.
    pub created_unix_ns: u64,
}

/// How an incarnation came to life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StartedFrom {
    /// It is a clone of a template.
    Clone,
    /// It booted cold.
    Boot,
    /// It went on from a snapshot of its VM.
    Restore,
}

impl StartedFrom {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Clone, Self::Boot, Self::Restore];

    /// The word stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clone => "clone",
            Self::Boot => "boot",
            Self::Restore => "restore",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|from| from.name() == name)
    }
}

impl fmt::Display for StartedFrom {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

/// What a runner says when its incarnation is fit to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Publication {
    /// The certificate; a canary has none.
    pub certificate: Option<CertificateRecord>,
    /// How it came to life.
    pub started_from: StartedFrom,
    /// Why a clone was given up for a cold boot, if it was.
    pub fell_back: Option<String>,
    /// The VMM's process.
    pub vmm: ProcessIdentity,
    /// Timings so far.
    pub timings: Timings,
    /// Wall clock, in nanoseconds since the Unix epoch.
    pub unix_ns: u64,
}

/// In whose name an incarnation is ended. The row must still be what the caller believes it to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner<'a> {
    /// The runner that claimed it.
    Runner(&'a ProcessIdentity),
    /// Whoever has proved that runner dead, or that there never was one.
    Reconciler {
        /// The state it was judged in.
        expected: IncarnationState,
        /// The runner that was proved dead; `None` when nobody had claimed it.
        runner: Option<ProcessIdentity>,
    },
}

/// What became of a wish to kill a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KillNote {
    /// The wish is written down.
    Noted,
    /// It was there already; nothing was written.
    AlreadyNoted,
    /// The workload is over; nothing was written.
    Over(Outcome),
}

/// A part of the list of workloads, newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Whether workloads that are over are listed too.
    pub all: bool,
    /// How many at most.
    pub limit: u32,
    /// Only those older than this one.
    pub before: Option<WorkloadId>,
}
