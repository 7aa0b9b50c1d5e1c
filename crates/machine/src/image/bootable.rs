//! An image with the kernel it boots: the lean one where the library has it, else the image's own.
//!
//! Images built from a recipe boot either; one that came with a kernel of its own boots that and no other. What is
//! chosen here is held: it cannot be removed or replaced under a boot.

use super::digest::Digest;
use super::error::LibraryError;
use super::lean::{self, LeanKernel};
use super::library::Image;
use super::manifest::{MemoryNeeds, PartKind};
use super::shelf::Lease;
use outlast_wire::paths::Library;
use std::path::PathBuf;

/// An image and its kernel.
#[derive(Debug, Clone)]
pub struct Bootable {
    image: Image,
    lean: Option<LeanKernel>,
}

impl Bootable {
    /// Chooses the kernel for `image`, from the first of these libraries that has one. Hashes nothing.
    ///
    /// # Errors
    /// There is a lean kernel and its manifest is damaged: no other is taken in its place.
    pub fn choose(libraries: &[Library], image: Image) -> Result<Self, LibraryError> {
        let lean = if image.manifest().takes_lean_kernel() { lean::find(libraries)? } else { None };
        Ok(Self { image, lean })
    }

    /// The image.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The lean kernel, when it is that which boots.
    pub fn lean_kernel(&self) -> Option<&LeanKernel> {
        self.lean.as_ref()
    }

    /// The ELF file that boots.
    pub fn kernel(&self) -> PathBuf {
        self.lean.as_ref().map_or_else(|| self.image.path(PartKind::Kernel), LeanKernel::path)
    }

    /// What `uname -r` says in the guest.
    pub fn kernel_release(&self) -> &str {
        self.lean.as_ref().map_or_else(|| self.image.manifest().kernel_release(), LeanKernel::release)
    }

    /// How much memory the image needs with this kernel.
    pub fn needs(&self) -> MemoryNeeds {
        let manifest = self.image.manifest();
        if self.lean.is_some() { manifest.memory_lean() } else { manifest.memory() }
    }

    /// The modules that the kernel loads: the archive and its hash; `None` when everything is built in.
    pub(crate) fn modules(&self) -> Option<(PathBuf, Digest)> {
        let part = self.image.manifest().part(PartKind::Modules);
        self.lean.is_none().then(|| (self.image.path(part.kind), part.digest))
    }

    /// Keep image and kernel from being removed: for whoever outlives this value.
    pub fn leases(&self) -> Vec<Lease> {
        let lean = self.lean.as_ref().map(LeanKernel::lease);
        std::iter::once(self.image.lease()).chain(lean).collect()
    }

    /// Checks every file against its manifest, by its stamp where that still holds (microseconds).
    ///
    /// # Errors
    /// [`LibraryError::Damaged`] names the file and both hashes.
    pub fn check(&self, library: &Library) -> Result<(), LibraryError> {
        self.image.check(library)?;
        self.lean.iter().try_for_each(|kernel| kernel.check(library))
    }
}

#[cfg(test)]
mod tests {
    use super::super::library::{open, tests::library_of};
    use super::super::manifest::tests::record_of;
    use super::super::recipe::KERNEL_PACKAGE;
    use super::*;
    use outlast_wire::image as wire;

    const CONTENTS: [&[u8]; 3] = [b"stock", b"modules", b"root"];

    fn image(change: impl FnOnce(&mut wire::ImageManifest)) -> (tempfile::TempDir, Library, Image) {
        let mut record = record_of("python", CONTENTS);
        record.kernel.package = KERNEL_PACKAGE.to_owned();
        change(&mut record);
        let (root, library) = library_of(record, CONTENTS);
        let image = open(&library, "python").unwrap();
        (root, library, image)
    }

    fn lean_needs() -> wire::MemoryNeeds {
        wire::MemoryNeeds { min_limit: 16 << 20, min_machine: 64 << 20, reserve: 40 << 20, reserve_share: 32 }
    }

    #[test]
    fn the_images_own_kernel_boots_until_there_is_a_lean_one() {
        let (_root, library, image) = image(|record| record.memory_lean = Some(lean_needs()));
        let stock = Bootable::choose(std::slice::from_ref(&library), image.clone()).unwrap();
        assert_eq!(std::fs::read(stock.kernel()).unwrap(), b"stock");
        assert!(stock.modules().is_some() && stock.leases().len() == 1);
        assert_eq!(stock.needs().min_machine.mib(), 96);
        lean::tests::put(&library, b"lean");
        let lean = Bootable::choose(std::slice::from_ref(&library), image).unwrap();
        assert_eq!(std::fs::read(lean.kernel()).unwrap(), b"lean");
        assert!(lean.modules().is_none());
        assert_eq!((lean.kernel_release(), lean.needs().min_machine.mib()), ("6.1.1-outlast", 64));
        lean.check(&library).unwrap();
        // Its lease outlives it.
        let leases = lean.leases();
        drop(lean);
        assert!(matches!(lean::remove(&library), Err(LibraryError::InUse { .. })));
        drop(leases);
        lean::remove(&library).unwrap();
    }

    #[test]
    fn an_image_from_before_the_lean_kernel_needs_what_it_always_did() {
        let (_root, library, image) = image(|_| {});
        lean::tests::put(&library, b"lean");
        let lean = Bootable::choose(std::slice::from_ref(&library), image).unwrap();
        assert!(lean.lean_kernel().is_some());
        assert_eq!(lean.needs(), lean.image().manifest().memory());
    }

    #[test]
    fn an_image_with_a_kernel_of_its_own_boots_no_other() {
        let (_root, library, image) = image(|record| record.kernel.package = "somebody's".to_owned());
        lean::tests::put(&library, b"lean");
        assert!(Bootable::choose(std::slice::from_ref(&library), image).unwrap().lean_kernel().is_none());
    }

    #[test]
    fn a_damaged_lean_kernel_is_not_passed_over() {
        let (_root, library, image) = image(|_| {});
        lean::tests::put(&library, b"lean");
        let bootable = Bootable::choose(std::slice::from_ref(&library), image).unwrap();
        std::fs::write(bootable.kernel(), b"leaf").unwrap();
        assert!(matches!(bootable.check(&library), Err(LibraryError::Damaged { .. })));
    }
}
