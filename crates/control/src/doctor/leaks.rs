//! What belongs to no living incarnation: found by names that derive from this store and its incarnations.
//!
//! Names of other stores are not looked at, and nothing that somebody prepares at this moment is touched.

use super::Mend;
use crate::error::{Error, chain};
use crate::incarnation::{PREPARING, take_over};
use crate::reconcile::{Leftover, cgroups, is_older_than_a_claim, leftovers, remove};
use crate::site::Site;
use outlast_model::{IncarnationId, IncarnationState, VmId};
use outlast_store::Store;
use outlast_wire::view::LeakView;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

pub(super) fn leaks(
    site: &Site,
    undecided: &[(IncarnationId, Error)],
    mend: Mend,
) -> Result<Vec<LeakView>, Error> {
    let Some(store) = site.existing_store()? else { return Ok(Vec::new()) };
    let groups = cgroups(store.id());
    let mut leaks = Vec::new();
    for id in named(site, &groups) {
        match store.incarnation(id)? {
            Some(row) if row.state == IncarnationState::Ended => {
                for leftover in leftovers(site, &row, &groups) {
                    leaks.push(mended(site, store, &leftover, mend));
                }
            }
            Some(_) => {}
            None => leaks.extend(rowless(site, store, id, &groups, mend)?),
        }
    }
    leaks.extend(half_prepared(site, mend));
    for path in crate::vm::half_made(site, store)? {
        leaks.push(removed_directory("vm", path, mend));
    }
    for (kind, path) in of_vms(site)? {
        leaks.push(removed_path(kind, path, mend));
    }
    leaks.extend(templates(site, mend)?);
    leaks.extend(undecided.iter().map(|(id, error)| LeakView {
        kind: "row".to_owned(),
        name: format!("{id}: {}", chain(error)),
        removed: false,
    }));
    Ok(leaks)
}

/// Every incarnation that something of ours is named after.
fn named(site: &Site, groups: &[IncarnationId]) -> BTreeSet<IncarnationId> {
    let mut ids: BTreeSet<IncarnationId> = groups.iter().copied().collect();
    let places = site.places();
    for directory in [places.run().to_owned(), places.incarnations()] {
        ids.extend(entries(&directory).iter().filter_map(|name| name.parse::<IncarnationId>().ok()));
    }
    let scratches = entries(&places.library().templates());
    ids.extend(
        scratches.iter().filter_map(|name| name.strip_prefix(".making-")?.parse::<IncarnationId>().ok()),
    );
    ids
}

fn entries(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

fn mended(site: &Site, store: &Store, leftover: &Leftover, mend: Mend) -> LeakView {
    let removed = mend == Mend::Yes && told(remove(site, store.id(), leftover), &leftover.name(site));
    LeakView { kind: leftover.kind().to_owned(), name: leftover.name(site), removed }
}

/// Whether it is gone; if not, why is logged.
fn told(result: io::Result<()>, name: &str) -> bool {
    result.map_err(|error| tracing::warn!(%error, name, "cannot be removed")).is_ok()
}

/// What is named after an incarnation that the store has never heard of. A scratch directory of a template may
/// be another store's: the library is shared.
fn rowless(
    site: &Site,
    store: &Store,
    id: IncarnationId,
    groups: &[IncarnationId],
    mend: Mend,
) -> Result<Vec<LeakView>, Error> {
    let mut leaks = Vec::new();
    let evidence = site.places().evidence(id).path().to_owned();
    if evidence.is_dir() {
        let Some(_lock) = take_over(&evidence) else { return Ok(leaks) };
        // Order matters: under the lock no row can be written any more; before it one may have been.
        if store.incarnation(id)?.is_some() {
            return Ok(leaks);
        }
        leaks.push(removed_directory("evidence", evidence, mend));
    }
    if site.places().run_directory(id).path().is_dir() {
        leaks.push(mended(site, store, &Leftover::RunDirectory(id), mend));
    }
    if groups.contains(&id) {
        leaks.push(mended(site, store, &Leftover::Cgroup(id), mend));
    }
    Ok(leaks)
}

/// What takers of snapshots and restores left in the directories of VMs.
fn of_vms(site: &Site) -> Result<Vec<(&'static str, PathBuf)>, Error> {
    let mut left = Vec::new();
    for id in entries(&site.places().vms()).iter().filter_map(|name| name.parse::<VmId>().ok()) {
        left.extend(crate::vm::snapshot::left(site, id)?);
    }
    Ok(left)
}

fn removed_path(kind: &str, path: PathBuf, mend: Mend) -> LeakView {
    if path.is_dir() {
        return removed_directory(kind, path, mend);
    }
    let name = path.display().to_string();
    let removed = mend == Mend::Yes && told(std::fs::remove_file(path), &name);
    LeakView { kind: kind.to_owned(), name, removed }
}

fn removed_directory(kind: &str, path: PathBuf, mend: Mend) -> LeakView {
    let name = path.display().to_string();
    let removed = mend == Mend::Yes && told(std::fs::remove_dir_all(path), &name);
    LeakView { kind: kind.to_owned(), name, removed }
}

/// Evidence directories that never got their name. Between making and locking one lie microseconds.
fn half_prepared(site: &Site, mend: Mend) -> Vec<LeakView> {
    let directory = site.places().incarnations();
    let names = entries(&directory).into_iter().filter(|name| name.starts_with(PREPARING));
    let paths = names.map(|name| directory.join(name)).filter(|path| is_older_than_a_claim(path));
    let leak = |path: PathBuf| {
        let _lock = take_over(&path)?;
        Some(removed_directory("evidence", path, mend))
    };
    paths.filter_map(leak).collect()
}

/// Templates that nobody can use any more: removed in part, or set aside and made anew since.
fn templates(site: &Site, mend: Mend) -> Result<Vec<LeakView>, Error> {
    let library = site.places().library();
    let abandoned = crate::template::abandoned(&library)?;
    let leak = |(key, path): (String, PathBuf)| {
        let removed = mend == Mend::Yes
            && crate::template::remove_abandoned(&library, &key)
                .map_err(|error| tracing::warn!(%error, key, "cannot be removed"))
                .is_ok();
        LeakView { kind: "template".to_owned(), name: path.display().to_string(), removed }
    };
    Ok(abandoned.into_iter().map(leak).collect())
}
