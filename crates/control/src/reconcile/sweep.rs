//! What an incarnation can leave behind, by name, and its removal: once or again, whole or half there.
//!
//! The list is short and closed, because the kernel takes everything else. Every name derives from the store's
//! and the incarnation's id; nothing of another store is ever touched, and nothing of a living incarnation.

use crate::clock;
use crate::incarnation::{PREPARING, take_over};
use crate::site::Site;
use outlast_machine::cgroup::{self, Hierarchy, IncarnationCgroup};
use outlast_model::{IncarnationId, StoreId, timeout};
use outlast_store::{IncarnationRow, Store, StoreError};
use outlast_wire::intent::Purpose;
use outlast_wire::paths::Evidence;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One thing that an incarnation left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Leftover {
    /// Its run directory.
    RunDirectory(IncarnationId),
    /// Its control group.
    Cgroup(IncarnationId),
    /// Its input, of which the guest has a copy.
    Input(IncarnationId),
    /// The mark that it was held.
    Hold(IncarnationId),
    /// Files that its program left, of which only a part was fetched.
    PartialOutputs(IncarnationId),
    /// The directory in which it was to make a template.
    TemplateScratch(IncarnationId),
}

impl Leftover {
    /// The word for its kind, as `doctor` shows it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::RunDirectory(_) => "run-directory",
            Self::Cgroup(_) => "cgroup",
            Self::Input(_) | Self::Hold(_) | Self::PartialOutputs(_) => "evidence",
            Self::TemplateScratch(_) => "template",
        }
    }

    /// Its name, as `doctor` shows it.
    pub(crate) fn name(&self, site: &Site) -> String {
        match self {
            Self::Cgroup(id) => format!("outlast/…/{id}"),
            Self::RunDirectory(_)
            | Self::Input(_)
            | Self::Hold(_)
            | Self::PartialOutputs(_)
            | Self::TemplateScratch(_) => self.path(site).display().to_string(),
        }
    }

    fn path(&self, site: &Site) -> PathBuf {
        let places = site.places();
        match self {
            Self::RunDirectory(id) => places.run_directory(*id).path().to_owned(),
            Self::Input(id) => places.evidence(*id).input(),
            Self::Hold(id) => places.evidence(*id).hold(),
            Self::PartialOutputs(id) => places.evidence(*id).partial_outputs(),
            Self::TemplateScratch(id) => crate::template::scratch(&places.library(), *id),
            Self::Cgroup(_) => PathBuf::new(),
        }
    }
}

/// Everything that is there of one incarnation that is over. `cgroups` are the incarnations of this store that
/// have one.
pub(crate) fn leftovers(site: &Site, row: &IncarnationRow, cgroups: &[IncarnationId]) -> Vec<Leftover> {
    let there = |candidate: &Leftover| candidate.path(site).symlink_metadata().is_ok();
    let mut found: Vec<Leftover> = candidates(row.id).into_iter().filter(there).collect();
    if cgroups.contains(&row.id) {
        found.push(Leftover::Cgroup(row.id));
    }
    let scratch = Leftover::TemplateScratch(row.id);
    if there(&scratch) && crate::template::is_abandoned(site, row) {
        found.push(scratch);
    }
    found
}

fn candidates(id: IncarnationId) -> [Leftover; 4] {
    [Leftover::RunDirectory(id), Leftover::Input(id), Leftover::Hold(id), Leftover::PartialOutputs(id)]
}

/// Clears away everything of an incarnation that is over. What cannot be removed stays visible to `doctor`.
pub(super) fn sweep(site: &Site, row: &IncarnationRow) {
    let Ok(Some(store)) = site.existing_store() else { return };
    let mut everything = candidates(row.id).to_vec();
    everything.push(Leftover::Cgroup(row.id));
    if matches!(row.intent.purpose, Purpose::Template { .. }) && crate::template::is_abandoned(site, row) {
        everything.push(Leftover::TemplateScratch(row.id));
    }
    if let Some(vm) = row.vm {
        crate::vm::snapshot::sweep(site, vm);
    }
    for leftover in everything {
        if let Err(error) = remove(site, store.id(), &leftover) {
            tracing::warn!(%error, name = leftover.name(site), "cannot clear away what an incarnation left");
        }
    }
}

