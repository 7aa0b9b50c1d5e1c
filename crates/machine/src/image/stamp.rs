//! Remembers which files were hashed, so that a run does not hash 100 MB that nobody touched.
//!
//! A stamp says: the file with this device, inode, length and change time had this hash, seen during this boot of the
//! host. The change time of an inode cannot be set by a program, so a file that was written to since has
//! another one; only what happens below the file system (a failing disk, a flipped bit in the page cache)
//! stays unseen until the next boot or `image verify`, which asks no stamp.
//!
//! Stamps are hints: one that is lost, torn or old costs a hash and nothing else.

use super::digest::Digest;
use super::error::LibraryError;
use super::tree;
use outlast_wire::image::{Part, Stamp};
use outlast_wire::paths::Library;
use rustix::fs::Stat;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Seek as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Times of inodes come in ticks of the kernel's clock (at most 10 ms): a file that changed this recently could
/// change again and show the same time, so it is hashed and not stamped.
const SETTLED: Duration = Duration::from_millis(200);
/// How often a file is hashed again because its change time moved and nothing else did.
const HASHED_AGAIN: u32 = 3;

/// The file's SHA-256: from its stamp when that still holds, else by reading it.
///
/// # Errors
/// The file cannot be read, or changes while it is. A stamp that cannot be written is not an error.
pub fn digest_of(library: &Library, path: &Path) -> Result<Digest, LibraryError> {
    let file = File::open(path).map_err(LibraryError::io("open", path))?;
    let place = stamp_path(library, path);
    let before = identity(&file, path)?;
    if let Some(digest) =
        read(&place).filter(|stamp| same(stamp, &before)).and_then(|s| s.sha256.parse().ok())
    {
        return Ok(digest);
    }
    let (digest, seen) = hash_settled(&file, path)?;
    if is_settled(&seen) {
        let stamp = Stamp { sha256: digest.to_string(), ..seen };
        if let Err(error) = write(library, &place, &stamp) {
            tracing::debug!(path = %path.display(), %error, "no stamp was written; the file will be hashed again");
        }
    }
    Ok(digest)
}

/// The file's SHA-256 by reading it, whatever a stamp says; a stamp is renewed by it.
///
/// # Errors
/// As [`digest_of`].
pub fn rehash(library: &Library, path: &Path) -> Result<Digest, LibraryError> {
    tree::remove(&stamp_path(library, path))?;
    digest_of(library, path)
}

/// Whether the files in this directory are what its record says, by reading every byte.
pub(crate) fn are_whole(library: &Library, directory: &Path, parts: &[Part]) -> bool {
    let is_whole = |part: &Part| {
        rehash(library, &directory.join(&part.name)).is_ok_and(|digest| digest.to_string() == part.sha256)
    };
    parts.iter().all(is_whole)
}

/// Forgets what was known of a file that is gone. Not being able to costs a small file and nothing else.
pub fn forget(library: &Library, path: &Path) {
    let _ = tree::remove(&stamp_path(library, path));
}

/// The digest of a whole tree: from its stamp when nothing in it moved since, else by `hash`.
///
/// The stamp's name is derived from the facts of every path, so one that is found is one that holds.
///
/// # Errors
/// Those of the walk and of `hash`; the tree changes while it is hashed.
pub(crate) fn digest_of_tree(
    library: &Library,
    root: &Path,
    hash: impl FnOnce(&Path) -> Result<Digest, LibraryError>,
) -> Result<Digest, LibraryError> {
    let (facts, seen) = facts_of_tree(root)?;
    let place = library.verified().join(format!("{facts}.json"));
    if let Some(digest) = read(&place).and_then(|stamp| stamp.sha256.parse().ok()) {
        return Ok(digest);
    }
    let digest = hash(root)?;
    if facts_of_tree(root)?.0 != facts {
        return Err(LibraryError::Changing { path: root.to_owned() });
    }
    if is_settled(&seen) {
        let stamp = Stamp { sha256: digest.to_string(), ..seen };
        if let Err(error) = write(library, &place, &stamp) {
            tracing::debug!(path = %root.display(), %error, "no stamp was written; the tree will be hashed again");
        }
    }
    Ok(digest)
}

