//! What happened to a row that does not have its own hash: moved, copied, or changed.
//!
//! A hash covers the row's number. A row that was moved has its hash under the number it had, which is then the
//! number of a gap or of another suspect; a copy has it under the number of its original, which is still there
//! with the same hash. What fits neither was changed. The work is bounded; what lies beyond the bound is called
//! changed, which is true as well.

use super::finding::AuditFinding;
use super::verify::{Findings, digest, raw};
use crate::error::Fault;
use crate::event::Digest;
use crate::sql;
use rusqlite::Transaction;
use std::collections::HashMap;

/// A row without its own hash.
#[derive(Debug, Clone, Copy)]
pub(super) struct Suspect {
    pub(super) seq: u64,
    pub(super) stored: Digest,
}

/// So many numbers are tried for each of so many suspects: a quarter of a second at most.
const CANDIDATES: usize = 256;

/// Adds a finding for every suspect.
pub(super) fn name_suspects(
    transaction: &Transaction<'_>,
    suspects: &[Suspect],
    gaps: &[(u64, u64)],
    findings: &mut Findings,
) -> Result<(), Fault> {
    if suspects.is_empty() {
        return Ok(());
    }
    let twins = twins(transaction, suspects)?;
    let missing = gaps.iter().flat_map(|(first, last)| *first..=*last);
    let candidates: Vec<u64> = suspects.iter().map(|s| s.seq).chain(missing).take(CANDIDATES).collect();
    for (index, suspect) in suspects.iter().enumerate() {
        let seq = suspect.seq;
        let twin = twins.get(suspect.stored.as_bytes()).copied().filter(|twin| *twin != seq);
        let tried = if index < CANDIDATES { candidates.as_slice() } else { &[] };
        let original = match twin {
            Some(twin) if fits(transaction, suspect, &[twin])?.is_some() => Some(twin),
            Some(_) | None => None,
        };
        findings.add(match (original, fits(transaction, suspect, tried)?) {
            (Some(original), _) => AuditFinding::Duplicated { seq, original },
            (None, Some(belongs)) => AuditFinding::Moved { seq, belongs },
            (None, None) => AuditFinding::Changed { seq },
        });
    }
    Ok(())
}

/// The numbers of rows that are no suspects and have a suspect's hash.
fn twins(transaction: &Transaction<'_>, suspects: &[Suspect]) -> Result<HashMap<[u8; 32], u64>, Fault> {
    let wanted: HashMap<[u8; 32], u64> = suspects.iter().map(|s| (*s.stored.as_bytes(), s.seq)).collect();
    let suspected = |seq: u64| suspects.binary_search_by_key(&seq, |s| s.seq).is_ok();
    let mut found = HashMap::new();
    let mut statement = transaction.prepare_cached(sql::EVENT_HASHES_ALL)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let seq = row.get_ref("seq")?.as_i64().ok().and_then(|seq| u64::try_from(seq).ok());
        if let Some((seq, hash)) = seq.zip(digest(row.get_ref("hash")?)) {
            if wanted.contains_key(hash.as_bytes()) && !suspected(seq) {
                found.insert(*hash.as_bytes(), seq);
            }
        }
    }
    Ok(found)
}

/// The first of `numbers` under which the suspect's contents have its hash.
fn fits(transaction: &Transaction<'_>, suspect: &Suspect, numbers: &[u64]) -> Result<Option<u64>, Fault> {
    let Ok(stands_at) = i64::try_from(suspect.seq) else {
        return Ok(None);
    };
    let mut statement = transaction.prepare_cached(sql::EVENT)?;
    let mut rows = statement.query([stands_at])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    for &number in numbers {
        let Some(event) = i64::try_from(number).ok().map(|seq| raw(row, seq)).transpose()?.flatten() else {
            continue;
        };
        if event.hash() == suspect.stored {
            return Ok(Some(number));
        }
    }
    Ok(None)
}
