//! Makes a root file system: packages installed, what no guest needs thrown out, a guest user put in, all packed into a
//! squashfs that is the same for the same packages.
//!
//! The agent mounts it read-only under an overlay, mounts /dev, /proc and /sys itself, and writes the host name, machine
//! id and resolver of each incarnation; so none of these are in here.

use super::error::LibraryError;
use super::packages::{TreeRequest, Variant, make_tree};
use super::program::Program;
use super::progress::{Phase, Report, begin};
use super::recipe::{self, Recipe};
use super::shelf::BuildLock;
use super::source::Mirror;
use super::tree;
use outlast_wire::image::Package;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A packed root file system and what is in it.
#[derive(Debug)]
pub(crate) struct RootFs {
    pub(crate) squashfs: PathBuf,
    pub(crate) packages: Vec<Package>,
    /// The version that the archive offers of the kernel package.
    pub(crate) kernel_version: Option<String>,
}

/// Contents of these go; the directories stay. Documentation, translations, caches, logs, and what only building on top
/// of the tree with apt or dpkg would need. Licences (`copyright` files) are kept, see [`trim_documentation`].
const EMPTIED: &[&str] = &[
    "boot",
    "dev",
    "run",
    "tmp",
    "usr/include",
    "usr/share/bash-completion",
    "usr/share/bug",
    "usr/share/doc-base",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/pixmaps",
    "usr/src",
    "var/backups",
    "var/cache",
    "var/lib/apt",
    "var/lib/dpkg/info",
    "var/lib/dpkg/triggers",
    "var/log",
    "var/tmp",
];

/// These go altogether.
const REMOVED: &[&str] =
    &["etc/hostname", "var/lib/dpkg/status-old", "var/lib/dpkg/available-old", "etc/ld.so.cache~"];

/// Makes the root file system of `recipe` in `scratch`.
pub(crate) fn make(
    recipe: &Recipe,
    mirror: &Mirror,
    scratch: &Path,
    lock: &BuildLock,
    report: Report<'_>,
) -> Result<RootFs, LibraryError> {
    let include: Vec<_> = recipe::COMMON_PACKAGES.iter().chain(recipe.packages).copied().collect();
    let request = TreeRequest {
        suite: recipe.suite,
        mirror,
        variant: Variant::Essential,
        include: &include,
        scratch,
        phase: Phase::Packages,
    };
    let started = unix_seconds();
    let made = make_tree(&request, lock, report)?;
    begin(report, Phase::Trimming, "");
    let packages = made.installed()?;
    trim(&made.root, recipe)?;
    furnish(&made.root)?;
    let newest = settle_times(&made.root, started)?;
    begin(report, Phase::Packing, "");
    let squashfs = pack(&made.root, scratch, newest, lock)?;
    tree::remove(&made.root)?;
    Ok(RootFs { squashfs, packages, kernel_version: made.kernel_version().map(str::to_owned) })
}

fn trim(root: &Path, recipe: &Recipe) -> Result<(), LibraryError> {
    for directory in EMPTIED {
        empty(&root.join(directory))?;
    }
    for path in REMOVED.iter().chain(recipe.unneeded) {
        tree::remove(&root.join(path))?;
    }
    trim_documentation(&root.join("usr/share/doc"))?;
    // The guest's programs run as an ordinary user who has no business becoming another one.
    tree::walk(root, &mut |path, metadata| {
        let mode = metadata.mode() & 0o7777;
        if metadata.is_file() && mode & 0o6000 != 0 {
            tree::set_mode(path, mode & 0o1777)?;
        }
        Ok(())
    })
}

/// Licences say that their text goes where the program goes; nothing else of the documentation does.
fn trim_documentation(doc: &Path) -> Result<(), LibraryError> {
    if !doc.exists() {
        return Ok(());
    }
    tree::walk(doc, &mut |path, metadata| {
        let is_licence = path.file_name().is_some_and(|name| name == "copyright");
        // Directories come after their contents; the ones that hold a licence are not empty and stay.
        if metadata.is_dir() {
            _ = fs::remove_dir(path);
            Ok(())
        } else if is_licence {
            Ok(())
        } else {
            tree::remove(path)
        }
    })
}

fn empty(directory: &Path) -> Result<(), LibraryError> {
    if !directory.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Ok(());
    }
    for entry in fs::read_dir(directory).map_err(LibraryError::io("list", directory))? {
        tree::remove(&entry.map_err(LibraryError::io("list", directory))?.path())?;
    }
    Ok(())
}

