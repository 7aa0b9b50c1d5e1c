//! Gets a template ready for a run, or says why the run boots cold.

use super::key::key_of;
use super::prune::{make_room, stay_below};
use super::shelf::{Condition, Shelf, scratch};
use super::{TemplateError, is_ready, new_suffix, set_aside_because, shorten, sweep_scratch};
use crate::clock;
use crate::error::{Error, chain};
use crate::incarnation::{self, Ground, Made};
use crate::lock::Lock;
use crate::notice::{Notice, Notify};
use crate::reconcile::journal_of;
use crate::site::Site;
use outlast_machine::host;
use outlast_machine::image::Lease;
use outlast_machine::image::recipe::{GUEST_GID, GUEST_UID, GUEST_WORK};
use outlast_model::limit::{DISK_RESERVE, GUEST_PIDS};
use outlast_model::{DeathCause, DiskFormat, timeout};
use outlast_store::IncarnationRow;
use outlast_wire::intent::{Machine, Program, Purpose, Scratch, Start};
use outlast_wire::journal::JournalEntry;
use outlast_wire::template::{TemplateIngredients, TemplateManifest, VERSION};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

/// The warm-up may take this long: the first compilation of Go takes 30 s in emulation, several times that on
/// a loaded host.
const WARM_UP: Duration = Duration::from_secs(180);
/// What is kept of a warm-up's output, in bytes.
const WARM_UP_OUTPUT: u64 = 64 * 1024;

/// How large the placeholder of a clone's disk is, in bytes.
const PLACEHOLDER_BYTES: u64 = 1 << 20;

const _: () = assert!(WARM_UP.as_secs() + timeout::BOOT.as_secs() <= timeout::TEMPLATE.as_secs());

/// How a run may start.
#[derive(Debug)]
enum Readiness {
    /// From this template, which stays while somebody holds the lease.
    Clone(Start, Lease),
    /// Cold, and why that is not what was wanted, if it is not.
    Cold(Option<String>),
}

/// How an incarnation begins that nobody wants to boot cold: as a clone, whose template `locks` hold from now on, or,
/// where there is none, cold, and why; which is told.
///
/// # Errors
/// Those of getting a template ready.
pub(crate) fn beginning(
    site: &Site,
    ground: &Ground,
    machine: &Machine,
    locks: &mut Vec<Lease>,
    notify: Notify<'_>,
) -> Result<(Start, Option<String>), Error> {
    let because = match ready(site, ground, machine, notify)? {
        Readiness::Clone(start, lease) => {
            locks.push(lease);
            return Ok((start, None));
        }
        Readiness::Cold(because) => because,
    };
    if let Some(because) = &because {
        notify(Notice::Warning(&format!("booting cold: {because}")));
    }
    Ok((Start::Boot, because))
}

/// Gets the template for `machine` ready. Nothing that goes wrong with templates fails the run.
///
/// # Errors
/// Facts about the host that the run itself needs cannot be had.
fn ready(site: &Site, ground: &Ground, machine: &Machine, notify: Notify<'_>) -> Result<Readiness, Error> {
    let ingredients = ground.ingredients(machine)?;
    let key = key_of(&ingredients);
    let shelf = Shelf::at(&site.places().library());
    // Order matters: what is checked is what was leased, and what is cloned.
    let lease = shelf.lease(&key);
    match (shelf.check(&key), lease) {
        (Condition::Ready, Some(lease)) => Ok(clone_of(&shelf, key, lease)),
        (condition, _) => match under_lock(site, ground, (machine, ingredients), &shelf, condition, notify) {
            Ok(readiness) => Ok(readiness),
            Err(error) => {
                notify(Notice::Done);
                Ok(Readiness::Cold(Some(format!("template {}: {}", shorten(&key), chain(&error)))))
            }
        },
    }
}

fn clone_of(shelf: &Shelf, key: String, lease: Lease) -> Readiness {
    Readiness::Clone(Start::Clone { template: shelf.path(&key), key }, lease)
}

