//! Reading rows. Every read is one statement on one snapshot; lists have a limit.

use crate::decode;
use crate::error::StoreError;
use crate::event::EventRow;
use crate::request::Page;
use crate::row::{Found, IncarnationRow, WorkloadRow};
use crate::sql;
use crate::store::Store;
use outlast_model::{IncarnationId, WorkloadId};
use rusqlite::params;

/// A shortened id has at least this many characters: fewer would soon be ambiguous.
pub const PREFIX_LEAST: usize = 4;

/// A full id has this many.
const ID_LENGTH: usize = 26;

/// Sorts behind every id.
const BEHIND_ALL: &str = "~";

/// So many ids of an ambiguous prefix are told.
const SEVERAL: i64 = 6;

impl Store {
    /// One incarnation.
    pub fn incarnation(&self, id: IncarnationId) -> Result<Option<IncarnationRow>, StoreError> {
        let rows =
            self.rows("read an incarnation", sql::INCARNATION, [id.to_string()], decode::incarnation)?;
        Ok(rows.into_iter().next())
    }

    /// One workload.
    pub fn workload(&self, id: WorkloadId) -> Result<Option<WorkloadRow>, StoreError> {
        let rows = self.rows("read a workload", sql::WORKLOAD, [id.to_string()], decode::workload)?;
        Ok(rows.into_iter().next())
    }

    /// The workload whose id begins with `prefix`, in either case, of at least [`PREFIX_LEAST`] characters.
    ///
    /// # Errors
    /// [`StoreError::BadPrefix`] when it is too short, too long or not of letters and digits.
    pub fn find_workload(&self, prefix: &str) -> Result<Found, StoreError> {
        let plausible = (PREFIX_LEAST..=ID_LENGTH).contains(&prefix.len())
            && prefix.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !plausible {
            let prefix = prefix.chars().take(40).collect();
            return Err(StoreError::BadPrefix { prefix, least: PREFIX_LEAST });
        }
        let from = prefix.to_ascii_lowercase();
        let to = format!("{from}{BEHIND_ALL}");
        let parameters = params![from, to, SEVERAL];
        let ids: Vec<WorkloadId> =
            self.rows("find a workload", sql::WORKLOADS_BETWEEN, parameters, |row| {
                decode::Columns::new(row, "workload", "id").parsed("id")
            })?;
        match ids.as_slice() {
            [] => Ok(Found::None),
            [id] => Ok(self.workload(*id)?.map_or(Found::None, |row| Found::One(Box::new(row)))),
            _ => Ok(Found::Several(ids)),
        }
    }

    /// The workload that was accepted with this idempotency key.
    pub fn workload_by_key(&self, key: &str) -> Result<Option<WorkloadId>, StoreError> {
        let ids = self.rows("find a workload", sql::WORKLOAD_BY_KEY, [key], |row| {
            decode::Columns::new(row, "workload", "id").parsed("id")
        })?;
        Ok(ids.into_iter().next())
    }

    /// A part of the list of workloads, newest first.
    pub fn workloads(&self, page: &Page) -> Result<Vec<WorkloadRow>, StoreError> {
        let before = page.before.map_or_else(|| BEHIND_ALL.to_owned(), |id| id.to_string());
        let statement = if page.all { sql::WORKLOADS } else { sql::WORKLOADS_OPEN };
        self.rows("list workloads", statement, params![before, page.limit], decode::workload)
    }

    /// Every incarnation that has not ended, oldest first.
    pub fn living(&self) -> Result<Vec<IncarnationRow>, StoreError> {
        self.rows("list living incarnations", sql::LIVING, [], decode::incarnation)
    }

    /// Whether somebody wishes this incarnation's workload killed. One indexed read, to be asked often.
    ///
    /// # Errors
    /// [`StoreError::NoIncarnation`] when there is none of that id that runs a workload.
    pub fn kill_wanted(&self, id: IncarnationId) -> Result<bool, StoreError> {
        let noted = self.rows("look for a wish to kill", sql::KILL_WANTED, [id.to_string()], |row| {
            let noted: Option<i64> = row.get(0)?;
            Ok(noted.is_some())
        })?;
        noted.first().copied().ok_or(StoreError::NoIncarnation { id })
    }

    /// Events behind `after_seq`, oldest first, at most `limit`.
    pub fn events(&self, after_seq: u64, limit: u32) -> Result<Vec<EventRow>, StoreError> {
        let after = decode::stored("the sequence number", after_seq)?;
        self.rows("read events", sql::EVENTS_AFTER, params![after, limit], decode::event)
    }

    /// Asks SQLite to examine every page, index, constraint and reference; what it finds is told, nothing is
    /// mended. Takes time in proportion to the size of the database.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when it is too broken to be examined.
    pub fn check_integrity(&self) -> Result<Vec<String>, StoreError> {
        let mut findings =
            self.rows("examine the store", "PRAGMA integrity_check", [], |row| Ok(row.get::<_, String>(0)?))?;
        findings.retain(|finding| finding != "ok");
        let orphans = self.rows("examine the store", "PRAGMA foreign_key_check", [], |row| {
            let (table, number): (String, Option<i64>) = (row.get(0)?, row.get(1)?);
            Ok(format!("row {number:?} of {table} refers to a row that is not there"))
        })?;
        findings.extend(orphans);
        Ok(findings)
    }
}
