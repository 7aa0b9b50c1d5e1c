//! The lean kernel: built here from the distribution's source with our own configuration, everything in it, no modules.
//!
//! ```text
//!   LIBRARY/lean/kernel -> .store/DIGEST/   vmlinux, config, manifest.json
//! ```
//!
//! One per library, used by every image that was built from a recipe ([`super::bootable`]); until it is there, and
//! after it was removed, images boot the distribution's kernel that lies in them. How it is made: [`build()`].

mod build;
mod options;

use super::digest::Digest;
use super::error::LibraryError;
use super::manifest::{ManifestError, PartKind};
use super::progress::{Phase, Progress, Report};
use super::shelf::{Lease, Shelf};
use super::stamp;
use super::trust;
use outlast_wire::image::{LEAN_KERNEL_FORMAT, LeanKernelManifest, Part};
use outlast_wire::paths::Library;
use std::path::{Path, PathBuf};

pub use build::{Built, build};

/// The name under which it is built, listed, verified and removed.
pub const NAME: &str = "kernel";

const MANIFEST: &str = "manifest.json";
/// The whole configuration that it was made with.
const CONFIG: &str = "config";

/// The lean kernel in the library; it cannot be removed while this, or a clone of its lease, lives.
#[derive(Debug, Clone)]
pub struct LeanKernel {
    directory: PathBuf,
    manifest: LeanKernelManifest,
    digest: Digest,
    lease: Lease,
}

impl LeanKernel {
    /// What it is: SHA-256 of the ELF file.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What `uname -r` says in the guest.
    pub fn release(&self) -> &str {
        &self.manifest.kernel.release
    }

    /// As written, for what is only shown.
    pub fn record(&self) -> &LeanKernelManifest {
        &self.manifest
    }

    /// The ELF file. The path stays good while the lease lives.
    pub fn path(&self) -> PathBuf {
        self.directory.join(PartKind::Kernel.file_name())
    }

    /// Keeps it from being removed: for whoever outlives this value.
    pub fn lease(&self) -> Lease {
        self.lease.clone()
    }

    /// Compares it with its manifest, by its stamp where that still holds (microseconds), else by reading it.
    ///
    /// # Errors
    /// [`LibraryError::Damaged`] names the file and both hashes.
    pub fn check(&self, library: &Library) -> Result<(), LibraryError> {
        self.manifest
            .parts
            .iter()
            .try_for_each(|part| self.compare(part, |path| stamp::digest_of(library, path)))
    }

    fn compare(
        &self,
        part: &Part,
        digest: impl FnOnce(&Path) -> Result<Digest, LibraryError>,
    ) -> Result<(), LibraryError> {
        let path = self.directory.join(&part.name);
        let found = digest(&path)?.to_string();
        if found == part.sha256 {
            return Ok(());
        }
        Err(LibraryError::Damaged { name: NAME.to_owned(), path, expected: part.sha256.clone(), found })
    }
}

/// Opens the lean kernel; `None` when the library has none.
///
/// # Errors
/// [`LibraryError::Manifest`] when it is there and damaged: nothing is booted in its place then.
pub fn open(library: &Library) -> Result<Option<LeanKernel>, LibraryError> {
    let Some((directory, lease)) = Shelf::at(library.lean()).open(NAME)? else { return Ok(None) };
    let (manifest, digest) = read_manifest(&directory)?;
    Ok(Some(LeanKernel { directory, manifest, digest, lease }))
}

/// Whether the library has one, whole or not.
pub fn is_in(library: &Library) -> bool {
    Shelf::at(library.lean()).has(NAME)
}

fn read_manifest(directory: &Path) -> Result<(LeanKernelManifest, Digest), LibraryError> {
    let path = directory.join(MANIFEST);
    let json = std::fs::read(&path).map_err(LibraryError::io("read", &path))?;
    parse(&json).map_err(|source| LibraryError::Manifest { path, source })
}

