//! The initramfs of a boot: the kernel's modules, when it has some, and the agent in one cpio file.
//!
//! The agent travels with outlast and not with images, so an upgrade needs no image built again and guest and
//! runner never disagree about the protocol. The file is assembled once per (modules, agent) and kept:
//!
//! ```text
//!   LIBRARY/boot/KEY.cpio   the initramfs; KEY is a hash of what it is made from
//!   LIBRARY/boot/KEY.json   what the file must hash to
//! ```
//!
//! The record is written first and both appear by rename, so a file without its record never counts, and two who
//! assemble the same one at once write the same bytes. The few that were used last are kept, others go a day after
//! their last use: a run of an old outlast that finds its file gone assembles it again.
//!
//! The time of the last use is the record's modification time. Not the file's own: that would move its change time
//! too, and the file would be hashed again.

use super::bootable::Bootable;
use super::digest::Digest;
use super::elf::Elf;
use super::error::LibraryError;
use super::newc::Archive;
use super::{stamp, tree};
use outlast_wire::image::BootRecord;
use outlast_wire::paths::Library;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// An initramfs that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Initramfs {
    /// Where it lies.
    pub path: PathBuf,
    /// SHA-256 of its content.
    pub digest: Digest,
    /// SHA-256 of the agent in it.
    pub agent: Digest,
}

/// How many initramfs files are kept whatever their age.
const KEPT: usize = 8;
/// Younger ones are kept beyond that: somebody may be about to open one.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);
/// A use is written down when the last one that was is older than this.
const USE_NOTED: Duration = Duration::from_secs(3600);

/// A VMM is another user than whoever assembles, and reads.
const READABLE: u32 = 0o444;

/// Directories that the agent mounts on before it has a root file system.
const DIRECTORIES: [&str; 5] = ["dev", "proc", "run", "sys", "tmp"];

/// Stands for the digest of modules that are not there.
const BUILT_IN: &str = "none";

/// The initramfs for `bootable` with the agent at `agent` (a static program) as its `/init`. Nothing is hashed that was
/// hashed before and has not changed since.
///
/// # Errors
/// The agent is no static program, a file cannot be read or written, or the modules are damaged.
pub fn initramfs(library: &Library, bootable: &Bootable, agent: &Path) -> Result<Initramfs, LibraryError> {
    let modules = bootable.modules().map_or_else(|| BUILT_IN.to_owned(), |(_, digest)| digest.to_string());
    let agent_digest = stamp::digest_of(library, agent)?;
    let key =
        Digest::of(format!("outlast initramfs 1\nmodules {modules}\nagent {agent_digest}\n").as_bytes());
    let path = library.boot().join(format!("{key}.cpio"));
    if let Some(digest) = existing(library, &path) {
        return Ok(Initramfs { path, digest, agent: agent_digest });
    }
    let bytes = assemble(bootable, agent, agent_digest)?;
    let digest = Digest::of(&bytes);
    let record = BootRecord {
        sha256: digest.to_string(),
        size: bytes.len() as u64,
        modules,
        agent: agent_digest.to_string(),
    };
    let json = tree::to_json(&record);
    tree::make_private_directory(&library.boot())?;
    // Order matters: the record is there before the file it vouches for.
    tree::replace(&record_of(&path), &json, 0o600, true)?;
    tree::replace(&path, &bytes, READABLE, true)?;
    if let Err(error) = prune(library, SystemTime::now()) {
        tracing::debug!(%error, "old initramfs files were not removed; the next one that is assembled tries again");
    }
    Ok(Initramfs { path, digest, agent: agent_digest })
}

/// Removes what is neither among the last used nor used lately, and scratch files of writers that died.
fn prune(library: &Library, now: SystemTime) -> Result<(), LibraryError> {
    let mut old = Vec::new();
    tree::walk(&library.boot(), &mut |path, metadata| {
        let modified = metadata.modified().map_err(LibraryError::io("stat", path))?;
        if is_initramfs(path) {
            // One without its record counts for nobody and goes by its own age.
            let used = fs::metadata(record_of(path)).and_then(|record| record.modified());
            old.push((used.unwrap_or(modified), path.to_owned()));
        } else if path.extension().is_none_or(|extension| extension != "json") {
            old.push((modified, path.to_owned()));
        }
        Ok(())
    })?;
    old.sort();
    let beyond = old.len().saturating_sub(KEPT);
    for (modified, path) in old.into_iter().take(beyond) {
        if now.duration_since(modified).is_ok_and(|age| age > KEPT_FOR) {
            tree::remove(&path)?;
            // A scratch file has the stem of what it was to become, whose record is not its own.
            if is_initramfs(&path) {
                tree::remove(&record_of(&path))?;
            }
        }
    }
    Ok(())
}

fn is_initramfs(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "cpio")
}

fn record_of(initramfs: &Path) -> PathBuf {
    initramfs.with_extension("json")
}

