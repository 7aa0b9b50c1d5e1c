//! Templates: booted, warmed and saved machines that clones start from.
//!
//! ```text
//!   LIBRARY/templates/KEY/               manifest.json memory state      0444, published by rename, never changed
//!   LIBRARY/templates/.making-INC/       being made by incarnation INC
//!   LIBRARY/templates/.set-aside-KEY-N/  failed its check; kept to be looked at until KEY is made again
//!   LIBRARY/templates/.set-aside-KEY-removed/  being removed, or what a remover that died has left
//!   LIBRARY/templates/.lock-KEY          held by whoever makes KEY, sets it aside or removes it
//! ```
//!
//! A run takes a lease on its template (a shared lock on its directory, which its runner inherits) and waits for
//! nobody when it is there. What has a lease is not pruned or evicted. Removed by name it is: a clone keeps its
//! open files.

mod key;
mod make;
mod prune;
mod shelf;

pub(crate) use make::beginning;
pub(crate) use prune::{Bounds, prune};
pub(crate) use shelf::scratch;

use crate::error::Error;
use crate::incarnation;
use crate::lock::Lock;
use crate::reconcile::{Standing, reconcile};
use crate::site::Site;
use outlast_machine::image::LibraryError;
use outlast_model::IncarnationId;
use outlast_store::IncarnationRow;
use outlast_wire::exit_code::FailureKind;
use outlast_wire::intent::Purpose;
use outlast_wire::paths::Library;
use outlast_wire::view::TemplateView;
use shelf::{Condition, Shelf};
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Something about a template did not work.
#[derive(Debug, Error)]
pub enum TemplateError {
    /// Its directory, lock or files.
    #[error("cannot {operation} {}", .path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be hashed.
    #[error("cannot hash a template's file")]
    Hash(#[source] LibraryError),
    /// It cannot be told whether somebody uses it.
    #[error("cannot tell whether a template is in use")]
    Lease(#[source] LibraryError),
    /// The incarnation that was to make it failed.
    #[error("incarnation {incarnation}, which was to make it, ended as {cause}: {evidence}")]
    MakerFailed {
        /// The incarnation.
        incarnation: IncarnationId,
        /// The cause on its death certificate.
        cause: String,
        /// The first piece of evidence.
        evidence: String,
    },
    /// There is too little disk for its memory file.
    #[error("the disk of {} has {} MiB free, a template of this size takes {} MiB", .path.display(), .free >> 20, .needed >> 20)]
    TooLittleSpace {
        /// The directory.
        path: PathBuf,
        /// Bytes free.
        free: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// No template of this key.
    #[error("there is no template '{key}'")]
    NotFound {
        /// What was asked for.
        key: String,
    },
    /// Several keys begin like this.
    #[error("'{prefix}' is the beginning of {count} templates' keys")]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// How many.
        count: usize,
    },
    /// Somebody makes or removes it at this moment.
    #[error("template {key} is being made or changed by another process")]
    Busy {
        /// The key.
        key: String,
    },
}

impl TemplateError {
    /// The kind, from which exit codes follow.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::NotFound { .. } => FailureKind::NotFound,
            Self::Ambiguous { .. } => FailureKind::BadInput,
            Self::Busy { .. } => FailureKind::Conflict,
            Self::TooLittleSpace { .. } => FailureKind::Host,
            Self::Io { .. } | Self::Hash(_) | Self::Lease(_) | Self::MakerFailed { .. } => {
                FailureKind::Failed
            }
        }
    }

    /// The next command to type.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { .. } | Self::Ambiguous { .. } => Some("outlast template ls".to_owned()),
            Self::Busy { .. } => Some("outlast ps".to_owned()),
            Self::TooLittleSpace { .. } => {
                Some("outlast prune, or outlast template ls and outlast template rm KEY".to_owned())
            }
            Self::Io { .. } | Self::Hash(_) | Self::Lease(_) | Self::MakerFailed { .. } => None,
        }
    }
}

/// Every template of the library, those being made and those set aside as well.
///
/// # Errors
/// The library cannot be read.
pub fn list(library: &Library) -> Result<Vec<TemplateView>, Error> {
    let shelf = Shelf::at(library);
    let mut views = Vec::new();
    for key in shelf.keys()? {
        views.push(view_of(&shelf, &key));
    }
    for (name, state) in shelf.others()? {
        let bytes = shelf.bytes_of(&name);
        views.push(TemplateView { key: name, state: state.to_owned(), bytes, ..TemplateView::default() });
    }
    Ok(views)
}

fn view_of(shelf: &Shelf, key: &str) -> TemplateView {
    let bytes = shelf.bytes_of(key);
    match shelf.read(key) {
        Ok(manifest) => TemplateView {
            key: key.to_owned(),
            state: "ready".to_owned(),
            image: Some(manifest.ingredients.image),
            accelerator: Some(manifest.ingredients.accelerator),
            vcpus: Some(manifest.ingredients.vcpus),
            memory: Some(manifest.ingredients.memory),
            made_unix_ns: Some(manifest.made_unix_ns),
            bytes,
        },
        Err(_) => TemplateView {
            key: key.to_owned(),
            state: "damaged".to_owned(),
            bytes,
            ..TemplateView::default()
        },
    }
}

