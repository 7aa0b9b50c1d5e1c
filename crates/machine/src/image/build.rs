//! Builds an image: everything is made aside and appears in one step, or not at all.
//!
//! ```text
//!   check the host -> lock NAME -> root file system -> kernel (shared) -> hash -> manifest -> publish -> sweep
//! ```
//!
//! A build may be killed at any point: what it left has no name, and the next build of this library removes it. Two
//! builds of one image follow each other; builds of different images run side by side and share one kernel.

use super::digest::Digest;
use super::error::LibraryError;
use super::library::{self, Image};
use super::manifest::{Manifest, PartKind, content_digest};
use super::program::is_installed;
use super::progress::{Phase, Progress, Report, begin};
use super::recipe::{MemoryRecipe, Recipe};
use super::rootfs::{self, RootFs};
use super::shelf::{BuildLock, Shelf};
use super::source::{Mirror, keyring};
use super::{kernel, tree, trust};
use outlast_wire::image as wire;
use outlast_wire::paths::Library;
use std::fs;
use std::path::Path;

/// The record in an image's directory.
pub(crate) const MANIFEST: &str = "manifest.json";

/// Builds the image of this name and gives it back, leased.
///
/// Blocks for a minute or more and reports from this thread. To cancel, end the thread or the process: programs that
/// build die with it, and what was made stays invisible.
///
/// # Errors
/// [`LibraryError`] names what is missing, full, slow or broken; the library is as before.
pub fn build(
    library: &Library,
    name: &str,
    mirror: &Mirror,
    report: Report<'_>,
) -> Result<Image, LibraryError> {
    let recipe = Recipe::named(name)
        .ok_or_else(|| LibraryError::UnknownRecipe { name: name.to_owned(), known: Recipe::names() })?;
    check_host(library, name, &[("mksquashfs", "squashfs-tools")], recipe.scratch_bytes)?;
    let shelf = Shelf::at(library.images());
    let asked = unix_seconds();
    let lock = shelf.lock_build(name, report)?;
    if let Some(image) = made_meanwhile(library, name, mirror, &lock, asked) {
        return Ok(image);
    }
    let scratch = shelf.scratch(&lock)?;
    let made = make(library, recipe, mirror, &scratch, &lock, report).and_then(|digest| {
        begin(report, Phase::Publishing, name);
        let is_whole = |stored: &Path| library::is_whole(library, stored);
        shelf.publish(&lock, &scratch.join("out"), &digest.to_string(), &is_whole)
    });
    // A build that failed has one cause, and it is not that its scratch directory could not be removed: the next
    // build tries again.
    let cleared = tree::remove(&scratch);
    made.and(cleared)?;
    library::sweep(library)?;
    library::open(library, name)
}

/// What another process built, from the same sources, while we waited for it to end: that is what was asked for.
fn made_meanwhile(
    library: &Library,
    name: &str,
    mirror: &Mirror,
    lock: &BuildLock,
    asked: u64,
) -> Option<Image> {
    let image = library::open(library, name).ok().filter(|_| lock.waited())?;
    let record = image.manifest().record();
    let same_sources =
        Recipe::named(name).is_some_and(|r| record.distribution == mirror.distribution(r.suite));
    (record.created >= asked && same_sources && image.check(library).is_ok()).then_some(image)
}