/// What lies there already, when it is what its record says; anything else is made anew.
fn existing(library: &Library, path: &Path) -> Option<Digest> {
    let record: BootRecord = serde_json::from_slice(&fs::read(record_of(path)).ok()?).ok()?;
    // Order matters: the use is noted before the file is looked at, so that nobody finds it old meanwhile.
    if let Err(error) = note_use(&record_of(path), SystemTime::now()) {
        tracing::debug!(%error, "the use of an initramfs was not noted; it may be removed and assembled again");
    }
    // One of an older outlast is for its owner only.
    if fs::metadata(path).ok()?.permissions().mode() & READABLE != READABLE {
        return None;
    }
    let digest = stamp::digest_of(library, path).ok()?;
    (digest.to_string() == record.sha256).then_some(digest)
}

fn note_use(record: &Path, now: SystemTime) -> std::io::Result<()> {
    let noted = fs::metadata(record)?.modified()?;
    if now.duration_since(noted).is_ok_and(|age| age > USE_NOTED) {
        fs::File::open(record)?.set_modified(now)?;
    }
    Ok(())
}

fn assemble(bootable: &Bootable, agent: &Path, agent_digest: Digest) -> Result<Vec<u8>, LibraryError> {
    let modules = read_modules(bootable)?;
    let program = fs::read(agent).map_err(LibraryError::io("read", agent))?;
    if Digest::of(&program) != agent_digest {
        return Err(LibraryError::Changing { path: agent.to_owned() });
    }
    let refused = |why| LibraryError::Agent { path: agent.to_owned(), why };
    if Elf::parse(&program).map_err(|_| refused("it is no x86_64 program"))?.is_dynamic() {
        return Err(refused("it is linked dynamically and a guest has no libraries yet"));
    }
    // The kernel unpacks one archive after the other; the first is the modules part as it stands.
    let archive = DIRECTORIES.iter().try_fold(Archive::new(modules), |archive, name| archive.directory(name));
    let archive = archive.and_then(|archive| archive.file("init", 0o755, &program)?.finish());
    archive.map_err(LibraryError::io("pack", agent))
}

/// The archive of modules as it stands; empty when everything is built in.
fn read_modules(bootable: &Bootable) -> Result<Vec<u8>, LibraryError> {
    let Some((path, expected)) = bootable.modules() else { return Ok(Vec::new()) };
    let modules = fs::read(&path).map_err(LibraryError::io("read", &path))?;
    let found = Digest::of(&modules);
    if found == expected {
        return Ok(modules);
    }
    let (expected, found) = (expected.to_string(), found.to_string());
    Err(LibraryError::Damaged { name: bootable.image().name().to_owned(), path, expected, found })
}

#[cfg(test)]
mod tests {
    use super::super::elf::tests::elf_with;
    use super::super::lean;
    use super::super::library::{open, tests::library_of, tests::library_with};
    use super::super::manifest::{PartKind, tests::record_of as image_record};
    use super::super::recipe::KERNEL_PACKAGE;
    use super::*;

    fn bootable(library: &Library) -> Bootable {
        Bootable::choose(std::slice::from_ref(library), open(library, "python").unwrap()).unwrap()
    }

    #[test]
    fn a_lean_kernel_gets_the_agent_and_nothing_else() {
        let contents: [&[u8]; 3] = [b"k", b"mods", b"r"];
        let mut record = image_record("python", contents);
        record.kernel.package = KERNEL_PACKAGE.to_owned();
        let (root, library) = library_of(record, contents);
        let agent = root.path().join("agent");
        fs::write(&agent, elf_with(&[], &[])).unwrap();
        let stock = initramfs(&library, &bootable(&library), &agent).unwrap();
        lean::tests::put(&library, b"lean");
        let lean = initramfs(&library, &bootable(&library), &agent).unwrap();
        assert_ne!(stock.path, lean.path);
        assert_eq!(fs::read(&stock.path).unwrap()[4..], fs::read(&lean.path).unwrap());
    }

