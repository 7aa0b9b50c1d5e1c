//! One connection: opened, configured, and waiting its turn. Nothing here knows a table.

use crate::error::{Fault, StoreError};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long an operation waits for others to let go of the write lock.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The log is moved into the database at this many pages of 4 KiB. The first to open after everybody left reads
/// the whole log: SQLite's own 1000 pages cost 1.5 ms of each short command, these 0.4 ms, and the price is one
/// checkpoint every eight runs instead of every thirty, 5 % of a run's four commits.
const LOG_PAGES: u32 = 256;

/// The log is cut back to this once it was longer (readers that stay long make it grow).
const LOG_BYTES: u64 = 8 * 1024 * 1024;

/// Waits between two looks at the lock.
const SHORTEST_WAIT: Duration = Duration::from_micros(200);
const LONGEST_WAIT: Duration = Duration::from_millis(4);

/// Prepared statements kept; more than there are in `sql`.
const STATEMENTS: usize = 64;

/// Opens the existing database at `path`, which must hold no symbolic link.
pub(crate) fn open(path: &Path) -> Result<Connection, Fault> {
    // Without CREATE a file that vanished is an error, never a new and empty store.
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.busy_handler(Some(wait_a_little))?;
    // Whoever closes last would move the whole log into the database: seconds of a short command's life.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // What stands in the schema of a damaged or hostile file is not executed.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true)?;
    Ok(connection)
}

/// Settles what holds for every transaction, once the database is known to be ours.
pub(crate) fn settle(connection: &Connection) -> Result<(), Fault> {
    connection.execute_batch(
        "PRAGMA synchronous = FULL;
         PRAGMA cell_size_check = ON;
         PRAGMA temp_store = MEMORY;",
    )?;
    let _: i64 =
        connection.query_row(&format!("PRAGMA wal_autocheckpoint = {LOG_PAGES}"), [], |r| r.get(0))?;
    let _: i64 =
        connection.query_row(&format!("PRAGMA journal_size_limit = {LOG_BYTES}"), [], |r| r.get(0))?;
    // The mode is a property of the file. Only a copy made by other means (VACUUM INTO, .backup) lacks it.
    let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    if mode != "wal" {
        let _: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    }
    Ok(())
}

/// Names the operation and the file a failure belongs to.
pub(crate) fn failed_on(path: &Path, operation: &'static str, fault: Fault) -> StoreError {
    match fault {
        Fault::Sql(source) => StoreError::sql(operation, path, source),
        Fault::Store(error) => error,
    }
}

thread_local! {
    static WAITING_SINCE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// SQLite's busy handler: whether to try again, after a short wait.
///
/// A lock of SQLite's tells nobody when it is released, so there is no event to wait for. SQLite's own handler
/// sleeps ever longer, up to 100 ms, and so starves whoever has waited longest (measured with 20 processes
/// writing without a pause: the four commits of a run took up to 7 s, against 0.7 s here). Commits take under a millisecond, so
/// everybody asks again soon, each after a slightly different time.
fn wait_a_little(attempt: i32) -> bool {
    let now = Instant::now();
    let since = WAITING_SINCE.get().filter(|_| attempt > 0).unwrap_or(now);
    WAITING_SINCE.set(Some(since));
    let pause = pause_before(attempt, now.duration_since(since), jitter());
    if let Some(pause) = pause {
        std::thread::sleep(pause);
    }
    pause.is_some()
}

/// How long to wait before the next attempt, or nothing when enough was waited.
fn pause_before(attempt: i32, waited: Duration, jitter: f64) -> Option<Duration> {
    if waited >= BUSY_TIMEOUT {
        return None;
    }
    let attempts = u32::try_from(attempt).unwrap_or(0).saturating_add(1);
    let longest = SHORTEST_WAIT.saturating_mul(attempts).min(LONGEST_WAIT);
    Some(longest / 2 + longest.mul_f64(jitter / 2.0))
}

/// Zero to one. The clock's last digits are random enough to keep two waiters from asking in step.
fn jitter() -> f64 {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    f64::from(clock.subsec_nanos() % 1024) / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Before this version, writers and checkpoints of several processes could lose a commit
    /// (sqlite.org/wal.html#walresetbug).
    #[test]
    fn sqlite_is_new_enough_for_many_processes() {
        assert!(rusqlite::version_number() >= 3_051_003, "{}", rusqlite::version());
    }

    proptest! {
        #[test]
        fn pauses_are_short_and_end(attempt: i32, waited_ms in 0u64..20_000, jitter in 0.0f64..1.0) {
            let waited = Duration::from_millis(waited_ms);
            match pause_before(attempt, waited, jitter) {
                Some(pause) => {
                    prop_assert!(waited < BUSY_TIMEOUT);
                    prop_assert!(pause >= SHORTEST_WAIT / 2 && pause <= LONGEST_WAIT);
                }
                None => prop_assert!(waited >= BUSY_TIMEOUT),
            }
        }
    }

    #[test]
    fn jitter_is_a_fraction() {
        assert!((0.0..1.0).contains(&jitter()));
    }
}
