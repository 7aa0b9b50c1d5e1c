//! A shelf: a directory of named things that are made aside and appear, whole, in one step.
//!
//! ```text
//!   SHELF/NAME             -> .store/DIGEST, replaced by rename
//!   SHELF/.store/DIGEST/      never changed once it is here
//!   SHELF/.making-NAME/       scratch of the one build that holds .lock-NAME
//!   SHELF/.removing-DIGEST/   on its way out
//!   SHELF/.lock-NAME          held by whoever makes NAME, and by the programs it runs
//!   SHELF/.lock               held for moments: publishing, removing, sweeping
//! ```
//!
//! Who uses a thing holds a shared lock on its directory ([`Lease`]); who removes it needs that lock alone. Users to whom
//! the shelf does not belong cannot open that directory, only pass through it (0711): whoever can open something can
//! lock it for good, and nobody may keep the owner from using what is his. They lock the manifest in it instead, which
//! delays its removal and nothing else. Whose
//! scratch a directory is follows from the lock beside it: whoever holds `.lock-NAME` knows that every
//! `.making-NAME` belongs to a build that is dead, with all its programs, because those inherit the lock.
//! So nothing here depends on a process id, and nothing needs cleaning up for correctness, only for space.
//!
//! What the things are (images, kernels, VMM roots) and what makes them whole is not known here.

use super::error::LibraryError;
use super::lock::{Hold, LOCKED, lock, open_directory, open_lock_file, try_lock};
use super::progress::{Phase, Report, begin};
use super::tree;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A second build of the same thing waits this long: as long as a whole build may take.
const BUILD_WAIT: Duration = super::program::TOTAL_LIMIT;
/// Publishing and removing take moments, on a slow disk a minute.
const PUBLISH_WAIT: Duration = Duration::from_secs(300);
/// A directory is removed, or looked at, by somebody who holds it alone, for moments.
const LEASE_WAIT: Duration = Duration::from_secs(10);
/// A name is looked up this often while it is being replaced under us.
const LOOKUPS: usize = 16;
/// The file in each stored thing that users to whom the shelf does not belong lock.
const VISITED: &str = "manifest.json";
/// A shelf is listed by everybody who can reach it.
const LISTED: u32 = 0o755;
/// Libraries and stored things are passed through by the names of what is in them.
pub(super) const PASSED: u32 = 0o711;
/// The mode of a stored thing that is its owner's alone.
const PRIVATE: u32 = 0o700;

/// A directory of named, immutable things.
#[derive(Debug, Clone)]
pub(crate) struct Shelf {
    root: PathBuf,
}

/// The right to make one name; given up when dropped.
#[derive(Debug)]
pub(crate) struct BuildLock {
    file: File,
    name: String,
    waited: bool,
}

impl BuildLock {
    /// Whether somebody else held it when it was asked for: then what was to be made may be there by now.
    pub(crate) fn waited(&self) -> bool {
        self.waited
    }

    /// Another handle of the same lock, for a program that the build runs.
    pub(crate) fn lend(&self) -> std::io::Result<File> {
        self.file.try_clone()
    }
}

/// Keeps one thing from being removed while it lives. Clones share one lock, also across fork and exec.
#[derive(Debug, Clone)]
pub struct Lease(Arc<File>);

impl Lease {
    /// A lease on a directory that is published and removed by rename; `None` when there is none, or it was being
    /// removed at this moment.
    ///
    /// # Errors
    /// The directory cannot be opened or locked for another reason; somebody holds it alone for long.
    pub fn on(path: &Path) -> Result<Option<Self>, LibraryError> {
        let directory = match open_directory(path) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened.map_err(LibraryError::sys("open", path))?,
        };
        // Who holds it alone is removing it, or looking whether somebody uses it, and is done in moments.
        let directory = lock(directory, Hold::Shared, path, LEASE_WAIT)?;
        Ok(is_still_at(&directory, path).then(|| Self(Arc::new(directory))))
    }

    /// What carries the lock, open for reading; the lock goes with this file description.
    pub fn file(&self) -> &File {
        &self.0
    }
}

/// The right to remove a directory: nobody has a lease on it, and nobody gets one while this lives.
#[derive(Debug)]
pub struct Solitude {
    _directory: File,
}

impl Solitude {
    /// Makes sure that nobody uses the directory; `None` when somebody does, or it is not there.
    ///
    /// # Errors
    /// As [`Lease::on`].
    pub fn of(path: &Path) -> Result<Option<Self>, LibraryError> {
        let directory = match open_directory(path) {
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            opened => opened.map_err(LibraryError::sys("open", path))?,
        };
        let alone = try_lock(&directory, Hold::Exclusive).map_err(LibraryError::io("lock", path))?;
        Ok((alone && is_still_at(&directory, path)).then_some(Self { _directory: directory }))
    }
}

