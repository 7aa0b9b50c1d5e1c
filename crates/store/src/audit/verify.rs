//! Walking the chain: one pass over one snapshot, in bounded memory, naming everything that is wrong.
//!
//! The walk decides what can be decided row by row: gaps, rows without their own hash ("suspects"), rows that do
//! not follow the one before, and how the end agrees with the head. What the suspects are is decided afterwards,
//! in `classify`.

use super::chain::{RawEvent, genesis};
use super::classify::{self, Suspect};
use super::finding::{AuditFinding, AuditReport};
use crate::error::{Fault, StoreError};
use crate::event::Digest;
use crate::sql;
use crate::store::Store;
use outlast_model::StoreId;
use rusqlite::types::ValueRef;
use rusqlite::{Row, Transaction};

impl Store {
    /// Verifies the whole audit log on one snapshot; others may write meanwhile. Memory does not depend on its
    /// length; time does (about 4 µs an event).
    ///
    /// # Errors
    /// Findings are no errors; [`StoreError::Damaged`] and others when the log cannot be walked at all.
    pub fn audit_verify(&self) -> Result<AuditReport, StoreError> {
        self.snapshot("verify the audit log", |transaction| verify(transaction, self.id(), None))
    }

    /// Verifies the whole audit log, and that it still continues the one whose `count` and `head` were kept
    /// elsewhere. This alone shows a log that was rewritten with all its hashes.
    pub fn audit_verify_since(&self, count: u64, head: &Digest) -> Result<AuditReport, StoreError> {
        let kept = Kept { count, head: *head };
        self.snapshot("verify the audit log", |transaction| verify(transaction, self.id(), Some(kept)))
    }
}

/// A head that an operator kept elsewhere.
#[derive(Debug, Clone, Copy)]
struct Kept {
    count: u64,
    head: Digest,
}

fn verify(transaction: &Transaction<'_>, store: StoreId, kept: Option<Kept>) -> Result<AuditReport, Fault> {
    let genesis = genesis(store);
    let mut walk = Walk::new(genesis, kept);
    let mut statement = transaction.prepare_cached(sql::EVENTS_ALL)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        walk.meet(&Met::read(row)?);
    }
    let head = read_head(transaction)?;
    walk.compare_with_head(head);
    walk.compare_with_kept();
    let Walk { mut findings, suspects, gaps, last, last_hash, .. } = walk;
    classify::name_suspects(transaction, &suspects, &gaps, &mut findings)?;
    let (count, head) = head.unwrap_or((last, last_hash.unwrap_or(genesis)));
    Ok(findings.report(count, head))
}

/// The head, or nothing when it is missing or unreadable.
fn read_head(transaction: &Transaction<'_>) -> Result<Option<(u64, Digest)>, Fault> {
    let mut statement = transaction.prepare_cached(sql::AUDIT_HEAD)?;
    let mut rows = statement.query([])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let count = row.get_ref("count")?.as_i64().ok().and_then(|count| u64::try_from(count).ok());
    Ok(count.zip(digest(row.get_ref("head")?)))
}

/// A row as it was met.
enum Met {
    /// Its number is no number at all, or below 1.
    Unnumbered { value: i64 },
    /// One of its fields has another type than the schema allows.
    Unreadable { seq: u64 },
    /// All its fields are there.
    Whole { seq: u64, computed: Digest, stored: Digest, previous: Digest },
}

impl Met {
    fn read(row: &Row<'_>) -> Result<Self, Fault> {
        let value = row.get_ref("seq")?.as_i64().unwrap_or(0);
        let Some(seq) = u64::try_from(value).ok().filter(|seq| *seq > 0) else {
            return Ok(Self::Unnumbered { value });
        };
        let fields = (raw(row, value)?, digest(row.get_ref("previous")?), digest(row.get_ref("hash")?));
        Ok(match fields {
            (Some(raw), Some(previous), Some(stored)) => {
                Self::Whole { seq, computed: raw.hash(), stored, previous }
            }
            _ => Self::Unreadable { seq },
        })
    }
}

/// The fields of a row that are hashed, with `seq` as its number; nothing if one has the wrong type.
pub(super) fn raw<'r>(row: &'r Row<'_>, seq: i64) -> Result<Option<RawEvent<'r>>, Fault> {
    let ValueRef::Integer(unix_ns) = row.get_ref("unix_ns")? else {
        return Ok(None);
    };
    // A blob with the bytes of a text is another value, which no reader of the log would take.
    let text = |column| {
        row.get_ref(column).map(|value| if let ValueRef::Text(text) = value { Some(text) } else { None })
    };
    let previous = row.get_ref("previous")?.as_blob().ok();
    let fields = text("kind")?.zip(text("subject")?).zip(text("body")?).zip(previous);
    Ok(fields.map(|(((kind, subject), body), previous)| RawEvent {
        seq,
        unix_ns,
        kind,
        subject,
        body,
        previous,
    }))
}

