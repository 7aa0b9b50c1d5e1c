//! Where the snapshots of one VM lie, and what is half made or half removed there. Nothing in here knows what a
//! snapshot holds.
//!
//! ```text
//!   HOME/vms/VM/snapshots/NAME/       whole: published by rename, never changed
//!                        /.new-ID/    being made; its maker holds a lock on the directory
//!                        /.gone-ID/   being removed, likewise
//! ```
//!
//! What begins with a dot and is not locked was left by somebody who died, and goes when anybody looks.

use super::error::SnapshotError;
use crate::incarnation::{Preparation, lock_alone, take_over};
use crate::site::Site;
use outlast_machine::host;
use outlast_machine::lock::{self, Hold};
use outlast_model::{SnapshotId, SnapshotName, VmId, timeout};
use outlast_wire::paths::{SnapshotDirectory, VmDirectory};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Before the id of a removal in the name of what is being removed.
const GOING: &str = ".gone-";

/// The snapshots of one VM.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    vm: VmDirectory,
    root: PathBuf,
}

/// A snapshot's directory that has no name yet, and a lock on it.
#[derive(Debug)]
pub(super) struct Making {
    directory: SnapshotDirectory,
    vm: VmDirectory,
    _lock: File,
}

/// What became of a wish for a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Publication {
    /// It has it.
    Done,
    /// Another snapshot has it.
    Taken,
    /// What was to be published is not there any more.
    Vanished,
}

impl Shelf {
    pub(super) fn of(site: &Site, vm: VmId) -> Self {
        Self::at(site.places().vm(vm))
    }

    fn at(vm: VmDirectory) -> Self {
        Self { root: vm.snapshots(), vm }
    }

    /// Where its parts lie.
    pub(super) fn directory(&self, name: &SnapshotName) -> SnapshotDirectory {
        self.vm.snapshot(name)
    }

    pub(super) fn has(&self, name: &SnapshotName) -> bool {
        self.directory(name).path().symlink_metadata().is_ok()
    }

    /// The names of all that are published, sorted.
    pub(super) fn names(&self) -> Result<Vec<SnapshotName>, SnapshotError> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed("list", &self.root))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed("list", &self.root))?.file_name();
            names.extend(name.to_str().and_then(|name| name.parse::<SnapshotName>().ok()));
        }
        names.sort();
        Ok(names)
    }

    /// Makes a directory for a new snapshot, locked.
    pub(super) fn begin(&self, id: SnapshotId) -> Result<Making, SnapshotError> {
        // Not recursive: a VM that is removed at this moment is not to have a directory again.
        match DirBuilder::new().mode(0o700).create(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(failed("make", &self.root))?,
        }
        let directory = self.vm.new_snapshot(id);
        let path = directory.path();
        // Order matters: nobody takes it for what a dead maker left before it is locked.
        let _alone = self.alone().map_err(failed("lock", &self.root))?;
        // Not recursive: it must be new.
        let locked = DirBuilder::new().mode(0o700).create(path).and_then(|()| open_locked(path));
        let lock = locked.map_err(failed("make", path))?;
        Ok(Making { directory, vm: self.vm.clone(), _lock: lock })
    }

    /// Takes a snapshot away; `false` when there is none of that name.
    pub(super) fn remove(&self, name: &SnapshotName, removal: SnapshotId) -> Result<bool, SnapshotError> {
        let (path, aside) =
            (self.directory(name).path().to_owned(), self.root.join(format!("{GOING}{removal}")));
        let _lock = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            opened => {
                let directory = opened.map_err(failed("open", &path))?;
                // Somebody else who removes it holds it: whoever renames it first has removed it.
                let _ = lock_alone(&directory);
                directory
            }
        };
        // Order matters: first out of sight in one step, so that nobody finds half of it.
        match fs::rename(&path, &aside).and_then(|()| sync(&self.root)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            renamed => renamed.map_err(failed("remove", &path))?,
        }
        unless_gone(fs::remove_dir_all(&aside)).map_err(failed("remove", &aside))?;
        Ok(true)
    }

    /// What somebody left here who died at it.
    pub(super) fn half_made(&self) -> Vec<PathBuf> {
        self.taken_over().into_iter().map(|(path, _)| path).collect()
    }

    /// Removes it. What cannot be removed stays visible to `doctor`.
    pub(super) fn sweep(&self) {
        for (path, _lock) in self.taken_over() {
            if let Err(error) = unless_gone(fs::remove_dir_all(&path)) {
                tracing::warn!(%error, path = %path.display(), "a half-made snapshot stays");
            }
        }
    }
}

impl Shelf {
    /// What nobody is at work in, each with its lock.
    fn taken_over(&self) -> Vec<(PathBuf, Preparation)> {
        let Ok(entries) = fs::read_dir(&self.root) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let is_hidden =
            |name: &String| VmDirectory::new_snapshot_named(name).is_some() || name.starts_with(GOING);
        let hidden: Vec<String> = names.filter(is_hidden).collect();
        if hidden.is_empty() {
            return Vec::new();
        }
        // Who is not let in here looks again later, or somebody else does.
        let Ok(_alone) = self.alone() else { return Vec::new() };
        let lock = |name: String| {
            let path = self.root.join(name);
            take_over(&path).map(|lock| (path, lock))
        };
        hidden.into_iter().filter_map(lock).collect()
    }

    /// Keeps others from making a directory here, or taking one over, for as long as it is held: a moment.
    fn alone(&self) -> io::Result<File> {
        let held = lock::lock(File::open(&self.root)?, Hold::Exclusive, timeout::CONTROL)?;
        held.ok_or_else(|| io::ErrorKind::ResourceBusy.into())
    }
}