    #[test]
    fn it_is_assembled_once_and_again_when_the_agent_changes() {
        let (root, library) = library_with("python", [b"k", b"mods", b"r"]);
        let image = bootable(&library);
        let agent = root.path().join("agent");
        fs::write(&agent, elf_with(&[(".text", b"one")], &[])).unwrap();
        let first = initramfs(&library, &image, &agent).unwrap();
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap());
        let before = inode(&first.path);
        assert_eq!(initramfs(&library, &image, &agent).unwrap(), first);
        assert_eq!(inode(&first.path), before, "it was not written again");
        assert_eq!(Digest::of_file(&first.path).unwrap(), first.digest);
        assert!(fs::read(&first.path).unwrap().starts_with(b"mods"));
        fs::write(&agent, elf_with(&[(".text", b"two")], &[])).unwrap();
        assert_ne!(initramfs(&library, &image, &agent).unwrap().path, first.path);
    }

    #[test]
    fn a_damaged_one_is_made_again() {
        let (root, library) = library_with("python", [b"k", b"mods", b"r"]);
        let image = bootable(&library);
        let agent = root.path().join("agent");
        fs::write(&agent, elf_with(&[], &[])).unwrap();
        let first = initramfs(&library, &image, &agent).unwrap();
        fs::set_permissions(&first.path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&first.path, b"rubbish").unwrap();
        assert_eq!(initramfs(&library, &image, &agent).unwrap(), first);
        assert_eq!(Digest::of_file(&first.path).unwrap(), first.digest);
    }

    #[test]
    fn a_vmm_of_another_user_can_read_it_and_one_it_could_not_read_is_made_again() {
        let (root, library) = library_with("python", [b"k", b"mods", b"r"]);
        let image = bootable(&library);
        let agent = root.path().join("agent");
        fs::write(&agent, elf_with(&[], &[])).unwrap();
        for _ in 0..2 {
            let made = initramfs(&library, &image, &agent).unwrap();
            assert_eq!(made.path.metadata().unwrap().permissions().mode() & 0o777, 0o444);
            fs::set_permissions(&made.path, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }

    #[test]
    fn one_in_use_stays_however_old_it_is_and_is_not_hashed_again() {
        let (root, library) = library_with("python", [b"k", b"mods", b"r"]);
        let image = bootable(&library);
        let agent = root.path().join("agent");
        fs::write(&agent, elf_with(&[], &[])).unwrap();
        let first = initramfs(&library, &image, &agent).unwrap();
        let record = record_of(&first.path);
        let times = |path: &Path| {
            let metadata = path.metadata().unwrap();
            (metadata.modified().unwrap(), std::os::unix::fs::MetadataExt::ctime_nsec(&metadata))
        };
        let before = times(&first.path);
        let old = SystemTime::now() - 10 * KEPT_FOR;
        fs::File::open(&record).unwrap().set_modified(old).unwrap();
        assert_eq!(initramfs(&library, &image, &agent).unwrap(), first);
        let noted = times(&record).0;
        assert!(noted > old + 9 * KEPT_FOR);
        assert_eq!(times(&first.path), before);
        // The next use within the hour writes nothing.
        initramfs(&library, &image, &agent).unwrap();
        assert_eq!(times(&record).0, noted);
    }

    #[test]
    fn a_dead_writers_scratch_file_goes_without_the_record_of_its_sibling() {
        let root = tempfile::tempdir().unwrap();
        let library = Library::at(root.path().join("library"));
        fs::create_dir_all(library.boot()).unwrap();
        for name in ["a.new-1", "a.cpio", "a.json"] {
            fs::write(library.boot().join(name), "x").unwrap();
        }
        let old = SystemTime::now() - 2 * KEPT_FOR;
        fs::File::open(library.boot().join("a.new-1")).unwrap().set_modified(old).unwrap();
        for n in 0..KEPT {
            fs::write(library.boot().join(format!("{n}.cpio")), "x").unwrap();
        }
        prune(&library, SystemTime::now()).unwrap();
        assert!(!library.boot().join("a.new-1").exists());
        assert!(library.boot().join("a.json").exists() && library.boot().join("a.cpio").exists());
    }

    #[test]
    fn only_the_newest_and_the_young_are_kept() {
        let root = tempfile::tempdir().unwrap();
        let library = Library::at(root.path().join("library"));
        fs::create_dir_all(library.boot()).unwrap();
        for age in 0u64..12 {
            for ending in ["cpio", "json"] {
                let path = library.boot().join(format!("{age:02}.{ending}"));
                let time = SystemTime::now() - Duration::from_secs(age * 60);
                fs::File::create(path).unwrap().set_modified(time).unwrap();
            }
        }
        let count = || fs::read_dir(library.boot()).unwrap().count();
        prune(&library, SystemTime::now()).unwrap();
        assert_eq!(count(), 24, "all are young");
        prune(&library, SystemTime::now() + KEPT_FOR).unwrap();
        assert_eq!(count(), 2 * KEPT);
        assert!(library.boot().join("07.cpio").exists() && !library.boot().join("08.cpio").exists());
    }

    #[test]
    fn what_cannot_be_an_agent_is_refused() {
        let (root, library) = library_with("python", [b"k", b"mods", b"r"]);
        let image = bootable(&library);
        let agent = root.path().join("agent");
        fs::write(&agent, b"#!/bin/sh\n").unwrap();
        assert!(matches!(initramfs(&library, &image, &agent), Err(LibraryError::Agent { .. })));
        let mut dynamic = elf_with(&[], &[0; 8]);
        let segment = usize::try_from(u64::from_le_bytes(dynamic[0x20..0x28].try_into().unwrap())).unwrap();
        dynamic[segment] = 3;
        fs::write(&agent, dynamic).unwrap();
        assert!(matches!(initramfs(&library, &image, &agent), Err(LibraryError::Agent { .. })));
    }

    #[test]
    fn damaged_modules_never_reach_a_guest() {
        let (root, library) = library_with("python", [b"k", b"mods", b"r"]);
        let image = bootable(&library);
        let agent = root.path().join("agent");
        fs::write(&agent, elf_with(&[], &[])).unwrap();
        fs::write(image.image().path(PartKind::Modules), b"modz").unwrap();
        assert!(matches!(initramfs(&library, &image, &agent), Err(LibraryError::Damaged { .. })));
    }
}
