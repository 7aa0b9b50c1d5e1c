//! What callers hand in about VMs, and what they get back. Plain values; nothing here knows SQL.

use outlast_model::{IncarnationId, IncarnationState, VmId, VmName, VmSpec, VmState};
use outlast_wire::identity::ProcessIdentity;
use outlast_wire::intent::Intent;
use outlast_wire::record::{DeathRecord, FailedStart};
use outlast_wire::vm::Origins;

/// A VM that is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVm {
    /// Its id.
    pub id: VmId,
    /// Its name.
    pub name: VmName,
    /// What it is to be; it does not change any more.
    pub spec: VmSpec,
    /// Where each value of the spec came from.
    pub origins: Origins,
    /// Wall clock, in nanoseconds since the Unix epoch.
    pub created_unix_ns: u64,
}

/// A VM that is to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVmStart {
    /// The VM.
    pub vm: VmId,
    /// The id of the new incarnation.
    pub incarnation: IncarnationId,
    /// What the runner is to do; its purpose names this VM by id and name.
    pub intent: Intent,
    /// Wall clock, in nanoseconds since the Unix epoch.
    pub created_unix_ns: u64,
}

/// What became of a wish to start a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a VM that lives already must not be launched a second time"]
pub enum StartNote {
    /// The incarnation was written down; it may be launched.
    New,
    /// An incarnation of it lives, or is not proved over; nothing was written.
    AlreadyLiving {
        /// That incarnation.
        incarnation: IncarnationId,
        /// The VM's state: `starting`, `running`, `paused` or `stopping`.
        state: VmState,
    },
}

/// What became of a wish to stop a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopNote {
    /// The wish is written down.
    Noted {
        /// The incarnation that is to end.
        incarnation: IncarnationId,
    },
    /// It was there already; nothing was written.
    AlreadyNoted {
        /// The incarnation that is to end.
        incarnation: IncarnationId,
    },
    /// Nothing of it lives; nothing was written.
    NotLiving(VmState),
}

/// What a wish to remove a VM means for one that lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfLiving {
    /// Nothing: the wish is not written down.
    Refuse,
    /// It is to be stopped as well.
    Stop,
}

/// What a removal does with a VM's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfDisks {
    /// It goes, and all that lies beside it.
    Remove,
    /// It stays where it is, for whoever asked.
    Keep,
}

/// What became of a wish to remove a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemovalNote {
    /// The wish is written down: the VM cannot be started any more.
    Noted,
    /// It was there already; nothing was written. The first wish counts: a disk that was to be kept is, and one that
    /// was not may be gone by now.
    AlreadyNoted {
        /// What the first wish says of the disk.
        of_disks: OfDisks,
    },
    /// It lives, and was not to be stopped; nothing was written.
    Living {
        /// The incarnation that lives.
        incarnation: IncarnationId,
        /// The VM's state.
        state: VmState,
    },
}

/// What became of the last step of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemovalEnd {
    /// Its name is free.
    Removed,
    /// Somebody else was first; nothing was written.
    AlreadyRemoved,
    /// An incarnation of it is not over; nothing was written.
    Living {
        /// That incarnation.
        incarnation: IncarnationId,
        /// The VM's state.
        state: VmState,
    },
}

/// A part of the list of VMs that are not removed, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmPage {
    /// How many at most.
    pub limit: u32,
    /// Only those whose names come after this one.
    pub after: Option<VmName>,
}

/// One VM.
#[derive(Debug, Clone, PartialEq)]
pub struct VmRow {
    /// Its id.
    pub id: VmId,
    /// Its name.
    pub name: VmName,
    /// What it is to be.
    pub spec: VmSpec,
    /// Where each value of the spec came from.
    pub origins: Origins,
    /// Where it is in its life.
    pub state: VmState,
    /// When it was created, in nanoseconds since the Unix epoch.
    pub created_unix_ns: u64,
    /// Since when it is in its state, likewise.
    pub changed_unix_ns: u64,
    /// When somebody first asked its newest incarnation to stop, likewise.
    pub stop_requested_unix_ns: Option<u64>,
    /// When somebody first asked for its removal, likewise.
    pub removal_requested_unix_ns: Option<u64>,
    /// The incarnation that restored its disk from a snapshot; none has when it is the one it was made with. Its file is
    /// [`outlast_wire::paths::VmDirectory::disk_of`] it.
    pub disk_of: Option<IncarnationId>,
    /// What its removal does with its disk; it means nothing until one is asked for.
    pub of_disks: OfDisks,
    /// When it was removed, likewise.
    pub removed_unix_ns: Option<u64>,
    /// The incarnation that lives, or the newest; none when it was never started.
    pub incarnation: Option<IncarnationId>,
    /// The runner that claimed that incarnation.
    pub runner: Option<ProcessIdentity>,
    /// How far that incarnation came, when its start did not succeed.
    pub failed_start: Option<FailedStart>,
    /// Why it ended, if it has.
    pub death: Option<DeathRecord>,
}

/// What a VM's runner looks at once a second: what others want of it, and whether it is still the one they mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmStanding {
    /// The VM's state.
    pub state: VmState,
    /// When somebody first asked it to stop, in nanoseconds since the Unix epoch.
    pub stop_requested_unix_ns: Option<u64>,
    /// When somebody first asked for its removal, likewise.
    pub removal_requested_unix_ns: Option<u64>,
    /// The VM's living or newest incarnation.
    pub current: Option<IncarnationId>,
    /// The state of the incarnation that was asked about.
    pub incarnation_state: IncarnationState,
    /// The runner that owns it.
    pub runner: Option<ProcessIdentity>,
    /// The VMM that is recorded of it.
    pub vmm: Option<ProcessIdentity>,
}
