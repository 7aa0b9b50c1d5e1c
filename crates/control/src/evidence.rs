//! The evidence of runs that are over: how long it is kept, and its removal. The rows, with outcome and death
//! certificate, stay for ever.
//!
//! ```text
//!   HOME/incarnations/INC            kept while among the newest, and young
//!   HOME/incarnations/.pruning-INC   on its way out, or what was left of it by a pruning that died
//! ```
//!
//! Who reads the evidence of a run that may be over by then has a lease on its directory.

use crate::clock;
use crate::error::Error;
use crate::prune::{Findings, Found, How};
use crate::site::Site;
use outlast_machine::host;
use outlast_machine::image::{Lease, Solitude};
use outlast_model::{Age, IncarnationId, IncarnationState};
use outlast_store::{IncarnationRow, Store};
use outlast_wire::paths::Evidence;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Before the name of what is being removed.
const PRUNING: &str = ".pruning-";
/// Unasked, pruning begins when there are so many more than may stay: one in this many of them.
const SLACK: usize = 10;
/// How many a run removes at most, beside its own work.
const RETAINED_AT_ONCE: usize = 32;
/// How long a run removes at most; what it has begun is out of sight, and the next one goes on with it.
const RETAINING: Duration = Duration::from_millis(20);

/// How much is removed at once.
#[derive(Debug, Clone, Copy)]
struct Budget {
    most: usize,
    until: Option<Instant>,
}

impl Budget {
    const ALL: Self = Self { most: usize::MAX, until: None };

    /// Asked after something was removed, so that every run comes further.
    fn is_spent(self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }
}

/// Keeps the evidence of an incarnation from being pruned. Without it a reader may be told that it is gone.
pub(crate) fn read(site: &Site, id: IncarnationId) -> Option<Lease> {
    Lease::on(site.places().evidence(id).path()).ok().flatten()
}

/// Whether the evidence of an incarnation that is over has been removed.
pub(crate) fn is_pruned(evidence: &Evidence, row: &IncarnationRow) -> bool {
    row.state == IncarnationState::Ended && !evidence.path().exists()
}

/// Removes the oldest when there are many more than may stay. Usually this looks at one directory and does
/// nothing; what it cannot do is done by the next run.
pub(crate) fn retain(site: &Site) {
    retain_within(site, RETAINING);
}

fn retain_within(site: &Site, time: Duration) {
    let keep = site.bounds().evidence_runs;
    if count(&site.places().incarnations()) <= keep.saturating_add(keep / SLACK) {
        return;
    }
    let budget = Budget { most: RETAINED_AT_ONCE, until: Instant::now().checked_add(time) };
    if let Err(error) = prune_some(site, None, How::Remove, budget, &mut Findings::default()) {
        tracing::warn!(%error, "evidence of old runs was not removed");
    }
}

/// How many directories there are in it, without reading it where the file system counts them in its links.
fn count(directory: &Path) -> usize {
    match directory.metadata().map(|metadata| metadata.nlink()) {
        Ok(links) if links >= 2 => usize::try_from(links - 2).unwrap_or(usize::MAX),
        Ok(_) => fs::read_dir(directory).map_or(0, Iterator::count),
        Err(_) => 0,
    }
}

/// Finds what need not be kept any longer, and removes it when asked to.
///
/// # Errors
/// The store cannot be read.
pub(crate) fn prune(site: &Site, age: Option<Age>, how: How, findings: &mut Findings) -> Result<(), Error> {
    prune_some(site, age, how, Budget::ALL, findings)
}

/// As [`prune`], and no more than so much.
fn prune_some(
    site: &Site,
    age: Option<Age>,
    how: How,
    budget: Budget,
    findings: &mut Findings,
) -> Result<(), Error> {
    let Some(store) = site.existing_store()? else { return Ok(()) };
    let names = names(&site.places().incarnations());
    if !finish_all(site, &names, how, budget, findings) {
        return Ok(());
    }
    let ids = names.iter().filter_map(|name| name.parse().ok()).collect();
    let older_than = age.unwrap_or(site.bounds().evidence_age).duration();
    let chosen = choose(ids, site.bounds().evidence_runs, older_than, clock::unix_ns() / 1_000_000);
    for (id, why) in chosen.into_iter().take(budget.most) {
        if is_over(store, id)? {
            remove(site, (id, why), how, budget, findings);
        }
        if budget.is_spent() {
            break;
        }
    }
    Ok(())
}

