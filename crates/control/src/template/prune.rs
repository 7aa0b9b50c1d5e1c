//! Templates of no more use: which they are, and their removal.
//!
//! ```text
//!   useless: damaged, or its image is gone                       at once
//!   foreign: of another build of the agent, or another VMM       unused for a day
//!   old:     unused for longer than was said
//!   large:   together over the limit                             unused for longest first
//! ```
//!
//! Whoever clones a template has a lease on it, and whoever makes one holds the lock of its key: what is in use
//! cannot be removed, however old it is and however full the disk. What is chosen is decided by a function from
//! facts to a choice; facts that change meanwhile are seen when the locks are asked for.

use super::shelf::{Eviction, Shelf};
use super::{Error, TemplateError, shorten};
use crate::lock::Lock;
use crate::prune::{Findings, Found, How};
use crate::reconcile::{Standing, reconcile};
use crate::site::Site;
use outlast_machine::host;
use outlast_machine::image::{self, stamp};
use outlast_machine::vmm_root;
use outlast_model::timeout;
use outlast_wire::image::BootRecord;
use outlast_wire::paths::Library;
use outlast_wire::template::TemplateIngredients;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Another build of outlast may share this library, and use what this one cannot: so long its templates stay.
const FOREIGN_AGE: Duration = Duration::from_secs(24 * 3600);
/// A template is made within this; what has been in the making for much longer has no maker any more.
const MAKING_AGE: Duration = Duration::from_secs(12 * timeout::TEMPLATE.as_secs());

/// What may stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// What was not used for so long goes.
    pub(crate) older_than: Duration,
    /// So many bytes on disk may stay.
    pub(crate) keep_bytes: u64,
}

/// What is known of one template.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    key: String,
    unused_for: Duration,
    bytes: u64,
    in_use: bool,
    fitness: Fitness,
}

/// Whether anybody could clone it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fitness {
    /// This build could, as far as can be told.
    Ours,
    /// Another build could.
    Foreign,
    /// Nobody could.
    Useless(&'static str),
}

/// Why one goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Useless(&'static str),
    Foreign,
    Old,
    Large,
}

impl Why {
    fn describe(self, facts: &Facts, bounds: Bounds) -> String {
        match self {
            Self::Useless(why) => why.to_owned(),
            Self::Foreign => "made by another build of outlast, and not used for a day".to_owned(),
            Self::Old => format!("not used for {} h", facts.unused_for.as_secs() / 3600),
            Self::Large => {
                format!(
                    "all templates take more than {} MiB, and this was unused for longest",
                    bounds.keep_bytes >> 20
                )
            }
        }
    }
}

/// Which go, by their places in `facts`. What is in use is chosen only for what is wrong with it or its age, so that
/// it can be told that it stays.
fn choose(facts: &[Facts], bounds: Bounds) -> Vec<(usize, Why)> {
    let why = |facts: &Facts| match facts.fitness {
        Fitness::Useless(why) => Some(Why::Useless(why)),
        _ if facts.unused_for >= bounds.older_than => Some(Why::Old),
        Fitness::Foreign if facts.unused_for >= FOREIGN_AGE => Some(Why::Foreign),
        Fitness::Foreign | Fitness::Ours => None,
    };
    let mut chosen: Vec<(usize, Why)> =
        facts.iter().enumerate().filter_map(|(place, facts)| Some((place, why(facts)?))).collect();
    let goes = |place: usize, facts: &Facts, chosen: &[(usize, Why)]| {
        !facts.in_use && chosen.iter().any(|(other, _)| *other == place)
    };
    let mut rest: Vec<usize> =
        (0..facts.len()).filter(|place| !goes(*place, &facts[*place], &chosen)).collect();
    let mut total = rest.iter().fold(0u64, |sum, place| sum.saturating_add(facts[*place].bytes));
    rest.sort_by_key(|place| std::cmp::Reverse(facts[*place].unused_for));
    for place in rest.into_iter().filter(|place| !facts[*place].in_use) {
        if total <= bounds.keep_bytes {
            break;
        }
        total -= facts[place].bytes;
        chosen.push((place, Why::Large));
    }
    chosen
}