fn under_lock(
    site: &Site,
    ground: &Ground,
    (machine, ingredients): (&Machine, TemplateIngredients),
    shelf: &Shelf,
    seen: Condition,
    notify: Notify<'_>,
) -> Result<Readiness, Error> {
    let key = key_of(&ingredients);
    shelf.make()?;
    let image = ingredients.image.clone();
    let Some(_lock) = take_lock(shelf, &key, &image, notify)? else {
        return Ok(Readiness::Cold(Some(
            "another process makes its template and does not come to an end".to_owned(),
        )));
    };
    let lease = shelf.lease(&key);
    match (shelf.check(&key), seen) {
        (condition, _) if is_ready(&condition) => return leased(shelf, key, lease),
        (Condition::Damaged(reason), _) => {
            shelf.set_aside(&key, &new_suffix()?)?;
            // Made anew by the next run: this one is slow enough already.
            return Ok(Readiness::Cold(Some(set_aside_because(&key, &reason))));
        }
        // Somebody else set it aside while we waited; they remade nothing, and neither do we.
        (Condition::Absent, Condition::Damaged(reason)) => {
            return Ok(Readiness::Cold(Some(set_aside_because(&key, &reason))));
        }
        (Condition::Absent | Condition::Ready, _) => {}
    }
    sweep_scratch(site, shelf, &key);
    notify(Notice::MakingTemplate { image: &image });
    let made = make(site, ground, (machine, ingredients), shelf);
    notify(Notice::Done);
    made?;
    // What was set aside has been replaced: kept longer it would only fill the disk.
    if let Err(error) = shelf.remove_set_aside(&key) {
        tracing::warn!(%error, "a template that was set aside stays");
    }
    // Order matters: leased while its lock is held, so that nobody evicts it before it was ever cloned.
    let readiness = leased(shelf, key.clone(), shelf.lease(&key))?;
    stay_below(shelf, site.bounds().templates_bytes, &key);
    Ok(readiness)
}

/// Under the lock of its key nobody removes it, so there is a lease to be had.
fn leased(shelf: &Shelf, key: String, lease: Option<Lease>) -> Result<Readiness, Error> {
    let lease = lease.ok_or_else(|| TemplateError::Busy { key: key.clone() })?;
    Ok(clone_of(shelf, key, lease))
}

fn take_lock(
    shelf: &Shelf,
    key: &str,
    image: &str,
    notify: Notify<'_>,
) -> Result<Option<Lock>, TemplateError> {
    let path = shelf.lock_path(key);
    let failed = |source| TemplateError::Io { operation: "lock", path: path.clone(), source };
    if let Some(lock) = Lock::try_take(&path).map_err(failed)? {
        return Ok(Some(lock));
    }
    notify(Notice::WaitingForTemplate { image });
    let taken = Lock::take(&path, timeout::TEMPLATE + timeout::LADDER).map_err(failed);
    notify(Notice::Done);
    taken
}

/// Boots, warms and saves a machine, and publishes it.
fn make(
    site: &Site,
    ground: &Ground,
    (machine, ingredients): (&Machine, TemplateIngredients),
    shelf: &Shelf,
) -> Result<(), Error> {
    make_room(shelf, machine.memory.saturating_add(DISK_RESERVE));
    check_space(shelf.root(), machine.memory)?;
    let id = incarnation::new_id()?;
    let directory = scratch(&site.places().library(), id);
    let made = DirBuilder::new().mode(0o700).create(&directory);
    let path = directory.clone();
    made.map_err(|source| TemplateError::Io { operation: "make", path, source })?;
    let result = fill(site, ground, (machine, &ingredients), id, &directory).and_then(|()| {
        let manifest = TemplateManifest {
            version: VERSION,
            key: key_of(&ingredients),
            ingredients,
            made_by: id.to_string(),
            made_unix_ns: clock::unix_ns(),
            memory_sha256: String::new(),
            state_sha256: String::new(),
            state_bytes: 0,
        };
        Ok(shelf.publish(&directory, manifest)?)
    });
    if result.is_err() {
        // What cannot be removed now is found by its name later.
        let _ = std::fs::remove_dir_all(&directory);
    }
    result
}