/// Which may go, oldest first: those beyond the newest `keep`, and those that began longer ago than `older_than`.
fn choose(
    mut ids: Vec<IncarnationId>,
    keep: usize,
    older_than: Duration,
    now_ms: u64,
) -> Vec<(IncarnationId, &'static str)> {
    ids.sort();
    let beyond = ids.len().saturating_sub(keep);
    let is_old =
        |id: &IncarnationId| u128::from(now_ms.saturating_sub(id.unix_ms())) >= older_than.as_millis();
    let why = |(place, id): (usize, &IncarnationId)| match (place < beyond, is_old(id)) {
        (true, _) => Some((*id, "there are enough newer ones")),
        (false, true) => Some((*id, "it is old")),
        (false, false) => None,
    };
    ids.iter().enumerate().filter_map(why).collect()
}

/// What has no row is the doctor's to tell, and what is not over is nobody's to take.
fn is_over(store: &Store, id: IncarnationId) -> Result<bool, Error> {
    Ok(store.incarnation(id)?.is_some_and(|row| row.state == IncarnationState::Ended))
}

fn remove(site: &Site, (id, why): (IncarnationId, &str), how: How, budget: Budget, findings: &mut Findings) {
    let path = site.places().evidence(id).path().to_owned();
    let mut found = Found::new("evidence", &id.to_string(), bytes_of(&path, budget), why);
    match (Solitude::of(&path), how) {
        (Ok(None), _) => found.kept("somebody reads it"),
        (Err(error), _) => found.failed(&error),
        (Ok(Some(_)), How::Look) => {}
        // Order matters: first out of sight in one step, so that nobody finds half of it.
        (Ok(Some(_alone)), How::Remove) => {
            let aside = path.with_file_name(format!("{PRUNING}{id}"));
            match fs::rename(&path, &aside).and_then(|()| remove_tree(&aside, budget)) {
                Ok(_) => found.removed(),
                Err(error) => found.failed(&error),
            }
        }
    }
    findings.add(found);
}

/// Goes on with what a pruning that died had begun, for a moment: whoever looks at everything does that, too.
pub(crate) fn finish_interrupted(site: &Site) {
    let budget = Budget { most: 0, until: Instant::now().checked_add(RETAINING) };
    finish_all(site, &names(&site.places().incarnations()), How::Remove, budget, &mut Findings::default());
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

/// Whether there is time for more. It is asked after something was removed, so that every run comes further.
fn finish_all(site: &Site, names: &[String], how: How, budget: Budget, findings: &mut Findings) -> bool {
    let directory = site.places().incarnations();
    for name in names.iter().filter(|name| name.starts_with(PRUNING)) {
        finish(&directory.join(name), how, budget, findings);
        if budget.is_spent() {
            return false;
        }
    }
    true
}

/// What a pruning that died had begun.
fn finish(path: &Path, how: How, budget: Budget, findings: &mut Findings) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut found = Found::new("evidence", &name, bytes_of(path, budget), "half removed");
    if how == How::Remove {
        match remove_tree(path, budget) {
            Ok(_) => found.removed(),
            Err(error) => found.failed(&error),
        }
    }
    findings.add(found);
}

/// Removes a tree, or a part of it; tells whether it is gone. Two may remove the same at once.
fn remove_tree(path: &Path, budget: Budget) -> io::Result<bool> {
    let absent_is_gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    if budget.until.is_none() {
        return absent_is_gone(fs::remove_dir_all(path)).map(|()| true);
    }
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            if !remove_tree(&entry.path(), budget)? {
                return Ok(false);
            }
        } else {
            absent_is_gone(fs::remove_file(entry.path()))?;
        }
        if budget.is_spent() {
            return Ok(false);
        }
    }
    absent_is_gone(fs::remove_dir(path)).map(|()| true)
}