/// Finds what is of no more use, and removes it when asked to.
///
/// # Errors
/// The library cannot be read. What cannot be removed is told, and stops nothing.
pub(crate) fn prune(site: &Site, bounds: Bounds, how: How, findings: &mut Findings) -> Result<(), Error> {
    let shelf = Shelf::at(&site.places().library());
    let knowledge = Knowledge::of(site)?;
    let facts = survey(&shelf, &|ingredients| knowledge.fitness(ingredients))?;
    for (place, why) in choose(&facts, bounds) {
        let facts = &facts[place];
        let mut found = Found::new("template", shorten(&facts.key), facts.bytes, why.describe(facts, bounds));
        match how {
            How::Look if facts.in_use => found.kept("it is in use"),
            How::Look => {}
            How::Remove => tell(&mut found, shelf.evict(&facts.key)),
        }
        findings.add(found);
    }
    set_asides(&shelf, bounds, how, findings)?;
    scratches(site, &shelf, how, findings);
    locks(&shelf, how, findings)
}

fn tell(found: &mut Found, eviction: Result<Eviction, TemplateError>) {
    match eviction {
        Ok(Eviction::Gone) => found.removed(),
        Ok(Eviction::InUse) => found.kept("it is in use"),
        Err(error) => found.failed(&error),
    }
}

/// Makes room for a new template before it is made: while the disk has less than `needed`, what is unused goes,
/// unused for longest first.
pub(super) fn make_room(shelf: &Shelf, needed: u64) {
    let Ok(mut facts) = survey(shelf, &|_| Fitness::Ours) else { return };
    facts.retain(|facts| !facts.in_use);
    let in_all = facts.iter().fold(0_u64, |sum, facts| sum.saturating_add(facts.bytes));
    if host::disk_free(shelf.root()).is_ok_and(|free| free.saturating_add(in_all) < needed) {
        return; // Without all of them there would still be too little.
    }
    facts.sort_by_key(|facts| std::cmp::Reverse(facts.unused_for));
    for facts in facts {
        if host::disk_free(shelf.root()).is_ok_and(|free| free >= needed) {
            return;
        }
        evicted(shelf, &facts, "the disk is full");
    }
}

/// Brings all templates together below the limit after `new` was made, which stays.
pub(super) fn stay_below(shelf: &Shelf, limit: u64, new: &str) {
    let Ok(mut facts) = survey(shelf, &|_| Fitness::Ours) else { return };
    facts.iter_mut().filter(|facts| facts.key == new).for_each(|facts| facts.in_use = true);
    let bounds = Bounds { older_than: Duration::MAX, keep_bytes: limit };
    for (place, _) in choose(&facts, bounds) {
        evicted(shelf, &facts[place], "all templates together are larger than their limit");
    }
}

fn evicted(shelf: &Shelf, facts: &Facts, why: &str) {
    match shelf.evict(&facts.key) {
        Ok(Eviction::Gone) => tracing::info!(template = shorten(&facts.key), why, "a template was evicted"),
        Ok(Eviction::InUse) => {}
        Err(error) => tracing::warn!(%error, template = shorten(&facts.key), "a template cannot be evicted"),
    }
}

fn survey(
    shelf: &Shelf,
    fitness: &dyn Fn(&TemplateIngredients) -> Fitness,
) -> Result<Vec<Facts>, TemplateError> {
    let facts = |key: String| Facts {
        unused_for: shelf.unused_for(&key),
        bytes: shelf.bytes_of(&key),
        in_use: shelf.is_in_use(&key),
        fitness: match shelf.read(&key) {
            Ok(manifest) => fitness(&manifest.ingredients),
            Err(_) => Fitness::Useless("its manifest cannot be read"),
        },
        key,
    };
    Ok(shelf.keys()?.into_iter().map(facts).collect())
}

/// What this build would clone.
struct Knowledge {
    images: BTreeSet<String>,
    lean_kernel: Option<String>,
    vmm: Option<String>,
    agent: Option<String>,
    agents: BTreeMap<String, String>,
}