/// Puts in what programs of guests rely on: a user, a home, the work directories, and empty files for what each
/// incarnation fills in.
fn furnish(root: &Path) -> Result<(), LibraryError> {
    let (user, home) = (recipe::GUEST_USER, recipe::GUEST_HOME);
    let (uid, gid) = (recipe::GUEST_UID, recipe::GUEST_GID);
    // No password ever matches '*'; there is no shadow file, and none is needed.
    append(root, "etc/passwd", &format!("{user}:*:{uid}:{gid}:{user}:{home}:/bin/sh\n"))?;
    append(root, "etc/group", &format!("{user}:*:{gid}:\n"))?;
    write(root, "etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")?;
    write(root, "etc/machine-id", "")?;
    write(root, "etc/resolv.conf", "")?;
    for (path, mode, owner) in [
        ("outlast", 0o755, 0),
        (recipe::GUEST_WORK, 0o755, uid),
        (recipe::GUEST_OUT, 0o755, uid),
        (home, 0o750, uid),
        ("tmp", 0o1777, 0),
        ("var/tmp", 0o1777, 0),
        ("dev", 0o755, 0),
        ("proc", 0o555, 0),
        ("sys", 0o555, 0),
        ("run", 0o755, 0),
    ] {
        directory(&root.join(path.trim_start_matches('/')), mode, owner)?;
    }
    Ok(())
}

fn append(root: &Path, name: &str, line: &str) -> Result<(), LibraryError> {
    let path = root.join(name);
    let before = fs::read_to_string(&path).map_err(LibraryError::io("read", &path))?;
    fs::write(&path, before + line).map_err(LibraryError::io("write", &path))
}

fn write(root: &Path, name: &str, content: &str) -> Result<(), LibraryError> {
    let path = root.join(name);
    // Removed first: it may be a link that points out of the tree.
    tree::remove(&path)?;
    tree::write_new(&path, content.as_bytes(), 0o644)
}

fn directory(path: &Path, mode: u32, owner: u32) -> Result<(), LibraryError> {
    fs::create_dir_all(path).map_err(LibraryError::io("make", path))?;
    tree::set_mode(path, mode)?;
    std::os::unix::fs::fchown(tree::open_itself(path)?, Some(owner), Some(owner))
        .map_err(LibraryError::io("change the owner of", path))
}

/// Gives everything that this build made the time of the newest file that came in a package, so that the same packages
/// make the same image. Files of packages keep their times: Python's byte code names that of its source.
fn settle_times(root: &Path, started: i64) -> Result<i64, LibraryError> {
    let mut newest = 0;
    tree::walk(root, &mut |_, metadata| {
        if metadata.is_file() && metadata.mtime() < started {
            newest = newest.max(metadata.mtime());
        }
        Ok(())
    })?;
    let time = Timespec { tv_sec: newest, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    let mut set = |path: &Path, metadata: &Metadata| {
        if metadata.mtime() < started && !metadata.is_dir() {
            return Ok(());
        }
        utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(LibraryError::sys("set the time of", path))
    };
    tree::walk(root, &mut set)?;
    set(root, &root.symlink_metadata().map_err(LibraryError::io("stat", root))?)?;
    Ok(newest)
}

fn pack(root: &Path, scratch: &Path, time: i64, lock: &BuildLock) -> Result<PathBuf, LibraryError> {
    let squashfs = scratch.join("rootfs.squashfs");
    Program::new("mksquashfs", scratch)
        .arg(root)
        .arg(&squashfs)
        .args(["-noappend", "-no-progress", "-quiet", "-comp", "zstd", "-Xcompression-level", ZSTD_LEVEL])
        .args(["-mkfs-time", &time.to_string()])
        .run(lock, &mut |_| {})?;
    Ok(squashfs)
}

/// Measured on the python image: level 3 gives 37.4 MB in 1.2 s, 6 35.1 MB in 2.4 s, 12 34.7 MB in 8.8 s, 19 32.1 MB in
/// 52 s. Unpacking takes the same time at all of them.
const ZSTD_LEVEL: &str = "6";

fn unix_seconds() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_documentation_only_licences_stay() {
        let root = tempfile::tempdir().unwrap();
        for name in ["a/copyright", "a/README", "b/changelog.gz", "c/deep/copyright"] {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        trim_documentation(root.path()).unwrap();
        let mut left = Vec::new();
        tree::walk(root.path(), &mut |path, _| {
            left.push(path.strip_prefix(root.path()).unwrap().to_owned());
            Ok(())
        })
        .unwrap();
        assert_eq!(left, ["a/copyright", "a", "c/deep/copyright", "c/deep", "c"].map(PathBuf::from));
    }

    #[test]
    fn times_of_packages_stay_and_times_of_this_build_are_settled() {
        let root = tempfile::tempdir().unwrap();
        let (old, new) = (root.path().join("old"), root.path().join("new"));
        fs::write(&old, "").unwrap();
        fs::write(&new, "").unwrap();
        let past = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000);
        fs::File::options().write(true).open(&old).unwrap().set_modified(past).unwrap();
        assert_eq!(settle_times(root.path(), unix_seconds() - 60).unwrap(), 1_000);
        let time = |path: &Path| path.symlink_metadata().unwrap().mtime();
        assert_eq!([time(&old), time(&new), time(root.path())], [1_000; 3]);
    }
}