/// Bytes on disk of everything below, where anybody is told. What cannot be looked at counts nothing.
fn bytes_of(path: &Path, budget: Budget) -> u64 {
    if budget.until.is_some() {
        return 0;
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.fold(0u64, |sum, entry| {
        let Ok(metadata) = entry.metadata() else { return sum };
        let below = if metadata.is_dir() { bytes_of(&entry.path(), budget) } else { 0 };
        sum.saturating_add(below).saturating_add(host::bytes_on_disk(&metadata))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::accept;
    use outlast_model::DeathCause;
    use outlast_store::Owner;
    use outlast_wire::record::{DeathRecord, EndRecord, OutcomeRecord, Timings};
    use proptest::prelude::*;

    fn end(stage: &crate::testing::Stage) {
        let outcome = outlast_model::Outcome::NotStarted {
            step: outlast_model::BootStep::Claim,
            cause: "test".to_owned(),
        };
        let record = EndRecord {
            failed_start: None,
            outcome: Some(OutcomeRecord::from(&outcome)),
            death: DeathRecord::new(&DeathCause::NeverClaimed, vec![], 1, "reconciler"),
            output_log_bytes: 0,
            truncated_bytes: 0,
            timings: Timings::default(),
        };
        let owner = Owner::Reconciler { expected: IncarnationState::Intended, runner: None };
        stage.site.store().unwrap().end(stage.incarnation, &owner, &record).unwrap();
    }

    fn pruned(stage: &crate::testing::Stage, how: How) -> Vec<outlast_wire::view::PrunedView> {
        let mut findings = Findings::default();
        prune(&stage.site, Some("0".parse().unwrap()), how, &mut findings).unwrap();
        findings.into_views()
    }

    #[test]
    fn what_is_over_goes_and_its_row_stays_and_what_lives_or_is_read_stays() {
        let stage = accept(Duration::ZERO);
        let evidence = stage.site.places().evidence(stage.incarnation);
        assert!(pruned(&stage, How::Remove).is_empty() && evidence.path().exists(), "it is not over");
        end(&stage);
        let reading = read(&stage.site, stage.incarnation).unwrap();
        assert!(pruned(&stage, How::Remove)[0].kept_because.is_some() && evidence.path().exists());
        drop(reading);
        assert!(!pruned(&stage, How::Look)[0].removed && evidence.path().exists());
        assert!(pruned(&stage, How::Remove)[0].removed && !evidence.path().exists());
        let row = stage.site.store().unwrap().incarnation(stage.incarnation).unwrap().unwrap();
        assert!(row.death.is_some() && is_pruned(&evidence, &row));
        assert!(pruned(&stage, How::Remove).is_empty(), "twice is as good as once");
    }

    #[test]
    fn what_a_pruning_that_died_had_begun_is_finished() {
        let stage = accept(Duration::ZERO);
        let half = stage.site.places().incarnations().join(format!("{PRUNING}{}", stage.incarnation));
        fs::create_dir_all(half.join("outputs")).unwrap();
        assert!(pruned(&stage, How::Remove)[0].removed && !half.exists());
    }

    #[test]
    fn whoever_looks_at_everything_finishes_it_too() {
        let stage = accept(Duration::ZERO);
        let half = stage.site.places().incarnations().join(format!("{PRUNING}{}", stage.incarnation));
        fs::create_dir_all(half.join("outputs")).unwrap();
        assert!(crate::reconcile::reconcile_all(&stage.site).unwrap().is_empty());
        assert!(!half.exists());
    }

    #[test]
    fn unasked_it_begins_when_there_are_many_more_than_may_stay() {
        let mut stage = accept(Duration::ZERO);
        end(&stage);
        let path = stage.site.places().evidence(stage.incarnation).path().to_owned();
        retain(&stage.site);
        assert!(path.exists());
        let bounds = crate::Bounds { evidence_runs: 0, ..crate::Bounds::default() };
        let places = stage.site.places().clone();
        stage.site = Site::new(places, "/".into()).with_bounds(bounds);
        retain(&stage.site);
        assert!(!path.exists());
    }

    #[test]
    fn a_run_spends_little_time_on_it_and_the_next_ones_go_on() {
        let mut stage = accept(Duration::ZERO);
        end(&stage);
        let path = stage.site.places().evidence(stage.incarnation).path().to_owned();
        let outputs = path.join("outputs/deep");
        fs::create_dir_all(&outputs).unwrap();
        for number in 0..50 {
            fs::write(outputs.join(number.to_string()), "").unwrap();
        }
        let bounds = crate::Bounds { evidence_runs: 0, ..crate::Bounds::default() };
        stage.site = Site::new(stage.site.places().clone(), "/".into()).with_bounds(bounds);
        let aside = path.with_file_name(format!("{PRUNING}{}", stage.incarnation));
        let mut runs = 0;
        while path.exists() || aside.exists() {
            retain_within(&stage.site, Duration::ZERO);
            assert!(!path.exists(), "out of sight at once");
            runs += 1;
            assert!(runs <= 60, "every run comes further");
        }
        assert!(runs > 10, "none does it all: {runs}");
    }

    proptest! {
        #[test]
        fn the_newest_and_young_stay(times in proptest::collection::vec(0u64..1000, 0..40), keep in 0usize..50, age in 0u64..1100) {
            let ids: Vec<IncarnationId> =
                (0u128..).zip(&times).map(|(n, ms)| IncarnationId::from_parts(*ms, n)).collect();
            let gone = choose(ids.clone(), keep, Duration::from_millis(age), 1000);
            let gone: Vec<IncarnationId> = gone.into_iter().map(|(id, _)| id).collect();
            let stay: Vec<&IncarnationId> = ids.iter().filter(|id| !gone.contains(id)).collect();
            prop_assert!(stay.len() <= keep);
            prop_assert!(stay.iter().all(|id| 1000 - id.unix_ms() < age));
            // Nothing goes without a reason.
            for id in &gone {
                let newer = ids.iter().filter(|other| *other > id).count();
                prop_assert!(newer >= keep || 1000 - id.unix_ms() >= age);
            }
        }
    }
}
