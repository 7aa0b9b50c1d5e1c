//! Where templates lie, and whether one is whole. Files are never changed in place: clones map them.

use super::TemplateError;
use super::key::key_of;
use crate::lock::Lock;
use crate::site::{owned_directory, private_directory};
use outlast_machine::host;
use outlast_machine::image::{Digest, Lease, LibraryError, Solitude, stamp};
use outlast_model::IncarnationId;
use outlast_wire::paths::Library;
use outlast_wire::template::TemplateManifest;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const MANIFEST: &str = "manifest.json";
const MEMORY: &str = "memory";
const STATE: &str = "state";
const MAKING: &str = ".making-";
const SET_ASIDE: &str = ".set-aside-";
/// What is being removed, or was when its remover died.
const REMOVED: &str = "removed";
const LOCK: &str = ".lock-";
/// A key has so many hexadecimal digits.
const KEY_DIGITS: usize = 64;

/// The library's templates.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    library: Library,
    root: PathBuf,
}

/// What a check came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// Clones may start.
    Ready,
    /// There is none.
    Absent,
    /// There is one, and it is not what it should be.
    Damaged(String),
}

/// What an attempt to remove a template that nobody should need came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Eviction {
    /// It is gone.
    Gone,
    /// Somebody clones it, or makes or changes it at this moment.
    InUse,
}

/// A use is written down when the last one that was is older than this.
const USE_NOTED: Duration = Duration::from_secs(60);

/// Where an incarnation makes a template.
pub(crate) fn scratch(library: &Library, id: IncarnationId) -> PathBuf {
    library.templates().join(format!("{MAKING}{id}"))
}