/// Removes one thing. That it is not there is no error; links are removed, never followed.
pub(crate) fn remove(site: &Site, store: StoreId, leftover: &Leftover) -> io::Result<()> {
    let path = leftover.path(site);
    let removed = match leftover {
        Leftover::Cgroup(id) => return remove_cgroup(store, *id, timeout::DEATH),
        Leftover::Hold(_) => std::fs::remove_file(&path),
        Leftover::RunDirectory(_)
        | Leftover::Input(_)
        | Leftover::PartialOutputs(_)
        | Leftover::TemplateScratch(_) => std::fs::remove_dir_all(&path),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Older ones were looked at by many before, and are `doctor`'s to tell: what lies there is mostly evidence of what
/// is over, and looking at all of it would make every command slower with every run.
const PREPARED_LATELY: Duration = Duration::from_secs(3600);

/// Removes evidence directories whose makers died lately before they wrote a row: nothing but input lies in those.
/// What holds more was evidence of something once, and is `doctor`'s to tell.
pub(super) fn interrupted_preparations(site: &Site, store: &Store) -> Result<(), StoreError> {
    let Ok(entries) = std::fs::read_dir(site.places().incarnations()) else { return Ok(()) };
    let names: Vec<_> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    for name in &names {
        never_named(site, name);
    }
    let now_ms = u128::from(clock::unix_ns() / 1_000_000);
    let is_late =
        |id: &IncarnationId| now_ms.saturating_sub(id.unix_ms().into()) < PREPARED_LATELY.as_millis();
    for id in names.iter().filter_map(|name| name.parse::<IncarnationId>().ok()).filter(is_late) {
        let evidence = site.places().evidence(id);
        // The log, which every launched runner has, is asked first: it makes this cheap for what is over.
        if evidence.runner_log().exists() || !holds_only_input(&evidence) {
            continue;
        }
        let Some(_lock) = take_over(evidence.path()) else { continue };
        // Order matters: under the lock no row can be written any more; before it one may have been.
        if store.incarnation(id)?.is_some() {
            continue;
        }
        if let Err(error) = std::fs::remove_dir_all(evidence.path()) {
            tracing::warn!(%error, incarnation = %id, "cannot clear away an interrupted preparation");
        }
    }
    Ok(())
}

/// Removes an evidence directory that never got its name, once it is so old that its maker is surely not just about to
/// lock it. It is empty: what is to be in it comes later.
fn never_named(site: &Site, name: &str) {
    let path = site.places().incarnations().join(name);
    if !name.starts_with(PREPARING) || !is_older_than_a_claim(&path) {
        return;
    }
    let Some(_lock) = take_over(&path) else { return };
    if let Err(error) = std::fs::remove_dir(&path) {
        tracing::warn!(%error, name, "cannot clear away an interrupted preparation");
    }
}

/// Whether a file or directory is older than anybody takes from its making to its next step.
pub(crate) fn is_older_than_a_claim(path: &Path) -> bool {
    let modified = path.metadata().and_then(|metadata| metadata.modified());
    modified.ok().and_then(|time| time.elapsed().ok()).is_some_and(|age| age > timeout::CLAIM)
}

fn holds_only_input(evidence: &Evidence) -> bool {
    let Ok(mut entries) = std::fs::read_dir(evidence.path()) else { return false };
    entries.all(|entry| entry.is_ok_and(|entry| entry.path() == evidence.input()))
}

fn remove_cgroup(store: StoreId, id: IncarnationId, within: Duration) -> io::Result<()> {
    // Where there are no control groups, there is none to remove.
    let Ok(hierarchy) = Hierarchy::detect_or_do_without() else { return Ok(()) };
    let removed = IncarnationCgroup::named(&hierarchy, store, id).remove(within);
    removed.map(drop).map_err(io::Error::other)
}

/// What the kernel counted in an incarnation's control group, a sentence each.
pub(super) fn counted(store: StoreId, id: IncarnationId) -> Vec<String> {
    let Ok(hierarchy) = Hierarchy::detect_or_do_without() else { return Vec::new() };
    IncarnationCgroup::named(&hierarchy, store, id).events().sentences()
}

/// The incarnations of this store that have a control group.
pub(crate) fn cgroups(store: StoreId) -> Vec<IncarnationId> {
    let listed = Hierarchy::detect_or_do_without().and_then(|hierarchy| cgroup::list(&hierarchy, store));
    listed.unwrap_or_else(|error| {
        tracing::debug!(%error, "control groups cannot be listed");
        Vec::new()
    })
}