impl Shelf {
    pub(crate) fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// Waits until nobody else makes `name`, and clears away what dead builds left on this shelf.
    pub(crate) fn lock_build(&self, name: &str, report: Report<'_>) -> Result<BuildLock, LibraryError> {
        tree::make_private_directory(&self.root)?;
        tree::make_private_directory(&self.store())?;
        let path = self.root.join(format!(".lock-{name}"));
        let file = open_lock_file(&path)?;
        let free = try_lock(&file, Hold::Exclusive).map_err(LibraryError::io("lock", &path))?;
        let file = if free {
            file
        } else {
            begin(report, Phase::Waiting, name);
            lock(file, Hold::Exclusive, &path, BUILD_WAIT)?
        };
        let lock = BuildLock { file, name: name.to_owned(), waited: !free };
        tree::remove(&self.scratch_path(name))?;
        self.sweep()?;
        Ok(lock)
    }

    /// An empty directory to make the thing in.
    pub(crate) fn scratch(&self, lock: &BuildLock) -> Result<PathBuf, LibraryError> {
        let path = self.scratch_path(&lock.name);
        tree::remove(&path)?;
        tree::make_private_directory(&path)?;
        Ok(path)
    }

    /// Makes what lies in `made` (a directory in the scratch directory) visible under its name, synced. What is
    /// already stored under this digest stays when `is_whole` says so of its directory, else it is replaced.
    pub(crate) fn publish(
        &self,
        lock: &BuildLock,
        made: &Path,
        digest: &str,
        is_whole: &dyn Fn(&Path) -> bool,
    ) -> Result<PathBuf, LibraryError> {
        self.publish_as(lock, made, &lock.name, digest, is_whole)
    }

    /// The same under another name than the lock's: for things whose name is known only once they are made.
    pub(crate) fn publish_as(
        &self,
        _lock: &BuildLock,
        made: &Path,
        name: &str,
        digest: &str,
        is_whole: &dyn Fn(&Path) -> bool,
    ) -> Result<PathBuf, LibraryError> {
        // Order matters: content is on disk before its name is, and the name is in the store before a link points to it.
        tree::set_mode(made, PASSED)?;
        tree::sync_tree(made)?;
        let _publishing = self.lock_publishing()?;
        let stored = self.put(made, digest, is_whole)?;
        self.link(name, digest)?;
        Ok(stored)
    }

    /// Stores what lies in `made` without a name; it stays as long as the lease does.
    pub(crate) fn store_made(
        &self,
        _lock: &BuildLock,
        made: &Path,
        digest: &str,
        is_whole: &dyn Fn(&Path) -> bool,
    ) -> Result<(PathBuf, Lease), LibraryError> {
        tree::set_mode(made, PRIVATE)?;
        tree::sync_tree(made)?;
        let _publishing = self.lock_publishing()?;
        let stored = self.put(made, digest, is_whole)?;
        // Order matters: leased before the lock is given up, under which what has no name is swept.
        let lease = Lease::on(&stored)?.ok_or_else(|| LibraryError::Changing { path: stored.clone() })?;
        Ok((stored, lease))
    }

    /// Gives what is stored under this digest, and leased by the caller, the name of the lock.
    pub(crate) fn name(&self, lock: &BuildLock, digest: &str) -> Result<(), LibraryError> {
        let _publishing = self.lock_publishing()?;
        self.link(&lock.name, digest)
    }