impl Knowledge {
    fn of(site: &Site) -> Result<Self, Error> {
        let (library, libraries) = (site.places().library(), site.places().libraries());
        let manifests = image::list_all(&libraries)?.into_iter().filter_map(|listed| listed.manifest.ok());
        let agent = site.agent().ok().and_then(|path| stamp::digest_of(&library, &path).ok());
        Ok(Self {
            images: manifests.map(|manifest| manifest.digest().to_string()).collect(),
            lean_kernel: image::lean::find(&libraries)
                .ok()
                .flatten()
                .map(|kernel| kernel.digest().to_string()),
            vmm: vmm_root::find(&libraries).ok().map(|root| root.digest().to_string()),
            agent: agent.map(|digest| digest.to_string()),
            agents: agents(&library),
        })
    }

    fn fitness(&self, ingredients: &TemplateIngredients) -> Fitness {
        if !self.images.contains(&ingredients.image_digest) {
            return Fitness::Useless("its image has been replaced or removed");
        }
        if ingredients.lean_kernel.is_some() && ingredients.lean_kernel != self.lean_kernel {
            return Fitness::Useless("its kernel has been replaced or removed");
        }
        let other_vmm = self.vmm.as_ref().is_some_and(|vmm| *vmm != ingredients.vmm_digest);
        // An initramfs whose record is gone says nothing.
        let made_with = self.agents.get(&ingredients.initramfs_digest);
        let other_agent = made_with.zip(self.agent.as_ref()).is_some_and(|(theirs, ours)| theirs != ours);
        if other_vmm || other_agent { Fitness::Foreign } else { Fitness::Ours }
    }
}

/// Which agent is in which initramfs.
fn agents(library: &Library) -> BTreeMap<String, String> {
    let entries = fs::read_dir(library.boot()).into_iter().flatten().flatten();
    let record = |path: &Path| serde_json::from_slice::<BootRecord>(&fs::read(path).ok()?).ok();
    let records =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "json"));
    records.filter_map(|path| record(&path)).map(|record| (record.sha256, record.agent)).collect()
}

/// What was set aside: at once when it was made anew since, else when it is old.
fn set_asides(shelf: &Shelf, bounds: Bounds, how: How, findings: &mut Findings) -> Result<(), Error> {
    let abandoned: BTreeSet<_> = shelf.abandoned()?.into_iter().map(|(_, path)| path).collect();
    for (key, path) in shelf.set_asides()? {
        let is_abandoned = abandoned.contains(&path);
        if !is_abandoned && age(&path) < bounds.older_than {
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let why = if is_abandoned { "half removed, or made anew since" } else { "set aside long ago" };
        let mut found = Found::new("template", &name, shelf.bytes_of(&name), why);
        if how == How::Remove {
            match Lock::try_take(&shelf.lock_path(&key)) {
                Ok(Some(_lock)) => match fs::remove_dir_all(&path) {
                    Ok(()) => found.removed(),
                    Err(error) => found.failed(&error),
                },
                Ok(None) => found.kept("its template is being made or changed"),
                Err(error) => found.failed(&error),
            }
        }
        findings.add(found);
    }
    Ok(())
}

/// What makers that are dead left half made.
fn scratches(site: &Site, shelf: &Shelf, how: How, findings: &mut Findings) {
    for id in shelf.scratches() {
        let path = super::scratch(&site.places().library(), id);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = shelf.bytes_of(&name);
        let is_over = match reconcile(site, id) {
            Ok(Standing::Over(row)) => super::is_abandoned(site, &row),
            Ok(Standing::Lives(_)) => false,
            // Another store's, whose maker cannot be asked for.
            Err(_) => age(&path) > MAKING_AGE,
        };
        if !is_over {
            continue;
        }
        let mut found = Found::new("template", &name, bytes, "left half made");
        if how == How::Remove {
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => found.failed(&error),
                // Reconciling may have been faster.
                _ => found.removed(),
            }
        }
        findings.add(found);
    }
}