/// A digest in a column; nothing if it is no blob of 32 bytes.
pub(super) fn digest(value: ValueRef<'_>) -> Option<Digest> {
    let ValueRef::Blob(bytes) = value else {
        return None;
    };
    bytes.try_into().ok().map(Digest::from_bytes)
}

/// Where the walk is.
struct Walk {
    kept: Option<Kept>,
    genesis: Digest,
    /// The number of the row met last; 0 before the first.
    last: u64,
    /// Its stored hash, when that could be read.
    last_hash: Option<Digest>,
    /// What the next row must name as its predecessor; nothing when that is not known.
    link: Option<Digest>,
    findings: Findings,
    suspects: Vec<Suspect>,
    /// Ranges of missing numbers, first and last.
    gaps: Vec<(u64, u64)>,
}

impl Walk {
    fn new(genesis: Digest, kept: Option<Kept>) -> Self {
        Self {
            kept,
            genesis,
            last: 0,
            last_hash: None,
            link: Some(genesis),
            findings: Findings::default(),
            suspects: Vec::new(),
            gaps: Vec::new(),
        }
    }

    fn meet(&mut self, met: &Met) {
        match *met {
            Met::Unnumbered { value } => self.findings.add(AuditFinding::Unnumbered { value }),
            Met::Unreadable { seq } => {
                self.arrive_at(seq);
                self.findings.add(AuditFinding::Unreadable { seq });
                (self.last_hash, self.link) = (None, None);
            }
            Met::Whole { seq, computed, stored, previous } => {
                self.arrive_at(seq);
                if computed == stored {
                    if self.link.is_some_and(|link| link != previous) {
                        self.findings.add(AuditFinding::Unlinked { seq });
                    }
                    self.link = Some(stored);
                } else {
                    self.suspect(Suspect { seq, stored });
                    // What the next row had as its predecessor is not known: one damage, one finding.
                    self.link = None;
                }
                self.last_hash = Some(stored);
                self.compare_kept_event(seq, stored);
            }
        }
    }

    fn arrive_at(&mut self, seq: u64) {
        let expected = self.last.saturating_add(1);
        if seq > expected {
            let (first, last) = (expected, seq - 1);
            self.findings.add(AuditFinding::Removed { first, last });
            if self.gaps.len() < AuditReport::MAX_FINDINGS {
                self.gaps.push((first, last));
            }
            self.link = None;
        } else if seq < expected {
            // Numbers are unique while the schema is ours; a table without its key may repeat them.
            self.findings.add(AuditFinding::Duplicated { seq, original: seq });
            self.link = None;
        }
        self.last = seq;
    }

    fn suspect(&mut self, suspect: Suspect) {
        if self.suspects.len() < AuditReport::MAX_FINDINGS {
            self.suspects.push(suspect);
        } else {
            self.findings.unlisted += 1;
        }
    }

    fn compare_kept_event(&mut self, seq: u64, stored: Digest) {
        if self.kept.is_some_and(|kept| kept.count == seq && kept.head != stored) {
            self.findings.add(AuditFinding::NotAsKept { seq });
        }
    }

    fn compare_with_head(&mut self, head: Option<(u64, Digest)>) {
        let Some((count, hash)) = head else {
            return self.findings.add(AuditFinding::HeadMissing);
        };
        let last = self.last;
        match last.cmp(&count) {
            std::cmp::Ordering::Less => {
                self.findings.add(AuditFinding::TailRemoved { first: last + 1, last: count });
            }
            std::cmp::Ordering::Greater => {
                self.findings.add(AuditFinding::BeyondHead { first: count + 1, last });
            }
            std::cmp::Ordering::Equal => {
                let newest = if last == 0 { Some(self.genesis) } else { self.last_hash };
                // A newest event that cannot be read is a finding already.
                if newest.is_some_and(|newest| newest != hash) {
                    self.findings.add(AuditFinding::HeadDiffers { seq: last });
                }
            }
        }
    }

    fn compare_with_kept(&mut self) {
        let Some(kept) = self.kept else {
            return;
        };
        if kept.count > self.last {
            self.findings.add(AuditFinding::ShorterThanKept { kept: kept.count, found: self.last });
        }
        if kept.count == 0 && kept.head != self.genesis {
            self.findings.add(AuditFinding::NotAsKept { seq: 0 });
        }
    }
}

/// What was found so far, bounded.
#[derive(Debug, Default)]
pub(super) struct Findings {
    listed: Vec<AuditFinding>,
    unlisted: u64,
}

impl Findings {
    pub(super) fn add(&mut self, finding: AuditFinding) {
        if self.listed.len() < AuditReport::MAX_FINDINGS {
            self.listed.push(finding);
        } else {
            self.unlisted += 1;
        }
    }

    fn report(mut self, count: u64, head: Digest) -> AuditReport {
        self.listed.sort_by_key(AuditFinding::seq);
        AuditReport { count, head, findings: self.listed, unlisted: self.unlisted }
    }
}
