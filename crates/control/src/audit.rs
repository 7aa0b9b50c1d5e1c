//! The audit log: its events as they come, and its verification.

use crate::error::Error;
use crate::follow::FollowError;
use crate::site::Site;
use crate::wait;
use outlast_store::{AuditReport, Digest, EventRow, Store};
use outlast_wire::exit_code::FailureKind;
use outlast_wire::view::{AuditView, EventView};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use thiserror::Error;

/// Events are fetched in pages of this.
const PAGE: u32 = 500;
/// A follower looks this often even when nothing was told.
const LOOK: Duration = Duration::from_secs(10);

/// The audit log cannot be verified.
#[derive(Debug, Error)]
pub enum AuditError {
    /// There is none: an answer would be about nothing.
    #[error("there is no audit log: {} is not there", .path.display())]
    NoStore {
        /// The database.
        path: PathBuf,
    },
    /// A text that is no head.
    #[error("'{text}' is not COUNT:HEAD, as 'outlast audit verify' prints them")]
    BadKept {
        /// The text.
        text: String,
    },
}

impl AuditError {
    /// The kind, from which exit codes follow.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::NoStore { .. } => FailureKind::NotFound,
            Self::BadKept { .. } => FailureKind::BadInput,
        }
    }
}

/// What was kept elsewhere of an earlier verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    count: u64,
    head: Digest,
}

impl FromStr for Kept {
    type Err = AuditError;

    fn from_str(text: &str) -> Result<Self, AuditError> {
        let parsed = text
            .split_once(':')
            .and_then(|(count, head)| Some(Self { count: count.parse().ok()?, head: head.parse().ok()? }));
        parsed.ok_or_else(|| AuditError::BadKept { text: text.chars().take(100).collect() })
    }
}

/// Verifies the whole chain of events, and, with what was kept of it, that it is still the same log; and that the database
/// which holds it, with everything else, is whole.
///
/// # Errors
/// [`AuditError::NoStore`], and those of the store; what is wrong with the chain is not an error but what was asked
/// for.
pub fn verify(site: &Site, kept: Option<Kept>) -> Result<AuditView, Error> {
    let Some(store) = site.existing_store()? else {
        return Err(AuditError::NoStore { path: site.places().database() }.into());
    };
    let report: AuditReport = match kept {
        Some(kept) => store.audit_verify_since(kept.count, &kept.head)?,
        None => store.audit_verify()?,
    };
    let damage = store.check_integrity()?;
    let findings = report.findings.iter().map(ToString::to_string);
    Ok(AuditView {
        intact: report.is_intact() && damage.is_empty(),
        count: report.count,
        head: report.head.to_string(),
        findings: findings.chain(damage.iter().map(|finding| format!("the database: {finding}"))).collect(),
        unlisted: report.unlisted,
    })
}

/// Gives every event after number `after` to `show`, oldest first; with `follow`, those that come later too,
/// until `show` answers `false`.
///
/// # Errors
/// Those of the store and of watching it.
pub fn events(
    site: &Site,
    after: u64,
    follow: bool,
    show: &mut dyn FnMut(EventView) -> bool,
) -> Result<(), Error> {
    let store = if follow { Some(site.store()?) } else { site.existing_store()? };
    let Some(store) = store else { return Ok(()) };
    let Some(mut seen) = pass_on(store, after, show)? else { return Ok(()) };
    if !follow {
        return Ok(());
    }
    let home = site.places().home();
    let failed = |errno: Errno| FollowError::Log { path: home.to_owned(), source: errno.into() };
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(failed)?;
    // Every commit changes the write-ahead log, which lies in this directory.
    inotify::add_watch(&watch, home, WatchFlags::MODIFY | WatchFlags::CREATE).map_err(failed)?;
    loop {
        match pass_on(store, seen, show)? {
            Some(last) => seen = last,
            None => return Ok(()),
        }
        wait::readable(&[watch.as_fd()], LOOK).map_err(FollowError::Wait)?;
        let mut buffer = [0; 4096];
        while matches!(rustix::io::read(&watch, &mut buffer), Ok(1..)) {}
    }
}

/// The number of the last event there is; `None` when nobody wants more.
fn pass_on(store: &Store, after: u64, show: &mut dyn FnMut(EventView) -> bool) -> Result<Option<u64>, Error> {
    let mut seen = after;
    loop {
        let events = store.events(seen, PAGE)?;
        let Some(last) = events.last() else { return Ok(Some(seen)) };
        seen = last.seq;
        for event in events {
            if !show(view(event)) {
                return Ok(None);
            }
        }
    }
}

fn view(event: EventRow) -> EventView {
    EventView {
        seq: event.seq,
        unix_ns: event.unix_ns,
        kind: event.kind.name().to_owned(),
        subject: event.subject.to_string(),
        body: event.body,
        hash: event.hash.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::accept;

    #[test]
    fn a_log_is_verified_against_what_was_kept_of_it() {
        let stage = accept(Duration::ZERO);
        let view = verify(&stage.site, None).unwrap();
        assert!(view.intact && view.count > 0);
        let kept = |count: u64, head: &str| format!("{count}:{head}").parse::<Kept>();
        let same = kept(view.count, &view.head).unwrap();
        assert!(verify(&stage.site, Some(same)).unwrap().intact);
        let other = kept(view.count, &"0".repeat(64)).unwrap();
        assert!(!verify(&stage.site, Some(other)).unwrap().intact);
        assert!(kept(1, "rubbish").is_err() && "1".parse::<Kept>().is_err());
    }

    #[test]
    fn where_there_is_no_log_nothing_is_said_of_one() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        let places = outlast_wire::paths::Places::new(at("home"), at("run"), at("library"));
        let error = verify(&Site::new(places, at("bin")), None).unwrap_err();
        assert_eq!(error.kind(), FailureKind::NotFound);
    }
}