    /// The caller has synced what it made, and holds the lock of publishing.
    fn put(
        &self,
        made: &Path,
        digest: &str,
        is_whole: &dyn Fn(&Path) -> bool,
    ) -> Result<PathBuf, LibraryError> {
        // Order matters: content is on disk before its name is, and the name is in the store before a link points to it.
        let stored = self.store().join(digest);
        match fs::rename(made, &stored) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty) => {
                if !is_whole(&stored) {
                    // Who still uses the damaged one keeps its open files; new users find the new one.
                    rustix::fs::renameat_with(CWD, made, CWD, &stored, RenameFlags::EXCHANGE)
                        .map_err(LibraryError::sys("replace", &stored))?;
                }
            }
            Err(error) => return Err(LibraryError::io("publish", &stored)(error)),
        }
        tree::sync(&self.store())?;
        Ok(stored)
    }

    /// Every published name, sorted.
    pub(crate) fn names(&self) -> Result<Vec<String>, LibraryError> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(LibraryError::io("list", &self.root))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(LibraryError::io("list", &self.root))?;
            match entry.file_name().into_string() {
                Ok(name) if !name.starts_with('.') && entry.path().is_dir() => names.push(name),
                _ => {}
            }
        }
        names.sort();
        Ok(names)
    }

    /// Whether the name is taken, by something whole or not.
    pub(crate) fn has(&self, name: &str) -> bool {
        matches!(self.target(name), Ok(Some(_)))
    }

    /// The directory that `name` points to now, and a lease on it; `None` when there is no such name.
    pub(crate) fn open(&self, name: &str) -> Result<Option<(PathBuf, Lease)>, LibraryError> {
        for _ in 0..LOOKUPS {
            let Some(path) = self.target(name)? else { return Ok(None) };
            let directory = match open_directory(&path) {
                Ok(directory) => directory,
                Err(Errno::ACCESS) => match visit(&path)? {
                    Some(lease) => return Ok(Some((path, lease))),
                    None => continue,
                },
                Err(_) => continue,
            };
            // Who holds it alone is removing it, and is done in moments.
            let directory = lock(directory, Hold::Shared, &path, PUBLISH_WAIT)?;
            if is_still_at(&directory, &path) {
                return Ok(Some((path, Lease(Arc::new(directory)))));
            }
        }
        Err(LibraryError::Changing { path: self.root.join(name) })
    }

    /// Takes a name away and what it pointed to, unless somebody uses it; `false` when there is no such name.
    pub(crate) fn remove(&self, name: &str) -> Result<bool, LibraryError> {
        if !self.root.exists() {
            return Ok(false);
        }
        let _publishing = self.lock_publishing()?;
        let Some(path) = self.target(name)? else { return Ok(false) };
        if let Ok(directory) = open_directory(&path) {
            let others = self.names_of(&path)?.iter().any(|other| other != name);
            let alone = try_lock(&directory, Hold::Exclusive).map_err(LibraryError::io("lock", &path))?;
            let by = match (alone, is_visited(&path)) {
                (false, _) => "a running VM or command",
                (true, true) => "a running VM or command of another user",
                (true, false) => "",
            };
            if !by.is_empty() && !others {
                return Err(LibraryError::InUse { name: name.to_owned(), by: by.to_owned() });
            }
        }
        let link = self.root.join(name);
        fs::remove_file(&link).map_err(LibraryError::io("remove", &link))?;
        tree::sync(&self.root)?;
        self.sweep_locked()?;
        Ok(true)
    }

    /// Removes what no name points to and nobody uses, and the scratch of dead builds.
    pub(crate) fn sweep(&self) -> Result<(), LibraryError> {
        if !self.root.exists() {
            return Ok(());
        }
        let _publishing = self.lock_publishing()?;
        self.sweep_locked()
    }

    fn sweep_locked(&self) -> Result<(), LibraryError> {
        for entry in self.dot_entries()? {
            let path = self.root.join(&entry);
            if let Some(name) = entry.strip_prefix(".making-") {
                let lock_path = self.root.join(format!(".lock-{name}"));
                let lock = open_lock_file(&lock_path)?;
                if try_lock(&lock, Hold::Exclusive).map_err(LibraryError::io("lock", &lock_path))? {
                    tree::remove(&path)?;
                }
            } else if entry.starts_with(".removing-") || entry.starts_with(".link-") {
                tree::remove(&path)?;
            }
        }
        self.drop_unnamed()
    }

    /// What is stored and no name leads to, leased or not.
    pub(crate) fn unnamed(&self) -> Result<Vec<PathBuf>, LibraryError> {
        let store = self.store();
        let entries = match fs::read_dir(&store) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(LibraryError::io("list", &store))?,
        };
        let mut unnamed = Vec::new();
        for entry in entries {
            let path = entry.map_err(LibraryError::io("list", &store))?.path();
            if self.names_of(&path)?.is_empty() {
                unnamed.push(path);
            }
        }
        Ok(unnamed)
    }

    /// What is stored and has no name goes, unless it is leased.
    fn drop_unnamed(&self) -> Result<(), LibraryError> {
        for path in self.unnamed()? {
            let Ok(directory) = open_directory(&path) else { continue };
            let alone = try_lock(&directory, Hold::Exclusive).map_err(LibraryError::io("lock", &path))?;
            if alone && !is_visited(&path) {
                // The lock is held until the tree is gone: who waits for a lease then sees that it lost.
                let leaving = self
                    .root
                    .join(format!(".removing-{}", path.file_name().unwrap_or_default().to_string_lossy()));
                tree::remove(&leaving)?;
                fs::rename(&path, &leaving).map_err(LibraryError::io("remove", &path))?;
                tree::remove(&leaving)?;
            }
        }
        Ok(())
    }

    /// Lets every user read what is stored here and `may` be read. Whoever can reach the shelf can list it and open the
    /// files of such things by their names; locks and scratch stay the owner's.
    pub(crate) fn let_others_read(&self, may: &dyn Fn(&Path) -> bool) -> Result<(), LibraryError> {
        if !self.root.exists() {
            return Ok(());
        }
        tree::set_mode(&self.root, LISTED)?;
        for name in self.dot_entries()?.iter().filter(|name| name.starts_with(".lock")) {
            tree::set_mode(&self.root.join(name), LOCKED)?;
        }
        let store = self.store();
        tree::set_mode(&store, PASSED)?;
        let stored = fs::read_dir(&store).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        for entry in stored.map_err(LibraryError::io("list", &store))? {
            let path = entry.path();
            tree::set_mode(&path, if may(&path) { PASSED } else { PRIVATE })?;
        }
        Ok(())
    }

    /// Points `name` to a stored thing, in one step.
    fn link(&self, name: &str, digest: &str) -> Result<(), LibraryError> {
        let (link, aside) = (self.root.join(name), self.root.join(format!(".link-{name}")));
        tree::remove(&aside)?;
        std::os::unix::fs::symlink(format!(".store/{digest}"), &aside)
            .map_err(LibraryError::io("link", &aside))?;
        fs::rename(&aside, &link).map_err(LibraryError::io("publish", &link))?;
        tree::sync(&self.root)
    }

    fn names_of(&self, stored: &Path) -> Result<Vec<String>, LibraryError> {
        let mut found = Vec::new();
        for name in self.links()? {
            if self.target(&name)?.as_deref() == Some(stored) {
                found.push(name);
            }
        }
        Ok(found)
    }

    /// Every name, also those that point to nothing.
    fn links(&self) -> Result<Vec<String>, LibraryError> {
        Ok(self.entries()?.into_iter().filter(|name| !name.starts_with('.')).collect())
    }

    fn dot_entries(&self) -> Result<Vec<String>, LibraryError> {
        Ok(self.entries()?.into_iter().filter(|name| name.starts_with('.')).collect())
    }

    fn entries(&self) -> Result<Vec<String>, LibraryError> {
        let entries = fs::read_dir(&self.root).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let entries = entries.map_err(LibraryError::io("list", &self.root))?;
        Ok(entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }

    /// Where a name points, when it is a link into our store.
    fn target(&self, name: &str) -> Result<Option<PathBuf>, LibraryError> {
        let link = self.root.join(name);
        match fs::read_link(&link) {
            Ok(target) => {
                let digest = target.strip_prefix(".store").ok().filter(|rest| rest.components().count() == 1);
                Ok(digest.map(|digest| self.store().join(digest)))
            }
            // Not a link: not ours, so it is as if it were not there.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => Ok(None),
            Err(error) => Err(LibraryError::io("read", &link)(error)),
        }
    }

    fn lock_publishing(&self) -> Result<File, LibraryError> {
        let path = self.root.join(".lock");
        lock(open_lock_file(&path)?, Hold::Exclusive, &path, PUBLISH_WAIT)
    }

    fn store(&self) -> PathBuf {
        self.root.join(".store")
    }

    fn scratch_path(&self, name: &str) -> PathBuf {
        self.root.join(format!(".making-{name}"))
    }
}