/// What tells this tree from one that was touched, and the facts of its root with its last change anywhere.
fn facts_of_tree(root: &Path) -> Result<(Digest, Stamp), LibraryError> {
    let stat = rustix::fs::lstat(root).map_err(LibraryError::sys("stat", root))?;
    let mut latest = facts(&stat)?;
    let mut text = format!("outlast tree facts 1\n{latest:?}\n{}\n", root.display());
    tree::walk(root, &mut |path, metadata| {
        let changed = i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec());
        let (name, device, inode) = (path.display(), metadata.dev(), metadata.ino());
        let _ = writeln!(text, "{name} {device} {inode} {} {changed}", metadata.len());
        latest.changed_ns = latest.changed_ns.max(changed);
        Ok(())
    })?;
    Ok((Digest::of(text.as_bytes()), latest))
}

/// Removes scratch files of writers that died; stamps themselves are small and stay.
pub(crate) fn sweep(library: &Library) -> Result<(), LibraryError> {
    let directory = library.verified();
    if !directory.exists() {
        return Ok(());
    }
    tree::walk(&directory, &mut |path, metadata| {
        let is_scratch = path.extension().is_some_and(|e| e.to_string_lossy().starts_with("new-"));
        // A writer needs microseconds; one that has not come back in an hour is dead.
        let age = metadata.modified().ok().and_then(|time| time.elapsed().ok()).unwrap_or_default();
        if is_scratch && age > Duration::from_secs(3600) { tree::remove(path) } else { Ok(()) }
    })
}

/// Hashes the file while nothing about it moves, and gives back what a stamp would say.
///
/// Images share kernels by links, and a link that comes or goes moves the change time of a file that nobody wrote
/// to. Such a file is read again; one whose content may have moved is refused at once.
fn hash_settled(file: &File, path: &Path) -> Result<(Digest, Stamp), LibraryError> {
    let look = || rustix::fs::fstat(file).map_err(LibraryError::sys("stat", path));
    let mut before = look()?;
    for _ in 0..=HASHED_AGAIN {
        let mut reader = file;
        reader.rewind().map_err(LibraryError::io("read", path))?;
        let digest = Digest::of_reader(&mut reader).map_err(LibraryError::io("read", path))?;
        let after = look()?;
        if !same_content(&before, &after) {
            break;
        }
        if changed_ns(&before) == changed_ns(&after) {
            return Ok((digest, facts(&after)?));
        }
        before = after;
    }
    Err(LibraryError::Changing { path: path.to_owned() })
}

/// Whether all is as it was but the change time, as far as the inode tells.
fn same_content(before: &Stat, after: &Stat) -> bool {
    let seen = |stat: &Stat| (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    seen(before) == seen(after)
}

/// What a stamp of this very file would say, without the hash.
fn identity(file: &File, path: &Path) -> Result<Stamp, LibraryError> {
    facts(&rustix::fs::fstat(file).map_err(LibraryError::sys("stat", path))?)
}

fn facts(stat: &Stat) -> Result<Stamp, LibraryError> {
    Ok(Stamp {
        boot_id: boot_id()?,
        device: stat.st_dev,
        inode: stat.st_ino,
        size: u64::try_from(stat.st_size).unwrap_or_default(),
        changed_ns: changed_ns(stat),
        sha256: String::new(),
    })
}

fn changed_ns(stat: &Stat) -> i128 {
    i128::from(stat.st_ctime) * 1_000_000_000 + i128::from(stat.st_ctime_nsec)
}

fn same(stamp: &Stamp, now: &Stamp) -> bool {
    let facts = |s: &Stamp| (s.device, s.inode, s.size, s.changed_ns);
    stamp.boot_id == now.boot_id && facts(stamp) == facts(now)
}

fn is_settled(stamp: &Stamp) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let nanos = |time: Duration| i128::try_from(time.as_nanos()).unwrap_or(i128::MAX);
    nanos(now) - stamp.changed_ns > nanos(SETTLED)
}

/// Which boot of the host this is.
pub(crate) fn boot_id() -> Result<String, LibraryError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = std::fs::read_to_string(path).map_err(LibraryError::io("read", path))?;
    Ok(text.trim().to_owned())
}

fn stamp_path(library: &Library, path: &Path) -> PathBuf {
    let name = Digest::of(path.as_os_str().as_encoded_bytes());
    library.verified().join(format!("{name}.json"))
}

fn read(place: &Path) -> Option<Stamp> {
    serde_json::from_slice(&std::fs::read(place).ok()?).ok()
}