/// Reads every byte of every template: name, bytes, and what is wrong with it.
///
/// # Errors
/// The library cannot be read.
pub(crate) fn verify(library: &Library) -> Result<Vec<(String, u64, Option<String>)>, Error> {
    let shelf = Shelf::at(library);
    let mut verified = Vec::new();
    for key in shelf.keys()? {
        let (bytes, _lease) = (shelf.bytes_of(&key), shelf.lease(&key));
        let damage = match shelf.verify(&key) {
            Condition::Damaged(why) => Some(why),
            // One that was removed meanwhile is not damaged.
            Condition::Ready | Condition::Absent => None,
        };
        verified.push((format!("template {}", shorten(&key)), bytes, damage));
    }
    Ok(verified)
}

/// Removes the template whose key begins with `prefix`, and what was set aside of it, or that alone. Clones that run keep
/// their files.
///
/// # Errors
/// [`TemplateError::NotFound`], [`TemplateError::Ambiguous`], [`TemplateError::Busy`].
pub fn remove(library: &Library, prefix: &str) -> Result<String, Error> {
    let shelf = Shelf::at(library);
    let not_found = || TemplateError::NotFound { key: prefix.chars().take(80).collect() };
    let mut keys = shelf.keys()?;
    keys.extend(shelf.set_asides()?.into_iter().map(|(key, _)| key));
    keys.retain(|key| !prefix.is_empty() && key.starts_with(prefix));
    keys.sort();
    keys.dedup();
    let key = match keys.as_slice() {
        [key] => key.clone(),
        [] => return Err(not_found().into()),
        several => {
            let prefix = prefix.chars().take(80).collect();
            return Err(TemplateError::Ambiguous { prefix, count: several.len() }.into());
        }
    };
    let _lock = try_lock(&shelf, &key)?;
    shelf.remove(&key)?;
    Ok(key)
}

/// What was set aside in the library and is of no use any more, with the keys it was set aside of.
pub(crate) fn abandoned(library: &Library) -> Result<Vec<(String, PathBuf)>, Error> {
    Ok(Shelf::at(library).abandoned()?)
}

/// Removes what was set aside of a template.
///
/// # Errors
/// [`TemplateError::Busy`], and those of removing it.
pub(crate) fn remove_abandoned(library: &Library, key: &str) -> Result<(), Error> {
    let shelf = Shelf::at(library);
    let _lock = try_lock(&shelf, key)?;
    Ok(shelf.remove_set_aside(key)?)
}

fn try_lock(shelf: &Shelf, key: &str) -> Result<Lock, TemplateError> {
    let path = shelf.lock_path(key);
    let taken = Lock::try_take(&path);
    let taken = taken.map_err(|source| TemplateError::Io { operation: "lock", path, source })?;
    taken.ok_or_else(|| TemplateError::Busy { key: key.to_owned() })
}

/// Whether nobody is about to publish what the incarnation of this row, which is over, has made: its maker
/// holds the lock of the key until it has.
pub(crate) fn is_abandoned(site: &Site, row: &IncarnationRow) -> bool {
    let Purpose::Template { key, .. } = &row.intent.purpose else { return false };
    let path = Shelf::at(&site.places().library()).lock_path(key);
    // A lock that cannot be looked at says nothing: better left lying than taken away.
    matches!(Lock::try_take(&path), Ok(Some(_)))
}

/// Removes what makers of this store left that are over. The caller holds the lock of `key`.
fn sweep_scratch(site: &Site, shelf: &Shelf, key: &str) {
    for id in shelf.scratches() {
        // Those of other stores are unknown here, and left alone.
        let over = match reconcile(site, id) {
            Ok(Standing::Over(row)) => row,
            Ok(Standing::Lives(_)) => continue,
            Err(error) => {
                tracing::debug!(%error, incarnation = %id, "a template's scratch is left alone");
                continue;
            }
        };
        // Of other keys, reconciling has removed it. Of ours it could not know that we are the ones who hold it.
        if matches!(&over.intent.purpose, Purpose::Template { key: of, .. } if of == key) {
            let _ = std::fs::remove_dir_all(shelf::scratch(&site.places().library(), id));
        }
    }
}

/// A name for what is set aside, unlike any other.
fn new_suffix() -> Result<String, Error> {
    Ok(incarnation::new_id()?.to_string())
}

/// For [`Condition::Damaged`], in the words of a run that boots cold instead.
fn set_aside_because(key: &str, reason: &str) -> String {
    format!("template {} failed its check and was set aside: {reason}", shorten(key))
}

fn shorten(key: &str) -> &str {
    key.get(..12).unwrap_or(key)
}

/// Whether a condition lets clones start.
fn is_ready(condition: &Condition) -> bool {
    matches!(condition, Condition::Ready)
}
