//! The images of a library: what there is, opening one, checking one, removing one.
//!
//! Opening reads the manifest and takes a lease; it does not hash. [`Image::check`] is for every boot: cheap, by stamps.
//! [`verify`] is for people: it reads every byte. How images come to be: [`mod@super::build`].

use super::build::MANIFEST;
use super::error::LibraryError;
use super::leftover::is_own;
use super::manifest::{Manifest, Part, PartKind, is_image_name};
use super::progress::{Phase, Progress, Report};
use super::shelf::{Lease, PASSED, Shelf};
use super::{kernel, stamp, tree, trust};
use outlast_wire::paths::Library;
use std::path::{Path, PathBuf};

/// An image that was opened; it cannot be removed while this, or a clone of its lease, lives.
#[derive(Debug, Clone)]
pub struct Image {
    name: String,
    directory: PathBuf,
    manifest: Manifest,
    lease: Lease,
}

impl Image {
    /// The name it was opened by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where one of its files lies. The path stays good while the lease lives.
    pub fn path(&self, kind: PartKind) -> PathBuf {
        self.directory.join(self.manifest.part(kind).file_name)
    }

    /// Keeps the image from being removed: for whoever outlives this value.
    pub fn lease(&self) -> Lease {
        self.lease.clone()
    }

    /// Checks every part against the manifest, by its stamp where that still holds (microseconds), else by reading it.
    ///
    /// # Errors
    /// [`LibraryError::Damaged`] names the file and both hashes.
    pub fn check(&self, library: &Library) -> Result<(), LibraryError> {
        self.manifest
            .parts()
            .iter()
            .try_for_each(|part| self.compare(part, |path| stamp::digest_of(library, path)))
    }

    fn compare(
        &self,
        part: &Part,
        digest: impl FnOnce(&Path) -> Result<super::Digest, LibraryError>,
    ) -> Result<(), LibraryError> {
        let path = self.path(part.kind);
        let found = digest(&path)?;
        if found == part.digest {
            return Ok(());
        }
        let (expected, found) = (part.digest.to_string(), found.to_string());
        Err(LibraryError::Damaged { name: self.name.clone(), path, expected, found })
    }
}

/// One line of `image ls`: a damaged image is listed too.
#[derive(Debug)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its manifest, or why there is none.
    pub manifest: Result<Manifest, LibraryError>,
}

/// Every image of the library, sorted by name. Takes no lease.
///
/// # Errors
/// The library cannot be read; one that is not there yet is empty.
pub fn list(library: &Library) -> Result<Vec<Listed>, LibraryError> {
    let names = Shelf::at(library.images()).names()?;
    let listed = |name: String| Listed { manifest: read_manifest(&library.images().join(&name)), name };
    Ok(names.into_iter().map(listed).collect())
}

/// Opens the image of this name.
///
/// # Errors
/// [`LibraryError::NoImage`] lists what there is and what to type; [`LibraryError::Manifest`] when it is damaged.
pub fn open(library: &Library, name: &str) -> Result<Image, LibraryError> {
    check_name(name)?;
    let shelf = Shelf::at(library.images());
    let Some((directory, lease)) = shelf.open(name)? else {
        return Err(LibraryError::NoImage { name: name.to_owned(), built: shelf.names()? });
    };
    Ok(Image { name: name.to_owned(), manifest: read_manifest(&directory)?, directory, lease })
}

/// The image in this directory, which the caller has a lease on.
pub(crate) fn at(name: &str, directory: PathBuf, lease: Lease) -> Result<Image, LibraryError> {
    Ok(Image { name: name.to_owned(), manifest: read_manifest(&directory)?, directory, lease })
}

/// Opens the image of this name in the first of these libraries that has it. The first is the owner's own; the others
/// are only read, and only where nobody but the superuser and this user can have changed them.
///
/// # Errors
/// As [`open`]; [`LibraryError::Untrusted`].
pub fn find(libraries: &[Library], name: &str) -> Result<Image, LibraryError> {
    let mut built = Vec::new();
    for (library, is_own) in libraries.iter().zip(std::iter::once(true).chain(std::iter::repeat(false))) {
        match open(library, name) {
            Ok(image) if is_own => return Ok(image),
            Ok(image) => {
                trust::check(&image.directory)?;
                PartKind::ALL.iter().try_for_each(|kind| trust::check_file(&image.path(*kind)))?;
                return Ok(image);
            }
            Err(LibraryError::NoImage { built: here, .. }) => built.extend(here),
            // A library that others have closed to us is as good as none.
            Err(error) if !is_own && error.is_forbidden() => {}
            Err(error) => return Err(error),
        }
    }
    built.sort();
    built.dedup();
    Err(LibraryError::NoImage { name: name.to_owned(), built })
}

