//! What a verification of the audit log finds, as values.

use crate::event::Digest;
use std::fmt;

/// What a verification came to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "an audit that nobody reads finds nothing"]
pub struct AuditReport {
    /// How many events the head counts. With the head it is what an operator keeps elsewhere.
    pub count: u64,
    /// The hash of the newest event, as the head has it; of nothing, when the log is empty.
    pub head: Digest,
    /// What is wrong, in order of sequence numbers; at most [`AuditReport::MAX_FINDINGS`].
    pub findings: Vec<AuditFinding>,
    /// How many more findings there are than are listed.
    pub unlisted: u64,
}

impl AuditReport {
    /// So many findings are listed; the rest are counted, so that memory stays bounded.
    pub const MAX_FINDINGS: usize = 1000;

    /// Whether nothing was found.
    pub fn is_intact(&self) -> bool {
        self.findings.is_empty() && self.unlisted == 0
    }
}

/// One thing that is wrong with the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditFinding {
    /// The event's contents do not have its hash.
    Changed {
        /// Which event.
        seq: u64,
    },
    /// Events are gone from the middle of the log.
    Removed {
        /// The first of them.
        first: u64,
        /// The last of them.
        last: u64,
    },
    /// The newest events are gone: the head counts more than there are.
    TailRemoved {
        /// The first of them.
        first: u64,
        /// The last of them.
        last: u64,
    },
    /// The event stands in another's place.
    Moved {
        /// Where it stands.
        seq: u64,
        /// Where it belongs.
        belongs: u64,
    },
    /// The event is a copy of another.
    Duplicated {
        /// Where the copy stands.
        seq: u64,
        /// Which event it is a copy of.
        original: u64,
    },
    /// The event is whole, but does not follow the one before it.
    Unlinked {
        /// Which event.
        seq: u64,
    },
    /// The event cannot be read at all.
    Unreadable {
        /// Which event.
        seq: u64,
    },
    /// The number of an event is none: numbers begin at 1.
    Unnumbered {
        /// What stands in its place.
        value: i64,
    },
    /// Events are newer than the head: they were not written by this crate, or the head was set back.
    BeyondHead {
        /// The first of them.
        first: u64,
        /// The last of them.
        last: u64,
    },
    /// The newest event does not have the head's hash.
    HeadDiffers {
        /// The newest event.
        seq: u64,
    },
    /// The head itself is gone.
    HeadMissing,
    /// The event is not the one whose hash was kept elsewhere: the log was rewritten.
    NotAsKept {
        /// The event that was the newest when the hash was kept.
        seq: u64,
    },
    /// The log is shorter than when its count was kept elsewhere.
    ShorterThanKept {
        /// How many events there were.
        kept: u64,
        /// How many there are.
        found: u64,
    },
}

impl AuditFinding {
    /// The number of the event it is about, or of the first; of none, for a head or number that is missing.
    pub const fn seq(&self) -> Option<u64> {
        match self {
            Self::Changed { seq }
            | Self::Moved { seq, .. }
            | Self::Duplicated { seq, .. }
            | Self::Unlinked { seq }
            | Self::Unreadable { seq }
            | Self::HeadDiffers { seq }
            | Self::NotAsKept { seq } => Some(*seq),
            Self::Removed { first, .. }
            | Self::TailRemoved { first, .. }
            | Self::BeyondHead { first, .. } => Some(*first),
            Self::ShorterThanKept { found, .. } => Some(*found),
            Self::Unnumbered { .. } | Self::HeadMissing => None,
        }
    }
}

impl fmt::Display for AuditFinding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed { seq } => write!(out, "event {seq} was changed"),
            Self::Removed { first, last } => write!(out, "events {first} to {last} were removed"),
            Self::TailRemoved { first, last } => {
                write!(out, "the newest events, {first} to {last}, were removed")
            }
            Self::Moved { seq, belongs } => write!(out, "event {seq} was event {belongs}: moved"),
            Self::Duplicated { seq, original } => write!(out, "event {seq} is a copy of event {original}"),
            Self::Unlinked { seq } => write!(out, "event {seq} does not follow the one before it"),
            Self::Unreadable { seq } => write!(out, "event {seq} cannot be read"),
            Self::Unnumbered { value } => write!(out, "there is an event numbered {value}"),
            Self::BeyondHead { first, last } => {
                write!(out, "events {first} to {last} are newer than the head")
            }
            Self::HeadDiffers { seq } => write!(out, "the head does not have the hash of event {seq}"),
            Self::HeadMissing => out.write_str("the head is missing"),
            Self::NotAsKept { seq } => write!(out, "event {seq} is not the one that was kept"),
            Self::ShorterThanKept { kept, found } => {
                write!(out, "there were {kept} events, now there are {found}")
            }
        }
    }
}
