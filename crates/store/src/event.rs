//! The audit log's rows as they are read: kinds, subjects, digests. How they are chained is in `audit`.

use outlast_model::{IncarnationId, VmId, WorkloadId};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// A SHA-256 digest, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// From its bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Digest({self})")
    }
}

/// A text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{text}' is not a digest (64 hexadecimal digits expected)")]
pub struct DigestError {
    text: String,
}

impl FromStr for Digest {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        let error = || DigestError { text: text.chars().take(70).collect() };
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(error());
        }
        for (index, byte) in bytes.iter_mut().enumerate() {
            let digits = text.get(2 * index..2 * index + 2).ok_or_else(error)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| error())?;
        }
        Ok(Self(bytes))
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal),+ $(,)?) => {
        /// What an event tells. A new kind needs a new schema version, so that no reader meets one it does not know.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum EventKind { $($(#[$doc])* $variant),+ }

        impl EventKind {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The word stored and shown.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// The kind of that name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|kind| kind.name() == name)
            }
        }
    };
}

kinds! {
    /// A workload and its incarnation were written down.
    WorkloadAccepted = "workload.accepted",
    /// Somebody wished a workload killed.
    KillRequested = "workload.kill-requested",
    /// An incarnation without a workload was written down.
    IncarnationIntended = "incarnation.intended",
    /// A runner claimed an incarnation.
    IncarnationClaimed = "incarnation.claimed",
    /// A runner named its VMM before publication.
    VmmRecorded = "incarnation.vmm-recorded",
    /// An incarnation was certified and published.
    IncarnationRunning = "incarnation.running",
    /// An incarnation was told to die and is not proved dead.
    IncarnationDying = "incarnation.dying",
    /// An incarnation ended, and its workload or its VM's run with it.
    IncarnationEnded = "incarnation.ended",
    /// A VM was written down.
    VmCreated = "vm.created",
    /// Somebody wished a VM started, and the intent of an incarnation was written down.
    VmStartRequested = "vm.start-requested",
    /// A VM's runner paused it.
    VmPaused = "vm.paused",
    /// A VM's runner resumed it.
    VmResumed = "vm.resumed",
    /// Somebody wished a VM stopped.
    VmStopRequested = "vm.stop-requested",
    /// Somebody wished a VM removed, and stopped where it lived.
    VmRemovalRequested = "vm.removal-requested",
    /// Nothing of a VM is left on the host.
    VmRemoved = "vm.removed",
}

impl fmt::Display for EventKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

/// What an event is about; written `workload:ID`, `incarnation:ID` or `vm:ID`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A workload.
    Workload(WorkloadId),
    /// An incarnation.
    Incarnation(IncarnationId),
    /// A VM.
    Vm(VmId),
}

impl fmt::Display for Subject {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(id) => write!(out, "workload:{id}"),
            Self::Incarnation(id) => write!(out, "incarnation:{id}"),
            Self::Vm(id) => write!(out, "vm:{id}"),
        }
    }
}

impl Subject {
    /// Reads what [`Subject`] displays; `None` for anything else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.split_once(':')? {
            ("workload", id) => id.parse().ok().map(Self::Workload),
            ("incarnation", id) => id.parse().ok().map(Self::Incarnation),
            ("vm", id) => id.parse().ok().map(Self::Vm),
            _ => None,
        }
    }
}

/// One event of the audit log.
#[derive(Debug, Clone, PartialEq)]
pub struct EventRow {
    /// Its number, from 1, without gaps.
    pub seq: u64,
    /// Wall clock, in nanoseconds since the Unix epoch.
    pub unix_ns: u64,
    /// What it tells.
    pub kind: EventKind,
    /// What it is about.
    pub subject: Subject,
    /// Details; never a value of an environment variable.
    pub body: serde_json::Value,
    /// The hash of the event before it.
    pub previous: Digest,
    /// Its own hash.
    pub hash: Digest,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn digests_are_read_back(bytes: [u8; 32]) {
            let digest = Digest::from_bytes(bytes);
            prop_assert_eq!(digest.to_string().parse(), Ok(digest));
        }

        #[test]
        fn no_text_panics(text in ".{0,70}") {
            let _ = text.parse::<Digest>();
            let _ = Subject::parse(&text);
        }

        #[test]
        fn subjects_are_read_back(ms in 0u64..(1 << 48), random: u128) {
            for subject in [
                Subject::Workload(WorkloadId::from_parts(ms, random)),
                Subject::Incarnation(IncarnationId::from_parts(ms, random)),
                Subject::Vm(VmId::from_parts(ms, random)),
            ] {
                prop_assert_eq!(Subject::parse(&subject.to_string()), Some(subject));
            }
        }
    }

    #[test]
    fn kinds_are_read_back() {
        for &kind in EventKind::ALL {
            assert_eq!(EventKind::from_name(kind.name()), Some(kind));
        }
    }
}
