//! The schema: a list of forward migrations, and the marks in the header that say whose file it is.
//!
//! ```text
//!   header:  application_id = "OUTL"      user_version = number of migrations applied
//! ```
//!
//! A runner outlives an upgrade of outlast, with the statements it was built with. So a migration only adds
//! (tables, indexes, columns with a default), and what a newer outlast needs to know about rows written by an
//! older runner must follow from their absence. A database that is newer than the list is refused.

use crate::error::{Fault, StoreError};
use outlast_model::StoreId;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use std::path::Path;

/// "OUTL", in the header field that file(1) and others know a database's owner by.
pub(crate) const APPLICATION_ID: i32 = 0x4f55_544c;

/// Everything that ever happened to the schema, in order. Entries are never changed, only added.
pub(crate) const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/0001-runs.sql"),
    include_str!("../migrations/0002-vms.sql"),
    include_str!("../migrations/0003-kept-disks.sql"),
    include_str!("../migrations/0004-restored-disks.sql"),
];

/// The version a list of migrations leads to.
pub(crate) fn version_of(migrations: &[&str]) -> i64 {
    i64::try_from(migrations.len()).expect("the list of migrations is short")
}

/// Makes the schema and its first rows in an empty database.
pub(crate) fn found(connection: &Connection, id: StoreId, migrations: &[&str]) -> Result<(), Fault> {
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    apply(&transaction, 0, migrations)?;
    transaction.execute("INSERT INTO meta (name, value) VALUES ('store', ?1)", [id.to_string()])?;
    let genesis = crate::audit::chain::genesis(id);
    transaction
        .execute("INSERT INTO audit_head (one, count, head) VALUES (1, 0, ?1)", [genesis.as_bytes()])?;
    transaction.commit()?;
    Ok(())
}

/// Refuses what is not ours or newer than we are, and brings what is older up to date.
pub(crate) fn admit(connection: &Connection, path: &Path, migrations: &[&str]) -> Result<(), Fault> {
    let (application, version) = marks(connection)?;
    if application != APPLICATION_ID {
        return Err(StoreError::NotAStore { path: path.to_owned(), found: application }.into());
    }
    let known = version_of(migrations);
    if version < known { migrate(connection, path, migrations) } else { not_newer(path, version, known) }
}

/// Applies what is missing in one transaction. Others may do so at the same time: the version is read again
/// under the write lock.
fn migrate(connection: &Connection, path: &Path, migrations: &[&str]) -> Result<(), Fault> {
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    let (_, version) = marks(&transaction)?;
    not_newer(path, version, version_of(migrations))?;
    apply(&transaction, version, migrations)?;
    transaction.commit()?;
    Ok(())
}

fn apply(transaction: &Transaction<'_>, version: i64, migrations: &[&str]) -> Result<(), Fault> {
    let done = usize::try_from(version).unwrap_or(0);
    for migration in migrations.iter().skip(done) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", version_of(migrations))?;
    Ok(())
}

fn not_newer(path: &Path, found: i64, known: i64) -> Result<(), Fault> {
    if found > known {
        return Err(StoreError::Newer { path: path.to_owned(), found, known }.into());
    }
    Ok(())
}

fn marks(connection: &Connection) -> Result<(i32, i64), Fault> {
    let application = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let version = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    Ok((application, version))
}
