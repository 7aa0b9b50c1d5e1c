//! placeholder
mod archive;
mod clock;
mod reconcile { mod judgement; }
pub use archive::{Archive, ArchiveError};
