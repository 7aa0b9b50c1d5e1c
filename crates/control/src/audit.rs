//! The audit log: its events as they come, and its verification.

use crate::error::Error;
use crate::follow::FollowError;
use crate::site::Site;
use crate::wait;
use outlast_store::{AuditReport, EventRow, Store};
use outlast_wire::view::{AuditView, EventView};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::time::Duration;

/// Events are fetched in pages of this.
const PAGE: u32 = 500;
/// A follower looks this often even when nothing was told.
const LOOK: Duration = Duration::from_secs(10);

/// Verifies the whole chain of events.
///
/// # Errors
/// Those of the store; what is wrong with the chain is not an error but what was asked for.
pub fn verify(site: &Site) -> Result<AuditView, Error> {
    let Some(store) = site.existing_store()? else {
        let head = outlast_store::Digest::from_bytes([0; 32]).to_string();
        return Ok(AuditView { intact: true, count: 0, head, findings: Vec::new(), unlisted: 0 });
    };
    let report: AuditReport = store.audit_verify()?;
    Ok(AuditView {
        intact: report.is_intact(),
        count: report.count,
        head: report.head.to_string(),
        findings: report.findings.iter().map(ToString::to_string).collect(),
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
