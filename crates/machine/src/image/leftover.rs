//! What collects in a library beside what has a name: superseded versions, boot files of other agents, stamps of
//! earlier boots of the host. Found here, and removed one by one; templates are not known here.
//!
//! Nothing that has a name is ever found: the newest version of an image goes only by `image rm`. What somebody has
//! a lease on is found and said to be in use.

use super::digest::Digest;
use super::error::LibraryError;
use super::shelf::{Shelf, Solitude};
use super::{stamp, tree};
use crate::host;
use outlast_wire::image::Stamp;
use outlast_wire::paths::Library;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A run notes the use of its initramfs at most once an hour, before it starts a VMM that reads it: what was used
/// this long ago is not about to be read.
const INITRAMFS_LEAST: Duration = Duration::from_secs(2 * 3600);

/// One thing of no more use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    kind: Kind,
    path: PathBuf,
    name: String,
    bytes: u64,
    in_use: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A stored version that no name leads to, on the shelf of this name.
    Version(&'static str),
    Initramfs,
    Stamp,
}

impl Leftover {
    /// The word for its kind.
    pub fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Version(of) => of,
            Kind::Initramfs => "initramfs",
            Kind::Stamp => "stamp",
        }
    }

    /// Its name: digits of a digest.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes that its removal frees.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Why it is of no more use.
    pub fn why(&self) -> &'static str {
        match self.kind {
            Kind::Version(_) => "a newer version has its name, or it was removed",
            Kind::Initramfs => "not used for long; it is assembled again when it is needed",
            Kind::Stamp => "of an earlier boot of this host, or a file that changed",
        }
    }

    /// Whether somebody used it when it was found.
    pub fn is_in_use(&self) -> bool {
        self.in_use
    }

    /// Removes it; `false` when somebody uses it by now.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self, library: &Library) -> Result<bool, LibraryError> {
        match self.kind {
            Kind::Version(of) => {
                let Some((_, root)) = shelves(library).into_iter().find(|(name, _)| *name == of) else {
                    return Ok(false);
                };
                // It may have got a name again meanwhile: the shelf decides under its own lock.
                Shelf::at(root).sweep()?;
                Ok(!self.path.exists())
            }
            Kind::Initramfs => {
                // Order matters: a file without its record counts for nobody.
                tree::remove(&self.path)?;
                tree::remove(&self.path.with_extension("json"))?;
                stamp::forget(library, &self.path);
                Ok(true)
            }
            Kind::Stamp => tree::remove(&self.path).map(|()| true),
        }
    }
}

fn shelves(library: &Library) -> [(&'static str, PathBuf); 4] {
    [
        ("image", library.images()),
        ("kernel", library.kernels()),
        ("lean-kernel", library.lean()),
        ("vmm", library.vmm()),
    ]
}

/// Everything of no more use. Boot files count when they were not used for `older_than`, and for two hours at least.
///
/// # Errors
/// The library cannot be read.
pub fn find(library: &Library, older_than: Duration) -> Result<Vec<Leftover>, LibraryError> {
    let mut found = Vec::new();
    for (shelf, root) in shelves(library).into_iter().filter(|(_, root)| is_own(root)) {
        for path in Shelf::at(root).unnamed()? {
            found.push(version(shelf, path));
        }
    }
    initramfs_files(library, older_than.max(INITRAMFS_LEAST), &mut found)?;
    stamps(library, &mut found)?;
    Ok(found)
}

/// A part of a library that is a link is borrowed from another library, whose owner prunes it.
pub fn is_own(part: &Path) -> bool {
    part.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
}

fn version(shelf: &'static str, path: PathBuf) -> Leftover {
    let in_use = !matches!(Solitude::of(&path), Ok(Some(_))) && path.exists();
    Leftover { kind: Kind::Version(shelf), name: short_name(&path), bytes: own_bytes(&path), in_use, path }
}

fn initramfs_files(
    library: &Library,
    older_than: Duration,
    found: &mut Vec<Leftover>,
) -> Result<(), LibraryError> {
    if !is_own(&library.boot()) {
        return Ok(());
    }
    for path in files(&library.boot())?.into_iter().filter(|path| has_ending(path, "cpio")) {
        // The last use is the record's modification time; one without a record goes by its own.
        let record = path.with_extension("json");
        let used = fs::metadata(&record).or_else(|_| fs::metadata(&path)).and_then(|m| m.modified());
        if used.is_ok_and(|used| age(used) >= older_than) {
            let bytes = own_bytes(&path);
            found.push(Leftover {
                kind: Kind::Initramfs,
                name: short_name(&path),
                bytes,
                in_use: false,
                path,
            });
        }
    }
    Ok(())
}

/// A stamp is good for one boot of the host.
fn stamps(library: &Library, found: &mut Vec<Leftover>) -> Result<(), LibraryError> {
    let boot_id = stamp::boot_id()?;
    for path in files(&library.verified())?.into_iter().filter(|path| has_ending(path, "json")) {
        let stamp = fs::read(&path).ok().and_then(|json| serde_json::from_slice::<Stamp>(&json).ok());
        if stamp.is_none_or(|stamp| stamp.boot_id != boot_id) {
            let bytes = own_bytes(&path);
            found.push(Leftover { kind: Kind::Stamp, name: short_name(&path), bytes, in_use: false, path });
        }
    }
    Ok(())
}

fn files(directory: &Path) -> Result<Vec<PathBuf>, LibraryError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(Iterator::collect::<Result<Vec<_>, _>>),
    };
    let mut paths: Vec<_> = entries
        .map_err(LibraryError::io("list", directory))?
        .into_iter()
        .map(|entry| entry.path())
        .filter(|path| path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()))
        .collect();
    paths.sort();
    Ok(paths)
}

