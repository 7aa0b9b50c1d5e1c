//! Hashing events, and appending them.

use crate::decode::{Columns, encoded, stored};
use crate::error::{Fault, StoreError};
use crate::event::{Digest, EventKind, Subject};
use crate::sql;
use outlast_model::StoreId;
use rusqlite::{ErrorCode, Transaction, params};
use sha2::{Digest as _, Sha256};

/// Tell these hashes apart from any other use of SHA-256, and from later ways of hashing.
const GENESIS: &[u8] = b"outlast audit genesis 1";
const EVENT: &[u8] = b"outlast audit event 1";

/// An event that is to be appended.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) unix_ns: u64,
    pub(crate) kind: EventKind,
    pub(crate) subject: Subject,
    pub(crate) body: serde_json::Value,
}

/// An event's fields as they stand in the table, unread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawEvent<'a> {
    pub(crate) seq: i64,
    pub(crate) unix_ns: i64,
    pub(crate) kind: &'a [u8],
    pub(crate) subject: &'a [u8],
    pub(crate) body: &'a [u8],
    pub(crate) previous: &'a [u8],
}

impl RawEvent<'_> {
    pub(crate) fn hash(&self) -> Digest {
        let Self { seq, unix_ns, kind, subject, body, previous } = *self;
        hash_of(&[EVENT, &seq.to_be_bytes(), &unix_ns.to_be_bytes(), kind, subject, body, previous])
    }
}

/// What the first event of a store follows. It depends on the store, so that no event of one store fits another.
pub(crate) fn genesis(store: StoreId) -> Digest {
    hash_of(&[GENESIS, store.to_string().as_bytes()])
}

/// Each field is preceded by its length: two different lists of fields never hash the same bytes.
fn hash_of(fields: &[&[u8]]) -> Digest {
    let mut hasher = Sha256::new();
    for field in fields {
        let length = u64::try_from(field.len()).expect("a length in memory fits 64 bits");
        hasher.update(length.to_be_bytes());
        hasher.update(field);
    }
    Digest::from_bytes(hasher.finalize().into())
}

/// Appends an event and moves the head, in the caller's transaction.
pub(crate) fn append(transaction: &Transaction<'_>, store: StoreId, entry: &Entry) -> Result<(), Fault> {
    let (count, head) = read_head(transaction, store)?;
    let seq = count.checked_add(1).ok_or(StoreError::AuditBroken { seq: u64::MAX })?;
    let unix_ns = stored("the time", entry.unix_ns)?;
    let (kind, subject) = (entry.kind.name(), entry.subject.to_string());
    let body = encoded("an event", &entry.body)?;
    let hash = RawEvent {
        seq,
        unix_ns,
        kind: kind.as_bytes(),
        subject: subject.as_bytes(),
        body: body.as_bytes(),
        previous: head.as_bytes(),
    }
    .hash();
    let values = params![seq, unix_ns, kind, subject, body, head.as_bytes(), hash.as_bytes()];
    let inserted = transaction.prepare_cached(sql::INSERT_EVENT)?.execute(values);
    let broken = || Fault::from(StoreError::AuditBroken { seq: u64::try_from(seq).unwrap_or(0) });
    match inserted {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
            return Err(broken());
        }
        inserted => inserted?,
    };
    let moved = transaction.prepare_cached(sql::MOVE_HEAD)?.execute(params![seq, hash.as_bytes()])?;
    if moved == 1 { Ok(()) } else { Err(broken()) }
}

fn read_head(transaction: &Transaction<'_>, store: StoreId) -> Result<(i64, Digest), Fault> {
    let mut statement = transaction.prepare_cached(sql::AUDIT_HEAD)?;
    let mut rows = statement.query([])?;
    let missing = || StoreError::BadRow {
        row: format!("the audit head of store {store}"),
        column: "head",
        problem: "it is missing".to_owned(),
    };
    let row = rows.next()?.ok_or_else(missing)?;
    let columns = Columns::new(row, "audit head", "count");
    Ok((columns.get("count")?, columns.digest("head")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hash(kind: &[u8], subject: &[u8], body: &[u8]) -> Digest {
        RawEvent { seq: 1, unix_ns: 2, kind, subject, body, previous: &[0; 32] }.hash()
    }

    /// The encoding is part of every store there is: if this test must be changed, so must `EVENT`.
    #[test]
    fn the_hash_is_what_it_always_was() {
        // Computed by another program from the description in this file.
        let expected = "df6c8ec93f5fd72c8b022ed213393e3241d08a621ef9d44dba7c6bc149485100";
        assert_eq!(hash(b"k", b"s", b"{}").to_string(), expected);
    }

    #[test]
    fn stores_begin_differently() {
        assert_ne!(genesis(StoreId::from_parts(1, 1)), genesis(StoreId::from_parts(1, 2)));
    }

    proptest! {
        #[test]
        fn moving_bytes_between_fields_changes_the_hash(text in prop::collection::vec(any::<u8>(), 1..40), a in 0usize..40, b in 0usize..40) {
            let (a, b) = (a % (text.len() + 1), b % (text.len() + 1));
            prop_assume!(a != b);
            prop_assert_ne!(hash(&text[..a], &text[a..], b""), hash(&text[..b], &text[b..], b""));
        }
    }
}