impl Making {
    /// Where its parts lie.
    pub(super) fn directory(&self) -> &SnapshotDirectory {
        &self.directory
    }

    /// Gives it its name in one step. Everything in it is on the disk by then, and so is its name afterwards.
    pub(super) fn publish(&self, name: &SnapshotName) -> Result<Publication, SnapshotError> {
        let (path, root) = (self.directory.path(), self.vm.snapshots());
        match sync(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Publication::Vanished),
            synced => synced.map_err(failed("sync", path))?,
        }
        let target = self.vm.snapshot(name).path().to_owned();
        match rustix::fs::renameat_with(CWD, path, CWD, &target, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => return Ok(Publication::Taken),
            Err(Errno::NOENT) => return Ok(Publication::Vanished),
            renamed => renamed.map_err(|errno| failed("name", &target)(errno.into()))?,
        }
        sync(&root).map_err(failed("sync", &root))?;
        Ok(Publication::Done)
    }

    /// Removes what was made. What cannot be removed now is found by its name later.
    pub(super) fn discard(self) {
        let path = self.directory.path();
        if let Err(error) = unless_gone(fs::remove_dir_all(path)) {
            tracing::warn!(%error, path = %path.display(), "what was made of a snapshot stays");
        }
    }
}

/// Bytes on disk of everything in a directory; files may have holes.
pub(super) fn bytes_in(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|found| host::bytes_on_disk(&found)).sum()
}

pub(super) fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
    let path = path.to_owned();
    move |source| SnapshotError::Io { operation, path, source }
}

fn open_locked(path: &Path) -> io::Result<File> {
    let directory = File::open(path)?;
    lock_alone(&directory)?;
    Ok(directory)
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

pub(super) fn unless_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shelf() -> (tempfile::TempDir, Shelf) {
        let top = tempfile::tempdir().unwrap();
        let vm = VmDirectory::at(top.path().join("vm"));
        fs::create_dir(vm.path()).unwrap();
        (top, Shelf::at(vm))
    }

    fn id(number: u128) -> SnapshotId {
        SnapshotId::from_parts(1, number)
    }

    fn put(shelf: &Shelf, number: u128, name: &str) -> Publication {
        let making = shelf.begin(id(number)).unwrap();
        fs::write(making.directory().disk(), b"x").unwrap();
        let published = making.publish(&name.parse().unwrap()).unwrap();
        if published == Publication::Taken {
            making.discard();
        }
        published
    }

    fn names(shelf: &Shelf) -> Vec<String> {
        let entries = fs::read_dir(&shelf.root).unwrap().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_snapshot_has_its_name_in_one_step_and_keeps_it() {
        let (_top, shelf) = shelf();
        assert!(shelf.names().unwrap().is_empty());
        assert_eq!(put(&shelf, 1, "two"), Publication::Done);
        assert_eq!(put(&shelf, 2, "one"), Publication::Done);
        assert_eq!(put(&shelf, 3, "one"), Publication::Taken);
        assert_eq!(shelf.names().unwrap(), ["one".parse().unwrap(), "two".parse().unwrap()]);
        assert_eq!(names(&shelf), ["one", "two"], "nothing else is left");
    }

    #[test]
    fn one_is_removed_whole_and_once() {
        let (_top, shelf) = shelf();
        let name = "one".parse().unwrap();
        assert!(!shelf.remove(&name, id(1)).unwrap());
        put(&shelf, 2, "one");
        assert!(shelf.has(&name) && shelf.remove(&name, id(3)).unwrap());
        assert!(!shelf.has(&name) && !shelf.remove(&name, id(4)).unwrap());
        assert!(names(&shelf).is_empty());
    }

    #[test]
    fn what_a_dead_maker_left_goes_and_what_a_living_one_makes_stays() {
        let (_top, shelf) = shelf();
        let dead = shelf.begin(id(1)).unwrap();
        fs::write(dead.directory().machine(), b"half").unwrap();
        let left = dead.directory().path().to_owned();
        drop(dead);
        let going = shelf.root.join(format!("{GOING}{}", id(2)));
        fs::create_dir(&going).unwrap();
        fs::write(going.join("disk"), b"rest").unwrap();
        let living = shelf.begin(id(3)).unwrap();
        // Made by somebody who died before anything was in it.
        let empty = shelf.vm.new_snapshot(id(4)).path().to_owned();
        fs::create_dir(&empty).unwrap();
        let mut found = shelf.half_made();
        found.sort();
        assert_eq!(found, [going, left, empty]);
        shelf.sweep();
        assert_eq!(names(&shelf), [format!(".new-{}", id(3))]);
        living.discard();
        assert!(names(&shelf).is_empty());
    }

    #[test]
    fn nobody_sweeps_what_is_just_being_made() {
        let (_top, shelf) = shelf();
        fs::create_dir(&shelf.root).unwrap();
        std::thread::scope(|scope| {
            let makers = (0..200).map(|number| (number, shelf.clone()));
            let sweeper = scope.spawn(|| (0..400).for_each(|_| shelf.sweep()));
            for (number, shelf) in makers {
                let making = shelf.begin(id(number)).unwrap();
                fs::write(making.directory().machine(), b"x").unwrap();
                assert!(making.directory().machine().exists());
                making.discard();
            }
            sweeper.join().unwrap();
        });
        assert!(names(&shelf).is_empty());
    }

    #[test]
    fn what_was_swept_under_its_maker_is_not_published() {
        let (_top, shelf) = shelf();
        let making = shelf.begin(id(1)).unwrap();
        fs::remove_dir_all(making.directory().path()).unwrap();
        assert_eq!(making.publish(&"one".parse().unwrap()).unwrap(), Publication::Vanished);
    }
}