/// Every image of these libraries, sorted by name; one that an earlier library has too is left out.
///
/// # Errors
/// As [`list`]; a library of others that cannot be read is passed over.
pub fn list_all(libraries: &[Library]) -> Result<Vec<Listed>, LibraryError> {
    let mut all: Vec<Listed> = Vec::new();
    for (number, library) in libraries.iter().enumerate() {
        match list(library) {
            Ok(listed) => {
                // What its owner keeps to themselves is not there for others.
                let closed =
                    |one: &Listed| number > 0 && one.manifest.as_ref().is_err_and(LibraryError::is_forbidden);
                let new = |one: &Listed| !closed(one) && all.iter().all(|other| other.name != one.name);
                let new: Vec<_> = listed.into_iter().filter(new).collect();
                all.extend(new);
            }
            Err(error) if number > 0 && error.is_forbidden() => {}
            Err(error) => return Err(error),
        }
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

/// Lets every user of the host read the images that came from recipes, the lean kernel and VMM roots of this library.
/// Images that somebody brought, templates, initramfs files, results of canaries and stamps stay its owner's, and parts
/// that are links to other libraries are as their owners want them.
///
/// # Errors
/// A mode cannot be changed; [`LibraryError::Untrusted`].
pub fn let_others_read(library: &Library) -> Result<(), LibraryError> {
    if !library.path().exists() {
        return Ok(());
    }
    // From here on nobody but its owner can put anything else in a name's place.
    trust::require_own(library.path())?;
    let real = library.path().canonicalize().map_err(LibraryError::io("follow", library.path()))?;
    tree::set_mode(&real, PASSED)?;
    let all: &dyn Fn(&Path) -> bool = &|_| true;
    let shelves = [(library.images(), &is_of_a_recipe as _), (library.lean(), all), (library.vmm(), all)];
    let mut own = shelves.into_iter().filter(|(root, _)| is_own(root));
    own.try_for_each(|(root, may)| Shelf::at(root).let_others_read(may))
}

/// Whether everything in a stored image came from packages. What somebody brought may hold their secrets.
fn is_of_a_recipe(stored: &Path) -> bool {
    read_manifest(stored).is_ok_and(|manifest| manifest.takes_lean_kernel())
}

/// Reads every byte of an image and compares it with the manifest; renews the stamps.
///
/// # Errors
/// [`LibraryError::Damaged`] names the first file that differs.
pub fn verify(library: &Library, image: &Image, report: Report<'_>) -> Result<(), LibraryError> {
    for (done, part) in (0u64..).zip(image.manifest.parts()) {
        report(Progress { phase: Phase::Hashing, done, total: Some(3), detail: part.file_name });
        image.compare(part, |path| stamp::rehash(library, path))?;
    }
    Ok(())
}

/// Whether a stored image still is what its manifest says; asked only when one with the same digest was made again.
pub(crate) fn is_whole(library: &Library, stored: &Path) -> bool {
    read_manifest(stored).is_ok_and(|manifest| stamp::are_whole(library, stored, &manifest.record().parts))
}

/// Removes an image. `in_use` is asked who else needs it (a VM that is stopped holds no lease); it answers with
/// words for the refusal.
///
/// # Errors
/// [`LibraryError::InUse`], and then the image is as before; [`LibraryError::NoImage`].
pub fn remove(
    library: &Library,
    name: &str,
    in_use: &dyn Fn(Option<&Manifest>) -> Option<String>,
) -> Result<(), LibraryError> {
    check_name(name)?;
    let shelf = Shelf::at(library.images());
    // A damaged manifest is no reason to keep the image.
    let manifest = read_manifest(&library.images().join(name)).ok();
    if let Some(by) = in_use(manifest.as_ref()) {
        return Err(LibraryError::InUse { name: name.to_owned(), by });
    }
    if shelf.remove(name)? {
        return sweep(library);
    }
    Err(LibraryError::NoImage { name: name.to_owned(), built: shelf.names()? })
}

/// Removes what dead builds left, stored things that no name leads to and nobody uses, and scratch of stamps. Parts that
/// are borrowed are their owner's to sweep. Every build and removal does it by itself; `doctor --fix` may too.
///
/// # Errors
/// Something could not be removed.
pub fn sweep(library: &Library) -> Result<(), LibraryError> {
    if is_own(&library.kernels()) {
        kernel::sweep(library)?;
    }
    let shelves = [library.images(), library.lean(), library.vmm()];
    shelves.into_iter().filter(|root| is_own(root)).try_for_each(|root| Shelf::at(root).sweep())?;
    stamp::sweep(library)
}

fn check_name(name: &str) -> Result<(), LibraryError> {
    if is_image_name(name) {
        return Ok(());
    }
    Err(LibraryError::BadName { name: name.chars().take(80).collect() })
}

fn read_manifest(directory: &Path) -> Result<Manifest, LibraryError> {
    let path = directory.join(MANIFEST);
    let json = std::fs::read(&path).map_err(LibraryError::io("read", &path))?;
    Manifest::parse(&json).map_err(|source| LibraryError::Manifest { path, source })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::manifest::tests::record_of;
    use super::*;
    use std::fs;

    fn silent(_: Progress<'_>) {}

    /// A library with one image of these contents.
    pub(crate) fn library_with(name: &str, contents: [&[u8]; 3]) -> (tempfile::TempDir, Library) {
        library_of(record_of(name, contents), contents)
    }

    /// A library with one image of this record, whose digest is put right, and of these contents.
    pub(crate) fn library_of(
        mut record: outlast_wire::image::ImageManifest,
        contents: [&[u8]; 3],
    ) -> (tempfile::TempDir, Library) {
        record.digest = super::super::manifest::content_digest(&record).to_string();
        let root = tempfile::tempdir().unwrap();
        let library = Library::at(root.path().join("library"));
        let shelf = Shelf::at(library.images());
        let lock = shelf.lock_build(&record.name, &mut silent).unwrap();
        let out = shelf.scratch(&lock).unwrap().join("out");
        fs::create_dir(&out).unwrap();
        for (kind, content) in PartKind::ALL.iter().zip(contents) {
            fs::write(out.join(kind.file_name()), content).unwrap();
        }
        fs::write(out.join(MANIFEST), serde_json::to_vec(&record).unwrap()).unwrap();
        shelf.publish(&lock, &out, &record.digest, &|_| true).unwrap();
        (root, library)
    }

    #[test]
    fn a_whole_image_passes_and_a_changed_byte_is_named() {
        let (_root, library) = library_with("python", [b"kernel", b"modules", b"root"]);
        let image = open(&library, "python").unwrap();
        image.check(&library).unwrap();
        verify(&library, &image, &mut silent).unwrap();
        fs::write(image.path(PartKind::RootFs), b"rooT").unwrap();
        let damaged = verify(&library, &image, &mut silent).unwrap_err();
        assert!(
            matches!(&damaged, LibraryError::Damaged { path, .. } if path.ends_with("rootfs.squashfs")),
            "{damaged}"
        );
        assert!(matches!(image.check(&library), Err(LibraryError::Damaged { .. })));
    }

    #[test]
    fn an_image_that_is_not_there_says_what_to_type() {
        let (_root, library) = library_with("python", [b"k", b"m", b"r"]);
        let error = open(&library, "node").unwrap_err().to_string();
        assert!(error.contains("built: python") && error.contains("outlast image build node"), "{error}");
        assert!(matches!(open(&library, "../python"), Err(LibraryError::BadName { .. })));
        assert!(matches!(open(&library, ".store"), Err(LibraryError::BadName { .. })));
        let nowhere = Library::at("/nonexistent/library".into());
        assert!(list(&nowhere).unwrap().is_empty());
        assert!(matches!(open(&nowhere, "python"), Err(LibraryError::NoImage { .. })));
        assert!(matches!(remove(&nowhere, "python", &|_| None), Err(LibraryError::NoImage { .. })));
    }

    #[test]
    fn an_image_in_use_is_not_removed() {
        let (_root, library) = library_with("python", [b"k", b"m", b"r"]);
        let by_row = remove(&library, "python", &|manifest| manifest.map(|m| format!("VM of {}", m.name())));
        assert!(matches!(by_row, Err(LibraryError::InUse { by, .. }) if by == "VM of python"));
        let lease = open(&library, "python").unwrap().lease();
        assert!(matches!(remove(&library, "python", &|_| None), Err(LibraryError::InUse { .. })));
        drop(lease);
        remove(&library, "python", &|_| None).unwrap();
        assert!(list(&library).unwrap().is_empty());
    }

    #[test]
    fn a_damaged_image_is_listed_and_can_be_removed() {
        let (_root, library) = library_with("python", [b"k", b"m", b"r"]);
        fs::write(library.images().join("python").join(MANIFEST), b"{").unwrap();
        let listed = list(&library).unwrap();
        assert!(matches!(&listed[..], [Listed { name, manifest: Err(_) }] if name == "python"));
        remove(&library, "python", &|_| None).unwrap();
    }

    #[test]
    fn half_made_things_on_every_shelf_are_swept_and_borrowed_shelves_left_alone() {
        let (root, library) = library_with("python", [b"k", b"m", b"r"]);
        let shelves = [library.images(), library.kernels(), library.lean(), library.vmm()];
        let half = |shelf: &Path| shelf.join(".making-kernel");
        let left = || shelves.iter().filter(|shelf| half(shelf).exists()).count();
        for shelf in &shelves {
            fs::create_dir_all(half(shelf).join("tree")).unwrap();
        }
        let borrower = Library::at(root.path().join("borrower"));
        fs::create_dir(borrower.path()).unwrap();
        for shelf in &shelves {
            std::os::unix::fs::symlink(shelf, borrower.path().join(shelf.file_name().unwrap())).unwrap();
        }
        sweep(&borrower).unwrap();
        assert_eq!(left(), 4);
        sweep(&library).unwrap();
        assert_eq!(left(), 0);
    }
}
