//! The birth of a database: built beside its place, synced, and moved into it whole.
//!
//! ```text
//!   sweep older attempts ─► build .NAME.new-ID ─► sync ─► rename, unless the name is taken ─► sync directory
//! ```
//!
//! So there is never half a store, an empty file is never taken for a new one, and of processes that create at
//! the same time one arrives and the others find its store. An attempt that was killed is swept by a later one,
//! once it is so old that nobody can be working on it; should somebody be after all (a stopped process), that one
//! finds its file gone and starts again.

use crate::connection::failed_on;
use crate::error::{Fault, StoreError};
use crate::{place, schema};
use outlast_model::StoreId;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{CWD, RenameFlags};
use rustix::rand::GetRandomFlags;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// To be swept away in the middle of it is rare; twice in a row does not happen.
const ATTEMPTS: u32 = 3;

/// An attempt takes milliseconds; after this many it was given up.
const GIVEN_UP_MS: u64 = 60_000;

/// Puts a new database at `path`, unless there is one by then.
pub(crate) fn create(path: &Path, migrations: &[&str]) -> Result<(), StoreError> {
    for _ in 0..ATTEMPTS {
        match attempt(path, migrations)? {
            Published::Yes | Published::PlaceTaken => return Ok(()),
            Published::Swept => {}
        }
    }
    Err(StoreError::Create { path: path.to_owned(), source: ErrorKind::ResourceBusy.into() })
}

enum Published {
    Yes,
    PlaceTaken,
    Swept,
}

fn attempt(path: &Path, migrations: &[&str]) -> Result<Published, StoreError> {
    let failed = |source| StoreError::Create { path: path.to_owned(), source };
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(StoreError::BadPath { path: path.to_owned() });
    };
    if path.exists() {
        return Ok(Published::PlaceTaken);
    }
    let prefix = format!(".{}.new-", name.to_string_lossy());
    let id = new_id().map_err(failed)?;
    sweep(directory, &prefix, id.unix_ms()).map_err(failed)?;
    let beside = directory.join(format!("{prefix}{id}"));
    make_empty(&beside).map_err(failed)?;
    let built = build(&beside, id, migrations);
    match built.and_then(|()| publish(&beside, path).map_err(failed)) {
        Ok(Published::Yes) => Ok(Published::Yes),
        Ok(other @ (Published::PlaceTaken | Published::Swept)) => {
            remove_attempt(&beside).map_err(failed)?;
            Ok(other)
        }
        Err(error) => {
            let swept = !beside.exists();
            // The first failure is the one worth telling; what is left here is swept by the next attempt.
            let _ = remove_attempt(&beside);
            // Whatever failed on a file that somebody swept away is no failure of ours.
            if swept { Ok(Published::Swept) } else { Err(error) }
        }
    }
}

fn publish(beside: &Path, path: &Path) -> io::Result<Published> {
    match rustix::fs::renameat_with(CWD, beside, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => {
            if let Some(directory) = path.parent() {
                place::sync_directory(directory)?;
            }
            Ok(Published::Yes)
        }
        Err(rustix::io::Errno::EXIST) => Ok(Published::PlaceTaken),
        Err(rustix::io::Errno::NOENT) => Ok(Published::Swept),
        Err(errno) => Err(errno.into()),
    }
}

fn make_empty(beside: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside)?;
    // The umask may have taken bits from the mode. What SQLite makes beside a file gets the file's mode.
    file.set_permissions(Permissions::from_mode(0o600))
}

fn build(beside: &Path, id: StoreId, migrations: &[&str]) -> Result<(), StoreError> {
    fill(beside, id, migrations).map_err(|fault| failed_on(beside, "create the store", fault))?;
    // SQLite did not sync anything: one sync of the whole file is enough before it gets its name.
    let synced = File::open(beside).and_then(|file| file.sync_all());
    synced.map_err(|source| StoreError::Create { path: beside.to_owned(), source })
}

fn fill(beside: &Path, id: StoreId, migrations: &[&str]) -> Result<(), Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(beside, flags)?;
    connection.execute_batch("PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF;")?;
    schema::found(&connection, id, migrations)?;
    connection.execute_batch("PRAGMA journal_mode = WAL;")?;
    // Order matters: closing removes the log and its index, so that the one file is the whole database.
    connection.close().map_err(|(_, error)| error)?;
    Ok(())
}

fn sweep(directory: &Path, prefix: &str, now_ms: u64) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().and_then(|name| begun_ms(name, prefix)).is_some_and(|ms| ms + GIVEN_UP_MS < now_ms) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// When the attempt a file belongs to was begun; nothing for files of other names.
fn begun_ms(name: &str, prefix: &str) -> Option<u64> {
    let rest = name.strip_prefix(prefix)?;
    // SQLite's companions have something behind the id.
    let id = rest.split('-').next()?;
    id.parse::<StoreId>().ok().map(StoreId::unix_ms)
}

fn remove_attempt(beside: &Path) -> io::Result<()> {
    place::companions(beside).iter().map(PathBuf::as_path).chain([beside]).try_for_each(remove)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn new_id() -> io::Result<StoreId> {
    let mut random = [0; 16];
    let filled = rustix::rand::getrandom(&mut random, GetRandomFlags::empty())?;
    // getrandom(2) returns as many bytes as were asked for, up to 256.
    if filled < random.len() {
        return Err(io::Error::from(ErrorKind::UnexpectedEof));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
    let ms = u64::try_from(now.as_millis()).map_err(io::Error::other)?;
    Ok(StoreId::from_parts(ms, u128::from_ne_bytes(random)))
}
