//! What can go wrong in the store, as values: what was being done, to which file or row, and why.
//!
//! SQLite's own codes are sorted here, once, so that nobody else reads them.

use outlast_model::incarnation::IllegalIncarnationStep;
use outlast_model::step::UnknownStep;
use outlast_model::vm::IllegalVmStep;
use outlast_model::workload::IllegalTransition;
use outlast_model::{IncarnationId, IncarnationState, VmId, WorkloadId};
use outlast_wire::identity::ProcessIdentity;
use outlast_wire::record::BadRecord;
use rusqlite::ErrorCode;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// An operation on the store failed. Unless a variant says otherwise, nothing was written.
#[derive(Debug, Error)]
pub enum StoreError {
    // The place.
    /// The database's path has no file name, or no directory to put it in.
    #[error("{} cannot name a database", path.display())]
    BadPath {
        /// The path.
        path: PathBuf,
    },
    /// A directory could not be made.
    #[error("cannot make the directory {}", path.display())]
    MakeDirectory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A path could not be looked at, or its mode not be set.
    #[error("cannot examine {}", path.display())]
    Examine {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory belongs to somebody else, or others may write to it: they could swap the database.
    #[error("{} is not private: owner {owner}, mode {mode:04o}", path.display())]
    NotPrivate {
        /// The directory.
        path: PathBuf,
        /// Its owner's uid.
        owner: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// What stands in the database's place is not a regular file of ours.
    #[error("{} is not a regular file owned by uid {expected_owner}", path.display())]
    NotOurFile {
        /// The path.
        path: PathBuf,
        /// Who would have to own it.
        expected_owner: u32,
    },
    /// The database is gone, but its log is still there; a new database would be damaged by it.
    #[error("{} is gone, but its log {} is not", path.display(), log.display())]
    OnlyTheLog {
        /// The database.
        path: PathBuf,
        /// Its log.
        log: PathBuf,
    },
    /// A new database could not be put in its place.
    #[error("cannot create {}", path.display())]
    Create {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    // The database.
    /// The file is no SQLite database, or its header is destroyed. It was left as it is.
    #[error("{} is not a database", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// The file is a database, but not one of outlast's. It was left as it is.
    #[error("{} is not a store of outlast (application id {found:#010x})", path.display())]
    NotAStore {
        /// The file.
        path: PathBuf,
        /// The application id in its header.
        found: i32,
    },
    /// A newer outlast has written this store. It was left as it is.
    #[error("{} has schema version {found}, this outlast knows versions up to {known}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// The database is damaged.
    #[error("cannot {operation}: {} is damaged", path.display())]
    Damaged {
        /// What was being done.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// Others held the write lock for longer than [`crate::BUSY_TIMEOUT`].
    #[error("cannot {operation}: {} stayed locked", path.display())]
    Busy {
        /// What was being done.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// There is no space left.
    #[error("cannot {operation}: no space left for {}", path.display())]
    Full {
        /// What was being done.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The file or its directory cannot be written, or not be opened at all.
    #[error("cannot {operation}: {} cannot be opened for writing", path.display())]
    NotWritable {
        /// What was being done.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// Reading or writing failed below SQLite. Whether a commit took effect is not known.
    #[error("cannot {operation}: input or output on {} failed", path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// SQLite refused for another reason, which is a defect of this crate.
    #[error("cannot {operation} in {}", path.display())]
    Sql {
        /// What was being done.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A row holds what cannot be.
    #[error("the {column} of {row} cannot be read: {problem}")]
    BadRow {
        /// Which row, by kind and id.
        row: String,
        /// Which column.
        column: &'static str,
        /// What is wrong with it.
        problem: String,
    },

    /// The audit log holds an event its head does not know of; nothing is written on top of that.
    #[error("the audit log and its head disagree about event {seq}")]
    AuditBroken {
        /// The event that was to be written.
        seq: u64,
    },

    // Requests.
    /// A number is larger than the database can hold.
    #[error("{what} {value} is too large to be stored")]
    NumberTooLarge {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// A record could not be written as JSON.
    #[error("cannot write {what} as JSON")]
    Encode {
        /// Which record.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// An idempotency key is empty or too long.
    #[error("an idempotency key has 1 to {limit} bytes, not {length}")]
    IdempotencyKey {
        /// Its length in bytes.
        length: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// The intent is not for what it was handed in as.
    #[error("the intent of incarnation {id} has another purpose than its row")]
    IntentMismatch {
        /// The incarnation.
        id: IncarnationId,
    },
    /// The id of a new row is taken.
    #[error("{row} exists already")]
    Exists {
        /// Which row, by kind and id.
        row: String,
    },
    /// There is no such incarnation.
    #[error("there is no incarnation {id}")]
    NoIncarnation {
        /// The id.
        id: IncarnationId,
    },
    /// There is no such workload.
    #[error("there is no workload {id}")]
    NoWorkload {
        /// The id.
        id: WorkloadId,
    },
    /// There is no such VM.
    #[error("there is no VM {id}")]
    NoVm {
        /// The id.
        id: VmId,
    },
    /// The name of a new VM is taken.
    #[error("there is a VM '{name}' already")]
    VmExists {
        /// The name.
        name: String,
    },
    /// The VM was removed.
    #[error("VM '{name}' was removed")]
    VmRemoved {
        /// The name that it had.
        name: String,
    },
    /// Somebody asked for the VM's removal, so it is not started again.
    #[error("VM '{name}' is being removed")]
    VmBeingRemoved {
        /// Its name.
        name: String,
    },
    /// A removal was to be finished that nobody asked for.
    #[error("nobody asked for the removal of VM '{name}'")]
    RemovalNotAsked {
        /// Its name.
        name: String,
    },
    /// What is said of VMs was said of another incarnation.
    #[error("incarnation {id} is none of a VM's")]
    NotAVms {
        /// The incarnation.
        id: IncarnationId,
    },
    /// The life cycle of VMs has no such edge.
    #[error("VM '{name}'")]
    IllegalVm {
        /// Its name.
        name: String,
        /// Which edge.
        source: IllegalVmStep,
    },
    /// A VM's incarnation that was never published, and that nobody wanted ended, was to end without a word about how
    /// far it came.
    #[error("incarnation {id} never ran, and the step that failed is missing")]
    FailedStartMissing {
        /// The incarnation.
        id: IncarnationId,
    },
    /// A failed start was told of an incarnation that is no VM's, or had started.
    #[error("incarnation {id} is not a VM's start that failed")]
    FailedStartUnexpected {
        /// The incarnation.
        id: IncarnationId,
    },
    /// A failed start names a step that there is not.
    #[error("the failed start of incarnation {id}")]
    BadFailedStart {
        /// The incarnation.
        id: IncarnationId,
        /// What is wrong with it.
        source: UnknownStep,
    },
    /// A shortened id is too short, or holds something that is in no id.
    #[error("'{prefix}' is not the beginning of an id (at least {least} letters and digits)")]
    BadPrefix {
        /// What was given.
        prefix: String,
        /// The least length.
        least: usize,
    },
    /// The row belongs to somebody else, or is no longer what the caller believed: it is over for the caller.
    #[error("incarnation {id} is {} and not this caller's to change", state.name())]
    NotOwner {
        /// The incarnation.
        id: IncarnationId,
        /// The state it is in.
        state: IncarnationState,
        /// The runner that owns it.
        runner: Option<ProcessIdentity>,
    },
    /// The life cycle of incarnations has no such edge.
    #[error("incarnation {id}")]
    IllegalIncarnation {
        /// The incarnation.
        id: IncarnationId,
        /// Which edge.
        source: IllegalIncarnationStep,
    },
    /// The life cycle of workloads has no such edge.
    #[error("workload {id}")]
    IllegalWorkload {
        /// The workload.
        id: WorkloadId,
        /// Which edge.
        source: IllegalTransition,
    },
    /// The outcome in an end record says nothing that can be.
    #[error("the outcome of incarnation {id}")]
    BadOutcome {
        /// The incarnation.
        id: IncarnationId,
        /// What is wrong with it.
        source: BadRecord,
    },
    /// A workload's incarnation was to end without an outcome.
    #[error("incarnation {id} runs workload {workload}, whose outcome is missing")]
    OutcomeMissing {
        /// The incarnation.
        id: IncarnationId,
        /// The workload.
        workload: WorkloadId,
    },
    /// An outcome was given for an incarnation that runs no workload.
    #[error("incarnation {id} runs no workload and can have no outcome")]
    OutcomeUnexpected {
        /// The incarnation.
        id: IncarnationId,
    },
}

/// A runner could not claim its incarnation.
#[derive(Debug, Error)]
pub enum ClaimError {
    /// It is no longer merely intended: somebody claimed it, or it is over. The caller leaves without any effect.
    #[error("incarnation {id} is {} already", state.name())]
    Taken {
        /// The incarnation.
        id: IncarnationId,
        /// The state it is in.
        state: IncarnationState,
        /// Who claimed it.
        runner: Option<ProcessIdentity>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl StoreError {
    /// Sorts what SQLite said while `operation` was done to the database at `path`.
    pub(crate) fn sql(operation: &'static str, path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => Self::NotADatabase { path },
            Some(ErrorCode::DatabaseCorrupt) => Self::Damaged { operation, path, source },
            Some(
                ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed,
            ) => Self::Busy { operation, path, source },
            Some(ErrorCode::DiskFull) => Self::Full { operation, path, source },
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                Self::NotWritable { operation, path, source }
            }
            Some(ErrorCode::SystemIoFailure) => Self::Io { operation, path, source },
            // `ErrorCode` may grow with SQLite; what is not sorted above is for a developer to read.
            Some(_) | None => Self::Sql { operation, path, source },
        }
    }
}

/// What goes wrong inside a transaction, before it is known which operation it belongs to.
#[derive(Debug)]
pub(crate) enum Fault {
    /// SQLite said so.
    Sql(rusqlite::Error),
    /// We say so.
    Store(StoreError),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::ffi;

    #[test]
    fn what_sqlite_says_is_sorted() {
        let sorted = |code| {
            let source = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            StoreError::sql("test", Path::new("/db"), source)
        };
        assert!(matches!(sorted(ffi::SQLITE_NOTADB), StoreError::NotADatabase { .. }));
        assert!(matches!(sorted(ffi::SQLITE_CORRUPT_INDEX), StoreError::Damaged { .. }));
        for code in [ffi::SQLITE_BUSY, ffi::SQLITE_BUSY_RECOVERY, ffi::SQLITE_LOCKED, ffi::SQLITE_PROTOCOL] {
            assert!(matches!(sorted(code), StoreError::Busy { .. }), "{code}");
        }
        assert!(matches!(sorted(ffi::SQLITE_FULL), StoreError::Full { .. }));
        for code in [ffi::SQLITE_READONLY_DIRECTORY, ffi::SQLITE_CANTOPEN, ffi::SQLITE_PERM] {
            assert!(matches!(sorted(code), StoreError::NotWritable { .. }), "{code}");
        }
        assert!(matches!(sorted(ffi::SQLITE_IOERR_FSYNC), StoreError::Io { .. }));
        assert!(matches!(sorted(ffi::SQLITE_MISUSE), StoreError::Sql { .. }));
    }

    #[test]
    fn an_error_names_the_operation_and_the_file() {
        let source = rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_FULL), None);
        let text = StoreError::sql("accept a workload", Path::new("/home/db"), source).to_string();
        assert_eq!(text, "cannot accept a workload: no space left for /home/db");
    }
}
