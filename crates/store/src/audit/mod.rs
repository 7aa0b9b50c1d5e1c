//! The audit log: what happened, in a chain of hashes that shows when somebody changed it.
//!
//! ```text
//!   genesis = H(store id)        hash(n) = H(seq, unix_ns, kind, subject, body, hash(n-1))
//!
//!   events:   1 ◄── 2 ◄── 3 ◄── … ◄── n          audit_head: (n, hash(n))
//! ```
//!
//! Every write of the store appends its event and moves the head in the same transaction. The head stands in a
//! table of its own, so that a lost tail shows.
//!
//! What this cannot do: whoever may write the file may also compute the whole chain and the head anew. Only a
//! count and a hash that were kept elsewhere ([`crate::Store::audit_verify_since`]) show that.

pub(crate) mod chain;
mod classify;
pub(crate) mod finding;
mod verify;
