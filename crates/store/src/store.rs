//! The store itself: opening it, and the two ways through which everything else passes, a write and a read.

use crate::connection::{self, failed_on};
use crate::error::{Fault, StoreError};
use crate::place::{self, Place};
use crate::{create, schema, sql};
use outlast_model::StoreId;
use rusqlite::{Connection, Params, Row, Transaction, TransactionBehavior};
use std::fmt;
use std::path::{Path, PathBuf};

/// An open store. One per process, or per thread: every operation blocks, for up to
/// [`crate::BUSY_TIMEOUT`] when others write, and a write returns once it is on disk.
///
/// An operation that returned an error wrote nothing, except that after [`StoreError::Io`] it is not known.
pub struct Store {
    connection: Connection,
    id: StoreId,
    path: PathBuf,
}

impl fmt::Debug for Store {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Store").field("id", &self.id).field("path", &self.path).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store at `database`, making it and its directory if there is nothing, and bringing an older
    /// schema up to date. Directory 0700, files 0600, whatever the umask.
    ///
    /// # Errors
    /// Everything that is not a store of ours, or is newer, damaged, reachable for others or not writable, is
    /// refused by name and left as it is.
    pub fn open(database: &Path) -> Result<Self, StoreError> {
        Self::open_with(database, schema::MIGRATIONS)
    }

    pub(crate) fn open_with(database: &Path, migrations: &[&str]) -> Result<Self, StoreError> {
        let path = match place::prepare(database)? {
            Place::Taken(path) => path,
            Place::Empty(path) => {
                create::create(&path, migrations)?;
                path
            }
        };
        let opened = Self::connect(&path, migrations);
        let (connection, id) = opened.map_err(|fault| failed_on(&path, "open the store", fault))?;
        Ok(Self { connection, id, path })
    }

    fn connect(path: &Path, migrations: &[&str]) -> Result<(Connection, StoreId), Fault> {
        let connection = connection::open(path)?;
        schema::admit(&connection, path, migrations)?;
        connection::settle(&connection)?;
        let text: String = connection.prepare_cached(sql::STORE_ID)?.query_row([], |row| row.get(0))?;
        let bad = |error: outlast_model::id::IdError| StoreError::BadRow {
            row: "meta store".to_owned(),
            column: "value",
            problem: error.to_string(),
        };
        let id = text.parse().map_err(bad)?;
        Ok((connection, id))
    }

    /// The store's id, drawn when it was made.
    pub fn id(&self) -> StoreId {
        self.id
    }

    /// Where the database is; the path holds no symbolic link.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `body` in a transaction that holds the write lock from its beginning, and commits.
    ///
    /// A deferred one would fail at once, in spite of the busy handler, when another process wrote between its
    /// first read and its first write (sqlite.org/isolation.html).
    pub(crate) fn write<T>(
        &self,
        operation: &'static str,
        body: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        self.transact(operation, TransactionBehavior::Immediate, body)
    }

    /// Runs `body` on one snapshot of the database.
    pub(crate) fn snapshot<T>(
        &self,
        operation: &'static str,
        body: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        self.transact(operation, TransactionBehavior::Deferred, body)
    }

    fn transact<T>(
        &self,
        operation: &'static str,
        behavior: TransactionBehavior,
        body: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let run = || {
            // Unchecked, because operations take `&self`: no body is handed the store, so none can nest.
            let transaction = Transaction::new_unchecked(&self.connection, behavior)?;
            let value = body(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        run().map_err(|fault| failed_on(&self.path, operation, fault))
    }

    /// All rows of one statement, decoded.
    pub(crate) fn rows<T>(
        &self,
        operation: &'static str,
        statement: &str,
        parameters: impl Params,
        decode: fn(&Row<'_>) -> Result<T, Fault>,
    ) -> Result<Vec<T>, StoreError> {
        let run = || {
            let mut statement = self.connection.prepare_cached(statement)?;
            let mut rows = statement.query(parameters)?;
            let mut decoded = Vec::new();
            while let Some(row) = rows.next()? {
                decoded.push(decode(row)?);
            }
            Ok(decoded)
        };
        run().map_err(|fault| failed_on(&self.path, operation, fault))
    }
}