/// What every build needs of the host, asked before anything is made.
pub(crate) fn check_host(
    library: &Library,
    what: &str,
    tools: &[(&str, &'static str)],
    needed: u64,
) -> Result<(), LibraryError> {
    if !rustix::process::geteuid().is_root() {
        return Err(LibraryError::NotRoot);
    }
    trust::require_own(library.path())?;
    let common = [("mmdebstrap", "mmdebstrap"), ("setpriv", "util-linux"), ("unshare", "util-linux")];
    if let Some((tool, package)) = common.iter().chain(tools).find(|(tool, _)| !is_installed(tool)) {
        return Err(LibraryError::Missing { what: (*tool).to_owned(), package });
    }
    keyring()?;
    tree::make_private_directory(library.path())?;
    let path = library.path();
    let disk = rustix::fs::statvfs(path).map_err(LibraryError::sys("ask for the free space of", path))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < needed {
        return Err(LibraryError::TooLittleSpace {
            what: what.to_owned(),
            path: path.to_owned(),
            needed,
            free,
        });
    }
    Ok(())
}

/// Makes the image's directory in `scratch/out`.
fn make(
    library: &Library,
    recipe: &Recipe,
    mirror: &Mirror,
    scratch: &Path,
    lock: &BuildLock,
    report: Report<'_>,
) -> Result<Digest, LibraryError> {
    let root_fs = rootfs::make(recipe, mirror, scratch, lock, report)?;
    let kernel = kernel::obtain(library, recipe.suite, mirror, root_fs.kernel_version.as_deref(), report)?;
    let out = scratch.join("out");
    fs::create_dir(&out).map_err(LibraryError::io("make", &out))?;
    kernel.link_into(&out)?;
    let mut parts = kernel.parts().to_vec();
    parts.push(place_root_fs(&root_fs, &out, report)?);
    let manifest = record(recipe, mirror, kernel.version(), parts, root_fs.packages);
    // What we write must be what we would accept.
    let path = out.join(MANIFEST);
    let damaged = |source| LibraryError::Manifest { path: path.clone(), source };
    let digest = Manifest::try_from(manifest.clone()).map_err(damaged)?.digest();
    let json = tree::to_json(&manifest);
    tree::write_new(&path, &json, 0o444)?;
    Ok(digest)
}

fn place_root_fs(root_fs: &RootFs, out: &Path, report: Report<'_>) -> Result<wire::Part, LibraryError> {
    let path = out.join(PartKind::RootFs.file_name());
    fs::rename(&root_fs.squashfs, &path).map_err(LibraryError::io("move", &path))?;
    tree::set_mode(&path, 0o444)?;
    report(Progress { phase: Phase::Hashing, done: 0, total: Some(1), detail: PartKind::RootFs.file_name() });
    let sha256 = Digest::of_file(&path)?.to_string();
    let size = path.metadata().map_err(LibraryError::io("stat", &path))?.len();
    Ok(wire::Part { name: PartKind::RootFs.file_name().to_owned(), sha256, size })
}

/// What a build of this recipe writes down.
pub(crate) fn record(
    recipe: &Recipe,
    mirror: &Mirror,
    kernel: &wire::KernelVersion,
    parts: Vec<wire::Part>,
    packages: Vec<wire::Package>,
) -> wire::ImageManifest {
    let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let mut record = wire::ImageManifest {
        format: wire::IMAGE_FORMAT,
        name: recipe.name.to_owned(),
        digest: String::new(),
        created: unix_seconds(),
        distribution: mirror.distribution(recipe.suite),
        kernel: kernel.clone(),
        parts,
        runtime: recipe.runtime.as_ref().map(|runtime| wire::Runtime {
            name: recipe.name.to_owned(),
            file_name: runtime.file_name.to_owned(),
            extensions: list(runtime.extensions),
            command: list(runtime.command),
            env: list(runtime.env),
            warm_up: list(runtime.warm_up),
        }),
        memory: needs(recipe.stock),
        memory_lean: Some(needs(recipe.lean)),
        packages,
    };
    record.digest = content_digest(&record).to_string();
    record
}

fn needs(memory: MemoryRecipe) -> wire::MemoryNeeds {
    wire::MemoryNeeds {
        min_limit: memory.min_limit.bytes(),
        min_machine: memory.min_machine.bytes(),
        reserve: memory.reserve.bytes(),
        reserve_share: memory.reserve_share,
    }
}

pub(crate) fn unix_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs()
}