/// Opens the lean kernel of the first of these libraries that has one, as [`super::find`] does images.
///
/// # Errors
/// As [`open`]; [`LibraryError::Untrusted`].
pub fn find(libraries: &[Library]) -> Result<Option<LeanKernel>, LibraryError> {
    for (number, library) in libraries.iter().enumerate() {
        match open(library) {
            Ok(None) => {}
            Ok(Some(kernel)) if number == 0 => return Ok(Some(kernel)),
            Ok(Some(kernel)) => {
                trust::check(&kernel.directory)?;
                trust::check_file(&kernel.path())?;
                return Ok(Some(kernel));
            }
            Err(error) if number > 0 && error.is_forbidden() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Reads every byte of it and compares that with its manifest; renews the stamps of the first library.
///
/// # Errors
/// [`LibraryError::Damaged`] names the first file that differs; [`LibraryError::NoLeanKernel`].
pub fn verify(libraries: &[Library], report: Report<'_>) -> Result<LeanKernel, LibraryError> {
    let Some((own, kernel)) = libraries.first().zip(find(libraries)?) else {
        return Err(LibraryError::NoLeanKernel);
    };
    for (done, part) in (0u64..).zip(&kernel.manifest.parts) {
        let total = u64::try_from(kernel.manifest.parts.len()).ok();
        report(Progress { phase: Phase::Hashing, done, total, detail: &part.name });
        kernel.compare(part, |path| stamp::rehash(own, path))?;
    }
    Ok(kernel)
}

/// Removes it: images boot the kernels that lie in them from now on.
///
/// # Errors
/// [`LibraryError::InUse`] while a VM that booted it runs; [`LibraryError::NoLeanKernel`].
pub fn remove(library: &Library) -> Result<(), LibraryError> {
    if Shelf::at(library.lean()).remove(NAME)? { Ok(()) } else { Err(LibraryError::NoLeanKernel) }
}

fn parse(json: &[u8]) -> Result<(LeanKernelManifest, Digest), ManifestError> {
    /// Read first: a newer format need not parse as ours.
    #[derive(serde::Deserialize)]
    struct Format {
        format: u32,
    }
    let Format { format } = serde_json::from_slice(json)?;
    if format > LEAN_KERNEL_FORMAT {
        return Err(ManifestError::Format { found: format, known: LEAN_KERNEL_FORMAT });
    }
    let manifest: LeanKernelManifest = serde_json::from_slice(json)?;
    let digest: Digest = manifest.digest.parse()?;
    for name in [PartKind::Kernel.file_name(), CONFIG] {
        if manifest.parts.iter().filter(|part| part.name == name).count() != 1 {
            return Err(ManifestError::Part { name });
        }
    }
    // The digest names what a guest boots; no other file belongs here.
    let is_kernel = |part: &Part| part.name == PartKind::Kernel.file_name() && part.sha256 == manifest.digest;
    if manifest.parts.len() != 2 || !manifest.parts.iter().any(is_kernel) {
        return Err(ManifestError::Forged);
    }
    Ok((manifest, digest))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use outlast_wire::image::{Distribution, KernelVersion};
    use std::fs;

    fn record_of(kernel: &[u8], config: &[u8]) -> LeanKernelManifest {
        let part = |name: &str, content: &[u8]| Part {
            name: name.to_owned(),
            sha256: Digest::of(content).to_string(),
            size: content.len() as u64,
        };
        LeanKernelManifest {
            format: LEAN_KERNEL_FORMAT,
            digest: Digest::of(kernel).to_string(),
            created: 1,
            distribution: Distribution { id: "debian".into(), suite: "bookworm".into(), sources: vec![] },
            kernel: KernelVersion {
                release: "6.1.1-outlast".into(),
                package: "linux-source-6.1".into(),
                version: "6.1.1-1".into(),
            },
            options_sha256: Digest::of(b"options").to_string(),
            tools: vec![],
            parts: vec![part("vmlinux", kernel), part(CONFIG, config)],
        }
    }

    /// Puts a lean kernel of this content into a library.
    pub(crate) fn put(library: &Library, kernel: &[u8]) {
        put_as(library, kernel, |_| {}, &|_| true);
    }

    /// The same with other words in its record, unless what is there is whole.
    pub(crate) fn put_as(
        library: &Library,
        kernel: &[u8],
        change: impl FnOnce(&mut LeanKernelManifest),
        is_whole: &dyn Fn(&Path) -> bool,
    ) {
        let shelf = Shelf::at(library.lean());
        let lock = shelf.lock_build(NAME, &mut |_| {}).unwrap();
        let out = shelf.scratch(&lock).unwrap().join("out");
        fs::create_dir(&out).unwrap();
        fs::write(out.join("vmlinux"), kernel).unwrap();
        fs::write(out.join(CONFIG), b"c").unwrap();
        let mut record = record_of(kernel, b"c");
        change(&mut record);
        fs::write(out.join(MANIFEST), serde_json::to_vec(&record).unwrap()).unwrap();
        shelf.publish(&lock, &out, &record.digest, is_whole).unwrap();
    }

    #[test]
    fn it_is_opened_checked_and_removed_unless_somebody_uses_it() {
        let root = tempfile::tempdir().unwrap();
        let library = Library::at(root.path().join("library"));
        assert!(open(&library).unwrap().is_none());
        assert!(matches!(remove(&library), Err(LibraryError::NoLeanKernel)));
        assert!(matches!(
            verify(std::slice::from_ref(&library), &mut |_| {}),
            Err(LibraryError::NoLeanKernel)
        ));
        put(&library, b"kernel");
        let kernel = open(&library).unwrap().unwrap();
        assert_eq!(kernel.digest(), Digest::of(b"kernel"));
        kernel.check(&library).unwrap();
        let lease = kernel.lease();
        drop(kernel);
        assert!(matches!(remove(&library), Err(LibraryError::InUse { .. })));
        drop(lease);
        remove(&library).unwrap();
        assert!(open(&library).unwrap().is_none());
    }

    #[test]
    fn a_damaged_one_is_never_booted_nor_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let library = Library::at(root.path().join("library"));
        put(&library, b"kernel");
        let kernel = open(&library).unwrap().unwrap();
        fs::write(kernel.path(), b"kernal").unwrap();
        assert!(matches!(kernel.check(&library), Err(LibraryError::Damaged { name, .. }) if name == NAME));
        assert!(matches!(
            verify(std::slice::from_ref(&library), &mut |_| {}),
            Err(LibraryError::Damaged { .. })
        ));
        fs::write(kernel.directory.join(MANIFEST), b"{").unwrap();
        assert!(matches!(open(&library), Err(LibraryError::Manifest { .. })));
        drop(kernel);
        assert!(is_in(&library));
        remove(&library).unwrap();
        assert!(!is_in(&library));
    }

    #[test]
    fn manifests_that_make_no_sense_are_refused() {
        let refused = |change: fn(&mut LeanKernelManifest)| {
            let mut record = record_of(b"kernel", b"config");
            change(&mut record);
            parse(&serde_json::to_vec(&record).unwrap()).unwrap_err()
        };
        parse(&serde_json::to_vec(&record_of(b"kernel", b"config")).unwrap()).unwrap();
        assert!(matches!(refused(|r| r.format += 1), ManifestError::Format { .. }));
        assert!(matches!(refused(|r| r.digest.push('0')), ManifestError::Digest(_)));
        assert!(matches!(refused(|r| r.digest = r.options_sha256.clone()), ManifestError::Forged));
        assert!(matches!(refused(|r| r.parts.truncate(1)), ManifestError::Part { name: CONFIG }));
        assert!(matches!(refused(|r| r.parts[1].name = "../x".into()), ManifestError::Part { .. }));
        let more = |r: &mut LeanKernelManifest| {
            r.parts.push(Part { name: "../x".into(), sha256: "ab".repeat(32), size: 1 });
        };
        assert!(matches!(refused(more), ManifestError::Forged));
    }
}
