//! The database's place on disk: its directory, its owner, its modes. Nothing here opens the database.
//!
//! Order matters: no file of an existing database is ever opened by us. Closing any descriptor of a file drops
//! all POSIX locks this process has on it, SQLite's included (sqlite.org/howtocorrupt.html, section 2.2); paths
//! are examined and modes changed by name instead.

use crate::error::StoreError;
use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

const PRIVATE_DIRECTORY: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;
const OTHERS_MAY_WRITE: u32 = 0o022;
const PERMISSION_BITS: u32 = 0o7777;

/// What stands at a database's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nothing, in a directory that is private.
    Empty(PathBuf),
    /// A private file of ours.
    Taken(PathBuf),
}

/// Makes the directory if need be, checks it and what stands in it, and tightens modes that are too wide.
/// The path that is returned holds no symbolic link.
pub(crate) fn prepare(database: &Path) -> Result<Place, StoreError> {
    let bad = || StoreError::BadPath { path: database.to_owned() };
    let name = database.file_name().ok_or_else(bad)?;
    let directory = match database.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    make_directories(directory)?;
    let directory = directory.canonicalize().map_err(|e| examine(directory, e))?;
    check_directory(&directory)?;
    check_files(directory.join(name))
}

/// Writes a directory's entries to disk: a file that was made is only there for good after this.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// The database's log and its index, which SQLite keeps beside it.
pub(crate) fn companions(database: &Path) -> [PathBuf; 2] {
    ["-wal", "-shm"].map(|suffix| {
        let mut name = database.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    })
}

fn make_directories(directory: &Path) -> Result<(), StoreError> {
    let absent: Vec<&Path> = directory.ancestors().take_while(|path| is_absent(path)).collect();
    absent.into_iter().rev().try_for_each(make_directory)
}

fn is_absent(path: &Path) -> bool {
    !path.as_os_str().is_empty() && matches!(fs::metadata(path), Err(e) if e.kind() == ErrorKind::NotFound)
}

fn make_directory(path: &Path) -> Result<(), StoreError> {
    let failed = |source| StoreError::MakeDirectory { path: path.to_owned(), source };
    match DirBuilder::new().mode(PRIVATE_DIRECTORY).create(path) {
        // The umask may have taken bits from the mode; the directory must be usable whatever it is.
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(PRIVATE_DIRECTORY)).map_err(failed)?,
        Err(e) if e.kind() == ErrorKind::AlreadyExists => return Ok(()),
        Err(e) => return Err(failed(e)),
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync_directory(parent).map_err(failed)
}

fn check_directory(directory: &Path) -> Result<(), StoreError> {
    let found = fs::metadata(directory).map_err(|e| examine(directory, e))?;
    let private = found.uid() == our_uid() && found.mode() & OTHERS_MAY_WRITE == 0;
    if !found.is_dir() || !private {
        return Err(StoreError::NotPrivate {
            path: directory.to_owned(),
            owner: found.uid(),
            mode: found.mode() & PERMISSION_BITS,
        });
    }
    Ok(())
}

fn check_files(database: PathBuf) -> Result<Place, StoreError> {
    let [log, index] = companions(&database);
    // Order matters: the log is looked at first. It is made after the database, so a log that is there now
    // without a database a moment later has lost it, and was not just made by another process.
    let has_log = check_file(&log)?;
    check_file(&index)?;
    match (check_file(&database)?, has_log) {
        (true, _) => Ok(Place::Taken(database)),
        (false, false) => Ok(Place::Empty(database)),
        (false, true) => Err(StoreError::OnlyTheLog { path: database, log }),
    }
}

/// Whether the file exists; its mode is private afterwards.
fn check_file(path: &Path) -> Result<bool, StoreError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(examine(path, e)),
    };
    if !found.is_file() || found.uid() != our_uid() {
        return Err(StoreError::NotOurFile { path: path.to_owned(), expected_owner: our_uid() });
    }
    if is_too_open(&found) {
        tracing::warn!(path = %path.display(), mode = found.mode() & PERMISSION_BITS, "tightening the mode of a file others could reach");
        fs::set_permissions(path, Permissions::from_mode(PRIVATE_FILE)).map_err(|e| examine(path, e))?;
    }
    Ok(true)
}

fn is_too_open(found: &Metadata) -> bool {
    found.mode() & PERMISSION_BITS & !PRIVATE_FILE != 0
}

fn our_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn examine(path: &Path, source: io::Error) -> StoreError {
    StoreError::Examine { path: path.to_owned(), source }
}