/// Locks of templates that are gone.
fn locks(shelf: &Shelf, how: How, findings: &mut Findings) -> Result<(), Error> {
    for key in shelf.lonely_locks()? {
        let path = shelf.lock_path(&key);
        if Lock::is_held(&path) {
            continue;
        }
        let mut found = Found::new("lock", shorten(&key), 0, "its template is gone");
        if how == How::Remove {
            match Lock::try_take(&path) {
                Ok(Some(lock)) if !shelf.path(&key).exists() => {
                    lock.retire(&path);
                    found.removed();
                }
                Ok(_) => continue,
                Err(error) => found.failed(&error),
            }
        }
        findings.add(found);
    }
    Ok(())
}

fn age(path: &Path) -> Duration {
    let modified = path.symlink_metadata().and_then(|metadata| metadata.modified());
    modified.ok().and_then(|time| SystemTime::now().duration_since(time).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn facts(hours: u32, bytes: u64, in_use: bool, fitness: Fitness) -> Facts {
        Facts { key: format!("{hours}"), unused_for: HOUR * hours, bytes, in_use, fitness }
    }

    fn all() -> Bounds {
        Bounds { older_than: Duration::MAX, keep_bytes: u64::MAX }
    }

    #[test]
    fn each_goes_for_its_reason() {
        let table = [
            facts(0, 1, false, Fitness::Useless("gone")),
            facts(23, 1, false, Fitness::Foreign),
            facts(24, 1, false, Fitness::Foreign),
            facts(1000, 1, false, Fitness::Ours),
        ];
        assert_eq!(choose(&table, all()), [(0, Why::Useless("gone")), (2, Why::Foreign)]);
        let aged = Bounds { older_than: HOUR * 1000, ..all() };
        assert_eq!(choose(&table, aged).last(), Some(&(3, Why::Old)));
        assert_eq!(choose(&table, Bounds { older_than: Duration::ZERO, ..all() }).len(), 4);
    }

    #[test]
    fn the_longest_unused_make_room_and_what_is_in_use_counts_and_stays() {
        let table = [
            facts(3, 10, false, Fitness::Ours),
            facts(9, 10, true, Fitness::Ours),
            facts(5, 10, false, Fitness::Ours),
            facts(1, 10, false, Fitness::Ours),
        ];
        let keep = |keep_bytes| choose(&table, Bounds { keep_bytes, ..all() });
        assert_eq!(keep(40), []);
        assert_eq!(keep(39), [(2, Why::Large)]);
        assert_eq!(keep(20), [(2, Why::Large), (0, Why::Large)]);
        assert_eq!(keep(0), [(2, Why::Large), (0, Why::Large), (3, Why::Large)]);
    }

    fn any_facts() -> impl Strategy<Value = Facts> {
        let fitness = prop_oneof![Just(Fitness::Ours), Just(Fitness::Foreign), Just(Fitness::Useless("x"))];
        (0u32..100, 0u64..1000, any::<bool>(), fitness).prop_map(|(h, b, u, f)| facts(h, b, u, f))
    }

    proptest! {
        #[test]
        fn what_stays_is_below_the_limit_or_all_that_cannot_go(
            table in proptest::collection::vec(any_facts(), 0..20), keep_bytes in 0u64..5000, hours in 0u32..120,
        ) {
            let bounds = Bounds { older_than: HOUR * hours, keep_bytes };
            let chosen = choose(&table, bounds);
            let mut places: Vec<usize> = chosen.iter().map(|(place, _)| *place).collect();
            places.sort_unstable();
            places.dedup();
            prop_assert_eq!(places.len(), chosen.len(), "nothing is chosen twice");
            prop_assert!(chosen.iter().all(|(place, why)| *why != Why::Large || !table[*place].in_use));
            let stays = |place: &usize| table[*place].in_use || !places.contains(place);
            let rest: Vec<usize> = (0..table.len()).filter(stays).collect();
            let total: u64 = rest.iter().map(|place| table[*place].bytes).sum();
            prop_assert!(total <= keep_bytes || rest.iter().all(|place| table[*place].in_use));
            // Nothing that was used later made room while something unused for longer stayed.
            for (large, _) in chosen.iter().filter(|(_, why)| *why == Why::Large) {
                for place in rest.iter().filter(|place| !table[**place].in_use) {
                    prop_assert!(table[*place].unused_for <= table[*large].unused_for);
                }
            }
        }
    }
}