/// Takes a lease on a thing of another owner's shelf: a shared lock on its manifest. `None` when it is being removed.
/// Any user may lock that file, and alone, too: who does keeps nobody from using the thing, whose owner then may not
/// know that it is used.
fn visit(path: &Path) -> Result<Option<Lease>, LibraryError> {
    let manifest = path.join(VISITED);
    let file = match File::open(&manifest) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(LibraryError::io("open", &manifest)(error)),
    };
    let _shared = try_lock(&file, Hold::Shared).map_err(LibraryError::io("lock", &manifest))?;
    Ok(is_still_at(&file, &manifest).then(|| Lease(Arc::new(file))))
}

/// Whether a user of another owner holds a lease on a stored thing. Asked with the directory's lock held alone, which
/// does not keep visitors away: one who comes this very moment finds its files gone, or keeps those it has opened.
fn is_visited(path: &Path) -> bool {
    let lock = File::open(path.join(VISITED)).map(|file| try_lock(&file, Hold::Exclusive));
    matches!(lock, Ok(Ok(false)))
}

/// Whether an open file or directory is the one that now lies at `path`.
fn is_still_at(directory: &File, path: &Path) -> bool {
    let (Ok(open), Ok(there)) = (rustix::fs::fstat(directory), rustix::fs::lstat(path)) else { return false };
    (open.st_dev, open.st_ino) == (there.st_dev, there.st_ino)
}

#[cfg(test)]
mod tests;