fn has_ending(path: &Path, ending: &str) -> bool {
    path.extension().is_some_and(|found| found == ending)
}

fn short_name(path: &Path) -> String {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    name.parse::<Digest>().map_or_else(|_| name.into_owned(), Digest::short)
}

fn age(time: SystemTime) -> Duration {
    SystemTime::now().duration_since(time).unwrap_or_default()
}

/// Bytes on disk of what lies at the path and has no other name: images share kernels by links.
fn own_bytes(path: &Path) -> u64 {
    let of_file = |metadata: &fs::Metadata| {
        if metadata.is_file() && metadata.nlink() > 1 { 0 } else { host::bytes_on_disk(metadata) }
    };
    let Ok(metadata) = path.symlink_metadata() else { return 0 };
    let mut total = of_file(&metadata);
    if metadata.is_dir() {
        // What cannot be looked at counts nothing.
        let _ = tree::walk(path, &mut |_, metadata| {
            total = total.saturating_add(of_file(metadata));
            Ok(())
        });
    }
    total
}

#[cfg(test)]
mod tests {
    use super::super::library::{open, tests::library_with};
    use super::super::manifest::tests::record_of;
    use super::*;
    use std::fs::File;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn a_superseded_version_in_use_stays_until_it_is_not_and_the_newest_is_never_found() {
        let (_root, library) = library_with("python", [b"k", b"m", b"r"]);
        let old = open(&library, "python").unwrap();
        assert!(find(&library, Duration::ZERO).unwrap().is_empty());
        // A newer version takes the name.
        let shelf = Shelf::at(library.images());
        let record = record_of("python", [b"k", b"m", b"new"]);
        let lock = shelf.lock_build("python", &mut |_| {}).unwrap();
        let out = shelf.scratch(&lock).unwrap().join("out");
        fs::create_dir(&out).unwrap();
        fs::write(out.join("manifest.json"), serde_json::to_vec(&record).unwrap()).unwrap();
        shelf.publish(&lock, &out, &record.digest, &|_| true).unwrap();
        drop(lock);
        let found = find(&library, Duration::ZERO).unwrap();
        assert!(matches!(&found[..], [one] if one.is_in_use() && one.kind() == "image"), "{found:?}");
        assert!(!found[0].remove(&library).unwrap());
        drop(old);
        let found = find(&library, Duration::ZERO).unwrap();
        assert!(found[0].remove(&library).unwrap() && found[0].bytes() > 0);
        assert!(find(&library, Duration::ZERO).unwrap().is_empty());
        assert_eq!(open(&library, "python").unwrap().manifest().digest().to_string(), record.digest);
    }

    #[test]
    fn an_initramfs_goes_by_its_last_use_and_never_when_that_was_just_now() {
        let root = tempfile::tempdir().unwrap();
        let library = Library::at(root.path().join("library"));
        fs::create_dir_all(library.boot()).unwrap();
        for (name, age) in [("new", Duration::ZERO), ("old", 3 * DAY)] {
            fs::write(library.boot().join(name).with_extension("cpio"), "x").unwrap();
            let record = File::create(library.boot().join(name).with_extension("json")).unwrap();
            record.set_modified(SystemTime::now() - age).unwrap();
        }
        assert!(find(&library, 4 * DAY).unwrap().is_empty());
        let found = find(&library, Duration::ZERO).unwrap();
        assert!(matches!(&found[..], [one] if one.name() == "old"), "{found:?}");
        assert!(found[0].remove(&library).unwrap());
        assert!(!library.boot().join("old.json").exists() && library.boot().join("new.cpio").exists());
    }

    #[test]
    fn borrowed_parts_are_left_to_their_owner() {
        let (root, library) = library_with("python", [b"k", b"m", b"r"]);
        let stored = fs::read_dir(library.images().join(".store")).unwrap().next().unwrap().unwrap().path();
        fs::remove_file(library.images().join("python")).unwrap();
        let borrower = Library::at(root.path().join("borrower"));
        fs::create_dir(borrower.path()).unwrap();
        std::os::unix::fs::symlink(library.images(), borrower.images()).unwrap();
        assert!(find(&borrower, Duration::ZERO).unwrap().is_empty());
        assert!(matches!(&find(&library, Duration::ZERO).unwrap()[..], [one] if one.path == stored));
    }

    #[test]
    fn stamps_of_other_boots_and_torn_ones_are_found() {
        let root = tempfile::tempdir().unwrap();
        let library = Library::at(root.path().join("library"));
        fs::create_dir_all(library.verified()).unwrap();
        let stamp = |boot_id: &str| Stamp {
            boot_id: boot_id.into(),
            device: 1,
            inode: 1,
            size: 1,
            changed_ns: 1,
            sha256: "ab".repeat(32),
        };
        let write = |name: &str, json: Vec<u8>| fs::write(library.verified().join(name), json).unwrap();
        write("ours.json", serde_json::to_vec(&stamp(&stamp::boot_id().unwrap())).unwrap());
        write("theirs.json", serde_json::to_vec(&stamp("another boot")).unwrap());
        write("torn.json", b"{".to_vec());
        let found = find(&library, DAY).unwrap();
        assert_eq!(found.iter().map(Leftover::name).collect::<Vec<_>>(), ["theirs", "torn"]);
        assert!(found.iter().all(|one| one.remove(&library).unwrap()));
    }
}