fn write(library: &Library, place: &Path, stamp: &Stamp) -> Result<(), LibraryError> {
    tree::make_private_directory(&library.verified())?;
    let text = tree::to_json(stamp);
    tree::replace(place, &text, 0o600, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn settle(path: &Path) {
        // Waits for the condition itself: the file's change time lies far enough back.
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while !is_settled(&identity(&File::open(path).unwrap(), path).unwrap()) {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_stamp_is_used_until_the_file_changes() {
        let root = tempfile::tempdir().unwrap();
        let library = Library::at(root.path().join("library"));
        let path = root.path().join("part");
        fs::write(&path, "one").unwrap();
        settle(&path);
        assert_eq!(digest_of(&library, &path).unwrap(), Digest::of(b"one"));
        // Proof that the stamp is what answers: a forged one is believed.
        let place = stamp_path(&library, &path);
        let forged = Stamp { sha256: Digest::of(b"forged").to_string(), ..read(&place).unwrap() };
        fs::write(&place, serde_json::to_vec(&forged).unwrap()).unwrap();
        assert_eq!(digest_of(&library, &path).unwrap(), Digest::of(b"forged"));
        assert_eq!(rehash(&library, &path).unwrap(), Digest::of(b"one"));
        // Same length, other content.
        fs::write(&path, "two").unwrap();
        assert_eq!(digest_of(&library, &path).unwrap(), Digest::of(b"two"));
    }

    #[test]
    fn a_trees_stamp_is_used_until_anything_in_it_changes() {
        let root = tempfile::tempdir().unwrap();
        let library = Library::at(root.path().join("library"));
        let tree = root.path().join("tree");
        fs::create_dir_all(tree.join("d")).unwrap();
        fs::write(tree.join("d/f"), "one").unwrap();
        settle(&tree.join("d/f"));
        let hashed = std::cell::Cell::new(0);
        let digest = || {
            digest_of_tree(&library, &tree, |_| {
                hashed.set(hashed.get() + 1);
                Ok(Digest::of(b"whole"))
            })
        };
        for _ in 0..3 {
            assert_eq!(digest().unwrap(), Digest::of(b"whole"));
        }
        assert_eq!(hashed.get(), 1);
        // Same length, other content; then a name more.
        fs::write(tree.join("d/f"), "two").unwrap();
        digest().unwrap();
        assert_eq!(hashed.get(), 2);
        fs::write(tree.join("d/g"), "").unwrap();
        digest().unwrap();
        assert_eq!(hashed.get(), 3);
    }

    #[test]
    fn a_link_is_told_from_a_write() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("part");
        fs::write(&path, "one").unwrap();
        let stat = || rustix::fs::stat(&path).unwrap();
        settle(&path);
        let before = stat();
        fs::hard_link(&path, root.path().join("link")).unwrap();
        assert_ne!(changed_ns(&before), changed_ns(&stat()));
        assert!(same_content(&before, &stat()));
        fs::write(&path, "two").unwrap();
        assert!(!same_content(&before, &stat()));
    }

    #[test]
    fn a_file_that_is_linked_while_it_is_hashed_is_hashed_again() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("part");
        let content = vec![7; 4 << 20];
        fs::write(&path, &content).unwrap();
        let file = File::open(&path).unwrap();
        let (link, done) = (root.path().join("link"), std::sync::mpsc::channel::<()>());
        let linker = std::thread::spawn({
            let path = path.clone();
            move || {
                fs::hard_link(&path, link).unwrap();
                drop(done.0);
            }
        });
        let (digest, seen) = hash_settled(&file, &path).unwrap();
        assert_eq!(digest, Digest::of(&content));
        assert!(seen.size == 4 << 20);
        assert!(done.1.recv().is_err());
        linker.join().unwrap();
    }

    #[test]
    fn a_fresh_file_and_a_torn_stamp_are_hashed() {
        let root = tempfile::tempdir().unwrap();
        let library = Library::at(root.path().join("library"));
        let path = root.path().join("part");
        fs::write(&path, "one").unwrap();
        settle(&path);
        digest_of(&library, &path).unwrap();
        fs::write(stamp_path(&library, &path), b"{\"boot_id\":").unwrap();
        assert_eq!(digest_of(&library, &path).unwrap(), Digest::of(b"one"));
        // Another boot: the stamp no longer counts.
        let other = Stamp { boot_id: "other".into(), ..read(&stamp_path(&library, &path)).unwrap() };
        assert!(!same(&other, &identity(&File::open(&path).unwrap(), &path).unwrap()));
    }
}