impl Shelf {
    pub(super) fn at(library: &Library) -> Self {
        Self { library: library.clone(), root: library.templates() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    pub(super) fn lock_path(&self, key: &str) -> PathBuf {
        self.root.join(format!("{LOCK}{key}"))
    }

    /// Makes the directory of all templates.
    pub(super) fn make(&self) -> Result<(), crate::site::SiteError> {
        owned_directory(self.library.path())?;
        private_directory(&self.root)
    }

    /// Checks a template: its manifest by reading it, its files by their stamps where those still hold.
    pub(super) fn check(&self, key: &str) -> Condition {
        self.check_with(key, &|path| stamp::digest_of(&self.library, path))
    }

    /// The same by reading every byte, whatever the stamps say.
    pub(super) fn verify(&self, key: &str) -> Condition {
        self.check_with(key, &|path| stamp::rehash(&self.library, path))
    }

    fn check_with(&self, key: &str, digest: &dyn Fn(&Path) -> Result<Digest, LibraryError>) -> Condition {
        let manifest = match self.read(key) {
            Ok(manifest) => manifest,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.path(key).exists() => {
                return Condition::Absent;
            }
            Err(error) => return Condition::Damaged(format!("its manifest cannot be read: {error}")),
        };
        if manifest.key != key || key_of(&manifest.ingredients) != key {
            return Condition::Damaged("its manifest is of another template".to_owned());
        }
        for (name, expected) in [(MEMORY, &manifest.memory_sha256), (STATE, &manifest.state_sha256)] {
            match digest(&self.path(key).join(name)) {
                Ok(found) if found.to_string() == *expected => {}
                Ok(_) => return Condition::Damaged(format!("its file '{name}' has changed")),
                Err(error) => {
                    return Condition::Damaged(format!("its file '{name}' cannot be read: {error}"));
                }
            }
        }
        Condition::Ready
    }

    /// Reads a manifest; one of a newer format is as unreadable as rubbish.
    pub(super) fn read(&self, key: &str) -> io::Result<TemplateManifest> {
        let bytes = fs::read(self.path(key).join(MANIFEST))?;
        TemplateManifest::parse(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Publishes what lies in `scratch`: synced, hashed, read-only, then visible in one step.
    pub(super) fn publish(
        &self,
        scratch: &Path,
        mut manifest: TemplateManifest,
    ) -> Result<(), TemplateError> {
        let failed = |operation: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source| TemplateError::Io { operation, path, source }
        };
        for name in [MEMORY, STATE] {
            let path = scratch.join(name);
            // The memory belonged to the VMM that made it, whose user id another may have later.
            let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
            chown(&path, Some(uid), Some(gid)).map_err(failed("take back", &path))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o444))
                .map_err(failed("protect", &path))?;
            let file = File::open(&path).map_err(failed("open", &path))?;
            file.sync_all().map_err(failed("sync", &path))?;
        }
        let digest = |name: &str| {
            outlast_machine::digest::sha256_file(&scratch.join(name)).map_err(TemplateError::Hash)
        };
        manifest.memory_sha256 = digest(MEMORY)?;
        manifest.state_sha256 = digest(STATE)?;
        let state = scratch.join(STATE);
        manifest.state_bytes = fs::metadata(&state).map_err(failed("read", &state))?.len();
        let path = scratch.join(MANIFEST);
        write_new(&path, &manifest).map_err(failed("write", &path))?;
        sync_directory(scratch).map_err(failed("sync", scratch))?;
        let target = self.path(&manifest.key);
        fs::rename(scratch, &target).map_err(failed("publish", &target))?;
        sync_directory(&self.root).map_err(failed("sync", &self.root))?;
        // Stamps them, so that the first clone need not hash them again. Not being able to is no failure.
        for name in [MEMORY, STATE] {
            let _ = stamp::digest_of(&self.library, &target.join(name));
        }
        Ok(())
    }

    /// Keeps a template from being removed by anybody but who names it; `None` when there is none to keep. Its use
    /// is noted as its directory's modification time, which nothing else changes once it is published.
    pub(super) fn lease(&self, key: &str) -> Option<Lease> {
        let lease = Lease::on(&self.path(key)).ok().flatten()?;
        let now = SystemTime::now();
        let noted = lease.file().metadata().and_then(|metadata| metadata.modified());
        if noted.is_ok_and(|noted| now.duration_since(noted).is_ok_and(|age| age > USE_NOTED)) {
            // In a library of somebody else's it cannot be noted; its owner's uses count there.
            let _ = lease.file().set_modified(now);
        }
        Some(lease)
    }

    /// How long ago it was used last, or made.
    pub(super) fn unused_for(&self, key: &str) -> Duration {
        let modified = self.path(key).metadata().and_then(|metadata| metadata.modified());
        modified.ok().and_then(|time| time.elapsed().ok()).unwrap_or_default()
    }

    /// Whether somebody clones it, or makes or changes it at this moment.
    pub(super) fn is_in_use(&self, key: &str) -> bool {
        let alone = Solitude::of(&self.path(key));
        Lock::is_held(&self.lock_path(key)) || !matches!(alone, Ok(Some(_)))
    }

    /// Removes a template, unless it is in use.
    pub(super) fn evict(&self, key: &str) -> Result<Eviction, TemplateError> {
        let path = self.lock_path(key);
        let taken = Lock::try_take(&path);
        let taken =
            taken.map_err(|source| TemplateError::Io { operation: "lock", path: path.clone(), source })?;
        let Some(lock) = taken else { return Ok(Eviction::InUse) };
        let alone = Solitude::of(&self.path(key)).map_err(TemplateError::Lease)?;
        if alone.is_none() && self.path(key).exists() {
            return Ok(Eviction::InUse);
        }
        self.remove(key)?;
        lock.retire(&path);
        Ok(Eviction::Gone)
    }

    /// The keys of locks beside which there is nothing to lock.
    pub(super) fn lonely_locks(&self) -> Result<Vec<String>, TemplateError> {
        let names = self.names()?;
        let is_there = |key: &str| {
            let aside = format!("{SET_ASIDE}{key}-");
            names.iter().any(|name| name == key || name.starts_with(&aside))
        };
        let keys = names.iter().filter_map(|name| name.strip_prefix(LOCK)).filter(|key| !is_there(key));
        Ok(keys.map(str::to_owned).collect())
    }

    /// Takes a template out of use, to be looked at until it is made again; one that was set aside before goes.
    pub(super) fn set_aside(&self, key: &str, suffix: &str) -> Result<(), TemplateError> {
        self.remove_set_aside(key)?;
        let from = self.path(key);
        let renamed = fs::rename(&from, self.root.join(format!("{SET_ASIDE}{key}-{suffix}")));
        renamed.map_err(|source| TemplateError::Io { operation: "set aside", path: from, source })
    }

    /// Removes a template and what was set aside of it.
    pub(super) fn remove(&self, key: &str) -> Result<(), TemplateError> {
        self.remove_set_aside(key)?;
        // Order matters: first out of sight in one step, so that no run finds half of it.
        let (path, aside) = (self.path(key), self.root.join(format!("{SET_ASIDE}{key}-{REMOVED}")));
        if !path.exists() {
            return Ok(());
        }
        let renamed = fs::rename(&path, &aside).and_then(|()| fs::remove_dir_all(&aside));
        for name in [MEMORY, STATE] {
            stamp::forget(&self.library, &path.join(name));
        }
        renamed.map_err(|source| TemplateError::Io { operation: "remove", path, source })
    }

    /// Removes what was set aside of a template.
    pub(super) fn remove_set_aside(&self, key: &str) -> Result<(), TemplateError> {
        let prefix = format!("{SET_ASIDE}{key}-");
        for name in self.names()?.into_iter().filter(|name| name.starts_with(&prefix)) {
            let path = self.root.join(name);
            fs::remove_dir_all(&path).map_err(|source| TemplateError::Io {
                operation: "remove",
                path,
                source,
            })?;
        }
        Ok(())
    }

    /// The keys of all published templates, sorted.
    pub(super) fn keys(&self) -> Result<Vec<String>, TemplateError> {
        let is_key = |name: &String| name.len() == KEY_DIGITS && name.bytes().all(|b| b.is_ascii_hexdigit());
        Ok(self.names()?.into_iter().filter(is_key).collect())
    }

    /// What was set aside, with the keys it was set aside of.
    pub(super) fn set_asides(&self) -> Result<Vec<(String, PathBuf)>, TemplateError> {
        let key_of_name = |name: String| {
            let key = name.strip_prefix(SET_ASIDE)?.get(..KEY_DIGITS)?.to_owned();
            Some((key, self.root.join(name)))
        };
        Ok(self.names()?.into_iter().filter_map(key_of_name).collect())
    }

    /// What was set aside and is of no use any more: removed in part, or made anew since.
    pub(super) fn abandoned(&self) -> Result<Vec<(String, PathBuf)>, TemplateError> {
        let is_removed = |path: &Path| path.to_string_lossy().ends_with(&format!("-{REMOVED}"));
        let mut found = self.set_asides()?;
        found.retain(|(key, path)| is_removed(path) || self.path(key).exists());
        Ok(found)
    }

    /// What is being made and what was set aside, with a word for which.
    pub(super) fn others(&self) -> Result<Vec<(String, &'static str)>, TemplateError> {
        let word = |name: String| {
            if name.starts_with(MAKING) {
                Some((name, "making"))
            } else if name.starts_with(SET_ASIDE) {
                Some((name, "set-aside"))
            } else {
                None
            }
        };
        Ok(self.names()?.into_iter().filter_map(word).collect())
    }

    /// The incarnations that make, or made, templates here.
    pub(super) fn scratches(&self) -> Vec<IncarnationId> {
        let names = self.names().unwrap_or_default();
        names.iter().filter_map(|name| name.strip_prefix(MAKING)?.parse().ok()).collect()
    }

    /// Bytes on disk of one entry; memory files have holes.
    pub(super) fn bytes_of(&self, name: &str) -> u64 {
        let Ok(entries) = fs::read_dir(self.root.join(name)) else { return 0 };
        let sizes = entries
            .filter_map(|entry| entry.ok()?.metadata().ok())
            .map(|metadata| host::bytes_on_disk(&metadata));
        sizes.sum()
    }

    fn names(&self) -> Result<Vec<String>, TemplateError> {
        let failed = |source| TemplateError::Io { operation: "list", path: self.root.clone(), source };
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry.map_err(failed)?.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    }
}

fn write_new(path: &Path, manifest: &TemplateManifest) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o444).open(path)?;
    file.write_all(&serde_json::to_vec_pretty(manifest)?)?;
    file.sync_all()
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::super::key::tests::ingredients;
    use super::*;
    use outlast_wire::template::VERSION;
    use std::os::unix::fs::MetadataExt as _;

    fn shelf() -> (tempfile::TempDir, Shelf, String) {
        let top = tempfile::tempdir().unwrap();
        let shelf = Shelf::at(&Library::at(top.path().join("library")));
        shelf.make().unwrap();
        (top, shelf, key_of(&ingredients()))
    }

    fn manifest(key: &str) -> TemplateManifest {
        TemplateManifest {
            version: VERSION,
            key: key.to_owned(),
            ingredients: ingredients(),
            made_by: "test".to_owned(),
            made_unix_ns: 1,
            memory_sha256: String::new(),
            state_sha256: String::new(),
            state_bytes: 0,
        }
    }

    fn put(shelf: &Shelf, key: &str) {
        let scratch = shelf.root().join(".making-x");
        fs::create_dir(&scratch).unwrap();
        fs::write(scratch.join(MEMORY), vec![1; 4096]).unwrap();
        fs::write(scratch.join(STATE), b"state").unwrap();
        shelf.publish(&scratch, manifest(key)).unwrap();
    }

    #[test]
    fn what_is_published_is_ready_read_only_and_listed() {
        let (_top, shelf, key) = shelf();
        assert_eq!(shelf.check(&key), Condition::Absent);
        put(&shelf, &key);
        assert_eq!(shelf.check(&key), Condition::Ready);
        assert_eq!(shelf.keys().unwrap(), [key.as_str()]);
        for name in [MANIFEST, MEMORY, STATE] {
            let mode = shelf.path(&key).join(name).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o444, "{name}");
        }
        assert_eq!(shelf.read(&key).unwrap().state_bytes, 5);
    }

    #[test]
    fn one_with_a_lease_is_not_evicted_and_a_lease_is_not_had_of_one_that_goes() {
        let (_top, shelf, key) = shelf();
        assert!(shelf.lease(&key).is_none() && shelf.evict(&key).unwrap() == Eviction::Gone);
        put(&shelf, &key);
        let lease = shelf.lease(&key).unwrap();
        assert!(shelf.is_in_use(&key));
        assert_eq!(shelf.evict(&key).unwrap(), Eviction::InUse);
        drop(lease);
        assert!(!shelf.is_in_use(&key));
        assert_eq!(shelf.evict(&key).unwrap(), Eviction::Gone);
        assert!(shelf.names().unwrap().is_empty(), "its lock went with it");
    }

    #[test]
    fn a_use_is_noted_and_nothing_of_the_template_changes() {
        let (_top, shelf, key) = shelf();
        put(&shelf, &key);
        let long_ago = SystemTime::now() - Duration::from_secs(7200);
        File::open(shelf.path(&key)).unwrap().set_modified(long_ago).unwrap();
        assert!(shelf.unused_for(&key) >= Duration::from_secs(7199));
        let changed = || shelf.path(&key).join(MEMORY).metadata().unwrap().ctime_nsec();
        let before = changed();
        drop(shelf.lease(&key).unwrap());
        assert!(shelf.unused_for(&key) < Duration::from_secs(3600));
        assert_eq!(changed(), before);
        assert_eq!(shelf.check(&key), Condition::Ready);
    }

    #[test]
    fn locks_without_a_template_are_told() {
        let (_top, shelf, key) = shelf();
        put(&shelf, &key);
        for key in [&key, &"0".repeat(64)] {
            drop(Lock::try_take(&shelf.lock_path(key)).unwrap());
        }
        assert_eq!(shelf.lonely_locks().unwrap(), ["0".repeat(64)]);
    }

    #[test]
    fn every_kind_of_damage_is_seen() {
        let damages: [fn(&Path); 5] = [
            |path| {
                fs::remove_file(path.join(MEMORY)).unwrap();
                fs::write(path.join(MEMORY), vec![2; 4096]).unwrap();
            },
            |path| fs::remove_file(path.join(STATE)).unwrap(),
            |path| fs::remove_file(path.join(MANIFEST)).unwrap(),
            |path| {
                fs::remove_file(path.join(MANIFEST)).unwrap();
                fs::write(path.join(MANIFEST), b"{").unwrap();
            },
            |path| {
                let text =
                    fs::read_to_string(path.join(MANIFEST)).unwrap().replace("\"vcpus\": 1", "\"vcpus\": 2");
                fs::remove_file(path.join(MANIFEST)).unwrap();
                fs::write(path.join(MANIFEST), text).unwrap();
            },
        ];
        for (number, damage) in damages.iter().enumerate() {
            let (_top, shelf, key) = shelf();
            put(&shelf, &key);
            damage(&shelf.path(&key));
            assert!(matches!(shelf.check(&key), Condition::Damaged(_)), "damage {number}");
        }
    }

    #[test]
    fn what_is_set_aside_makes_room_and_only_the_newest_stays() {
        let (_top, shelf, key) = shelf();
        for suffix in ["one", "two"] {
            put(&shelf, &key);
            shelf.set_aside(&key, suffix).unwrap();
            assert_eq!(shelf.check(&key), Condition::Absent);
        }
        assert_eq!(shelf.others().unwrap(), [(format!("{SET_ASIDE}{key}-two"), "set-aside")]);
        assert!(shelf.abandoned().unwrap().is_empty(), "it may be looked at");
        put(&shelf, &key);
        assert_eq!(shelf.abandoned().unwrap().len(), 1, "it was made anew");
        shelf.remove(&key).unwrap();
        assert!(shelf.names().unwrap().is_empty());
        fs::create_dir(shelf.root().join(format!("{SET_ASIDE}{key}-{REMOVED}"))).unwrap();
        assert_eq!(shelf.abandoned().unwrap()[0].0, key);
        shelf.remove(&key).unwrap();
        assert!(shelf.names().unwrap().is_empty());
    }
}