fn check_space(root: &Path, memory: u64) -> Result<(), Error> {
    let (free, needed) = (host::disk_free(root)?, memory.saturating_add(DISK_RESERVE));
    if free < needed {
        return Err(TemplateError::TooLittleSpace { path: root.to_owned(), free, needed }.into());
    }
    Ok(())
}

fn fill(
    site: &Site,
    ground: &Ground,
    (machine, ingredients): (&Machine, &TemplateIngredients),
    id: outlast_model::IncarnationId,
    directory: &Path,
) -> Result<(), Error> {
    let placeholder = machine.scratch.as_ref().map(|_| placeholder(directory)).transpose()?;
    let made = Made {
        purpose: Purpose::Template {
            key: key_of(ingredients),
            directory: directory.to_owned(),
            warm_up: warm_up(ground, machine),
        },
        machine: Machine { scratch: placeholder.clone(), ..machine.clone() },
        start: Start::Boot,
        boot_timeout: timeout::BOOT,
        fell_back: None,
        ingredients: None,
    };
    let row = incarnation::live_through(site, id, made, &ground.locks(), timeout::TEMPLATE)?;
    if !was_saved(site, &row) {
        return Err(maker_failed(&row).into());
    }
    // Order matters: nothing but what clones need is published.
    placeholder.map_or(Ok(()), |disk| {
        let failed = |source| TemplateError::Io { operation: "remove", path: disk.path.clone(), source };
        Ok(std::fs::remove_file(&disk.path).map_err(failed)?)
    })
}

/// What stands where a clone's own disk will be. Nothing is ever read of it or written to it: the guest moves onto its
/// disk when it knows whose it is.
fn placeholder(directory: &Path) -> Result<Scratch, TemplateError> {
    let path = directory.join("placeholder");
    let failed = |source| TemplateError::Io { operation: "make", path: path.clone(), source };
    let file = std::fs::File::create_new(&path).map_err(failed)?;
    file.set_len(PLACEHOLDER_BYTES).map_err(failed)?;
    Ok(Scratch { path, format: DiskFormat::Raw.name().to_owned(), bytes: PLACEHOLDER_BYTES })
}

/// Its end alone does not tell: a maker that was asked to stop before it saved anything ends in peace as well.
fn was_saved(site: &Site, row: &IncarnationRow) -> bool {
    let saved = |entry: &JournalEntry| matches!(entry, JournalEntry::Template { phase } if phase == "saved");
    let in_peace = row.death.as_ref().is_some_and(|death| death.cause == DeathCause::Stopped.name());
    in_peace && journal_of(site, row.id).lines.iter().any(|line| saved(&line.entry))
}

fn maker_failed(row: &IncarnationRow) -> TemplateError {
    let death = row.death.as_ref();
    let evidence = death.and_then(|death| death.evidence.first().cloned());
    TemplateError::MakerFailed {
        incarnation: row.id,
        cause: death.map_or("unknown", |death| death.cause.as_str()).replace('_', " "),
        evidence: evidence.unwrap_or_else(|| "no evidence was kept".to_owned()),
    }
}

/// Starts the interpreter once, as the guest's user, with all the memory that a program may have.
fn warm_up(ground: &Ground, machine: &Machine) -> Option<Program> {
    let runtime = ground.image().manifest().runtime()?;
    if runtime.warm_up.is_empty() {
        return None;
    }
    let needs = ground.needs();
    // The other way round from limit to machine: what of this machine is not the guest's own.
    let rest = machine.memory.saturating_sub(needs.reserve.bytes());
    let share = needs.reserve_share.map_or(0, |share| rest / share);
    let memory = rest.saturating_sub(share).max(needs.min_limit.bytes());
    Some(Program {
        argv: runtime.warm_up.clone(),
        env: crate::request::environment(Some(runtime), &[]),
        cwd: GUEST_WORK.to_owned(),
        uid: GUEST_UID,
        gid: GUEST_GID,
        memory_max: memory,
        pids_max: GUEST_PIDS,
        timeout_ms: u64::try_from(WARM_UP.as_millis()).unwrap_or(u64::MAX),
        output_limit: WARM_UP_OUTPUT,
        stdin: false,
    })
}
