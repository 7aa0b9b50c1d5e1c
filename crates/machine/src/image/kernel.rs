//! The guest kernel and its modules, taken out of the distribution's package once and shared by all images.
//!
//! A shelf of its own holds one entry per version of the package; images hold hard links to its files, so the
//! host keeps one copy, also in its page cache. What a file hashes to stands in `kernel.json`.

use super::bzimage;
use super::digest::Digest;
use super::error::LibraryError;
use super::manifest::{ManifestError, PartKind};
use super::modules::{ModuleTree, WANTED, archive};
use super::packages::{TreeRequest, Variant, make_tree};
use super::progress::{Phase, Report, begin};
use super::recipe::KERNEL_PACKAGE;
use super::shelf::{BuildLock, Lease, Shelf};
use super::source::{Mirror, Suite};
use super::{stamp, tree};
use outlast_wire::image::{KERNEL_FORMAT, KernelManifest, KernelVersion, Part};
use outlast_wire::paths::Library;
use std::fs;
use std::path::{Path, PathBuf};

/// A kernel in the library, kept there while this lives.
#[derive(Debug)]
pub(crate) struct Kernel {
    directory: PathBuf,
    manifest: KernelManifest,
    _lease: Lease,
}

const MANIFEST: &str = "kernel.json";

impl Kernel {
    pub(crate) fn version(&self) -> &KernelVersion {
        &self.manifest.kernel
    }

    /// The kernel and the modules, as the parts of an image.
    pub(crate) fn parts(&self) -> &[Part] {
        &self.manifest.parts
    }

    /// Puts both files into the directory of an image, as links.
    pub(crate) fn link_into(&self, image: &Path) -> Result<(), LibraryError> {
        for part in self.parts() {
            let (from, to) = (self.directory.join(&part.name), image.join(&part.name));
            fs::hard_link(&from, &to).map_err(LibraryError::io("link", &to))?;
        }
        Ok(())
    }
}

/// The kernel of this version: from the library, or fetched and put there.
pub(crate) fn obtain(
    library: &Library,
    suite: Suite,
    mirror: &Mirror,
    wanted: Option<&str>,
    report: Report<'_>,
) -> Result<Kernel, LibraryError> {
    begin(report, Phase::Kernel, wanted.unwrap_or_default());
    let shelf = Shelf::at(library.kernels());
    let cached = |version: &str| open(library, &shelf, &entry_name(version));
    if let Some(kernel) = wanted.map(cached).transpose()?.flatten() {
        return Ok(kernel);
    }
    // One lock for all versions: who waited finds what the other one made.
    let lock = shelf.lock_build("kernel", report)?;
    if let Some(kernel) = wanted.map(cached).transpose()?.flatten() {
        return Ok(kernel);
    }
    let name = make(library, &shelf, suite, mirror, &lock, report)?;
    open(library, &shelf, &name)?.ok_or(LibraryError::Unpacked { suite: suite.name(), what: name })
}

/// Removes kernels that no image is made of any more.
pub(crate) fn sweep(library: &Library) -> Result<(), LibraryError> {
    use std::os::unix::fs::MetadataExt as _;
    let shelf = Shelf::at(library.kernels());
    for name in shelf.names()? {
        let kernel = library.kernels().join(&name).join(PartKind::Kernel.file_name());
        // Every image has a link to the file; the shelf's own is the first.
        if kernel.metadata().is_ok_and(|metadata| metadata.nlink() == 1) {
            match shelf.remove(&name) {
                // A build may hold it and link it next.
                Ok(_) | Err(LibraryError::InUse { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    shelf.sweep()
}

fn open(library: &Library, shelf: &Shelf, name: &str) -> Result<Option<Kernel>, LibraryError> {
    let Some((directory, lease)) = shelf.open(name)? else { return Ok(None) };
    let path = directory.join(MANIFEST);
    let json = fs::read(&path).map_err(LibraryError::io("read", &path))?;
    let damaged = |source: ManifestError| LibraryError::Manifest { path: path.clone(), source };
    let manifest: KernelManifest = serde_json::from_slice(&json).map_err(|error| damaged(error.into()))?;
    if manifest.format != KERNEL_FORMAT {
        return Ok(None);
    }
    for part in &manifest.parts {
        let file = directory.join(&part.name);
        let expected: Digest =
            part.sha256.parse().map_err(|error: super::digest::DigestError| damaged(error.into()))?;
        // A damaged one counts as absent: it is made again and replaced.
        if !file.exists() || stamp::digest_of(library, &file)? != expected {
            return Ok(None);
        }
    }
    Ok(Some(Kernel { directory, manifest, _lease: lease }))
}

/// Fetches, takes apart and publishes; gives back the name on the shelf.
fn make(
    library: &Library,
    shelf: &Shelf,
    suite: Suite,
    mirror: &Mirror,
    lock: &BuildLock,
    report: Report<'_>,
) -> Result<String, LibraryError> {
    let scratch = shelf.scratch(lock)?;
    let include = &[KERNEL_PACKAGE];
    let request = TreeRequest {
        suite,
        mirror,
        variant: Variant::Extract,
        include,
        scratch: &scratch,
        phase: Phase::Kernel,
    };
    let unpacked = make_tree(&request, lock, report)?;
    let absent = |what: &str| LibraryError::Unpacked { suite: suite.name(), what: what.to_owned() };
    let version = unpacked.packages().into_iter().find(|package| package.name == KERNEL_PACKAGE);
    let version = version.ok_or_else(|| absent(KERNEL_PACKAGE))?.version;
    let release = release(&unpacked.root)?.ok_or_else(|| absent("lib/modules"))?;
    let out = scratch.join("out");
    tree::make_private_directory(&out)?;
    let mut parts = vec![write_part(&out, PartKind::Kernel, &take_kernel(&unpacked.root, &release)?)?];
    let (modules, names) = take_modules(&unpacked.root, &release)?;
    parts.push(write_part(&out, PartKind::Modules, &modules)?);
    let kernel = KernelVersion { release, package: KERNEL_PACKAGE.to_owned(), version };
    let name = entry_name(&kernel.version);
    let manifest = KernelManifest { format: KERNEL_FORMAT, kernel, parts, modules: names };
    let json = tree::to_json(&manifest);
    tree::write_new(&out.join(MANIFEST), &json, 0o444)?;
    tree::remove(&unpacked.root)?;
    shelf
        .publish_as(lock, &out, &name, &Digest::of(&json).to_string(), &|stored| is_whole(library, stored))?;
    Ok(name)
}

fn is_whole(library: &Library, stored: &Path) -> bool {
    let manifest = fs::read(stored.join(MANIFEST)).ok();
    let manifest = manifest.and_then(|json| serde_json::from_slice::<KernelManifest>(&json).ok());
    manifest.is_some_and(|manifest| stamp::are_whole(library, stored, &manifest.parts))
}

/// The one kernel release that was unpacked.
fn release(root: &Path) -> Result<Option<String>, LibraryError> {
    let directory = root.join("lib/modules");
    let entries = fs::read_dir(&directory).map_err(LibraryError::io("list", &directory))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.max())
}

fn take_kernel(root: &Path, release: &str) -> Result<Vec<u8>, LibraryError> {
    let path = root.join("boot").join(format!("vmlinuz-{release}"));
    let bytes = fs::read(&path).map_err(LibraryError::io("read", &path))?;
    bzimage::vmlinux(&bytes).map_err(|source| LibraryError::BzImage { path, source })
}

fn take_modules(root: &Path, release: &str) -> Result<(Vec<u8>, Vec<String>), LibraryError> {
    let failed = |source| LibraryError::Modules { release: release.to_owned(), source };
    let directory = root.join("lib/modules").join(release);
    let modules = ModuleTree::open(&directory).and_then(|tree| tree.gather(WANTED)).map_err(failed)?;
    let packed = archive(&modules).map_err(LibraryError::io("pack", &directory))?;
    Ok((packed, modules.into_iter().map(|(name, _)| name).collect()))
}

fn write_part(out: &Path, kind: PartKind, content: &[u8]) -> Result<Part, LibraryError> {
    tree::write_new(&out.join(kind.file_name()), content, 0o444)?;
    let sha256 = Digest::of(content).to_string();
    Ok(Part { name: kind.file_name().to_owned(), sha256, size: content.len() as u64 })
}

/// Package, version, and what we take of it: another list of modules is another entry. Versions may hold `:` and `~`,
/// which are fine in file names but not in everything that reads them.
fn entry_name(version: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '_' };
    let version: String = version.chars().map(safe).collect();
    let taken = Digest::of(format!("{KERNEL_FORMAT} {}", WANTED.join(" ")).as_bytes());
    format!("{KERNEL_PACKAGE}-{version}-{}", taken.short())
}
