//! Images and the VMM root, as commands see them. Building and checking is `machine`'s; this says who may.

use crate::error::{Error, chain};
use crate::site::{Site, SiteError};
use outlast_machine::host;
use outlast_machine::image::lean::{self, LeanKernel};
use outlast_machine::image::{self, Digest, Image, LibraryError, Manifest, Progress, Recipe, staleness};
use outlast_machine::vmm_root::{self, VmmRoot};
use outlast_wire::paths::Library;
use outlast_wire::view::ImageView;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub use outlast_machine::image::{Mirror, Phase};

/// The name under which the VMM root is built, verified and listed.
pub const VMM: &str = "vmm";

/// The name under which the lean kernel is built, verified, listed and removed.
pub const KERNEL: &str = lean::NAME;

/// What a build came to.
#[derive(Debug)]
pub struct Built {
    /// What is in the library now.
    pub view: ImageView,
    /// Whether it was there already.
    pub already: bool,
}

/// Everything that can be built, in an order that makes sense.
pub fn names() -> Vec<&'static str> {
    let mut names = vec![VMM, KERNEL];
    names.extend(Recipe::names());
    names
}

/// Progress of a build: phase, steps done, steps in all where that is known, the latest detail.
pub type BuildReport<'a> = &'a mut dyn FnMut(Phase, u64, Option<u64>, &str);

/// Refuses names that cannot be built, before anything is.
///
/// # Errors
/// [`LibraryError::UnknownRecipe`].
pub fn check_names(asked: &[String]) -> Result<(), Error> {
    match asked.iter().find(|name| !names().contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(LibraryError::UnknownRecipe { name: name.clone(), known: names() }.into()),
    }
}

/// Whether QEMU's VMM root is in the library.
pub fn has_vmm(site: &Site) -> bool {
    vmm_root::find(&site.places().libraries()).is_ok()
}

/// Whether this user builds only as the superuser of a namespace of its own.
pub fn builds_in_namespace() -> bool {
    !host::is_root()
}

/// Executes this program anew, with these arguments, as the superuser of a namespace of this user's, where it finds
/// the same home and its own library alone: what belongs to the host's root has no owner in there.
///
/// # Errors
/// Always, for it does not return otherwise: [`LibraryError::NoNamespace`] with what is missing.
pub fn begin_in_namespace(site: &Site, arguments: &[OsString]) -> Error {
    let places = site.places();
    let environment = [
        ("OUTLAST_HOME", places.home().as_os_str().to_owned()),
        ("OUTLAST_LIBRARY", places.library().path().as_os_str().to_owned()),
    ];
    let program = Path::new("/proc/self/exe").read_link().unwrap_or_else(|_| PathBuf::from("outlast"));
    LibraryError::NoNamespace(image::become_root_of_own_namespace(&program, arguments, &environment)).into()
}

/// Builds an image, the VMM root under the name [`VMM`], or the lean kernel under [`KERNEL`]. Blocks for up to minutes.
///
/// # Errors
/// [`LibraryError`] names what is missing, full, slow or broken; the library is as before.
pub fn build(site: &Site, name: &str, mirror: &Mirror, report: BuildReport<'_>) -> Result<Built, Error> {
    let library = site.places().library();
    let mut pass_on = |progress: Progress<'_>| {
        report(progress.phase, progress.done, progress.total, progress.detail);
    };
    let new = |view| Built { view, already: false };
    let built = match name {
        VMM => new(vmm_view(&vmm_root::build(&library, mirror, &mut pass_on)?)),
        KERNEL => {
            let built = lean::build(&library, mirror, &mut pass_on)?;
            Built { view: kernel_view(&built.kernel), already: built.already }
        }
        _ => {
            let image = image::build(&library, name, mirror, &mut pass_on)?;
            // A damaged kernel is not this image's damage.
            let kernel = lean::find(&site.places().libraries()).ok().flatten();
            new(manifest_view(image.name(), image.manifest(), kernel.as_ref()))
        }
    };
    site.let_others_read();
    Ok(built)
}

/// Every image of the library, the VMM root and the lean kernel, damaged ones as well.
///
/// # Errors
/// The library cannot be read.
pub fn list(site: &Site) -> Result<Vec<ImageView>, Error> {
    let libraries = site.places().libraries();
    let mut views = Vec::new();
    match vmm_root::find(&libraries) {
        Ok(root) => views.push(vmm_view(&root)),
        Err(LibraryError::NoVmmRoot) => {}
        Err(error) => views.push(damaged(VMM, &error)),
    }
    let kernel = lean::find(&libraries);
    match &kernel {
        Ok(found) => views.extend(found.iter().map(kernel_view)),
        Err(error) => views.push(damaged(KERNEL, error)),
    }
    let kernel = kernel.ok().flatten();
    for listed in image::list_all(&libraries)? {
        views.push(match &listed.manifest {
            Ok(manifest) => manifest_view(&listed.name, manifest, kernel.as_ref()),
            Err(error) => damaged(&listed.name, error),
        });
    }
    Ok(views)
}

/// Reads every byte of an image, of the VMM root or of the lean kernel, and compares it with its manifest.
///
/// # Errors
/// [`LibraryError::Damaged`] names the first difference.
pub fn verify(site: &Site, name: &str, report: BuildReport<'_>) -> Result<ImageView, Error> {
    let library = site.places().library();
    image::require_own(library.path())?;
    let mut pass_on = |progress: Progress<'_>| {
        report(progress.phase, progress.done, progress.total, progress.detail);
    };
    if name == VMM {
        let root = vmm_root::find(&site.places().libraries())?;
        vmm_root::verify(&library, &root, &mut pass_on)?;
        return Ok(or_stale(vmm_view(&root), vmm_root::staleness(&root)));
    }
    let libraries = site.places().libraries();
    if name == KERNEL {
        return Ok(kernel_view(&lean::verify(&libraries, &mut pass_on)?));
    }
    let image = image::find(&libraries, name)?;
    image::verify(&library, &image, &mut pass_on)?;
    // A damaged kernel is not this image's damage: it has a line of its own.
    let kernel = lean::find(&libraries).ok().flatten();
    let view = manifest_view(name, image.manifest(), kernel.as_ref());
    Ok(or_stale(view, staleness::of(name, image.manifest())))
}

/// The same, unless it is of an older recipe.
fn or_stale(view: ImageView, stale: Option<String>) -> ImageView {
    match stale {
        Some(why) => ImageView { stale: Some(why), state: "stale".to_owned(), ..view },
        None => view,
    }
}

/// Reads everything that machines boot from beside images, the VMM root and the lean kernel: the kernels that images
/// share, boot files, templates. What is damaged is in the list.
///
/// # Errors
/// The library cannot be listed.
pub fn verify_rest(site: &Site, report: BuildReport<'_>) -> Result<Vec<ImageView>, Error> {
    let library = site.places().library();
    let mut pass_on = |progress: Progress<'_>| {
        report(progress.phase, progress.done, progress.total, progress.detail);
    };
    let mut views = Vec::new();
    for read in image::verify::boot_files(&library, &mut pass_on)? {
        views.push(match &read.result {
            Ok(()) => whole(read.name, read.bytes),
            Err(error) => damaged(&read.name, error),
        });
    }
    for (name, bytes, damage) in crate::template::verify(&library)? {
        views.push(ImageView { damage: damage.clone(), ..whole(name, bytes) });
        if let (Some(view), true) = (views.last_mut(), damage.is_some()) {
            "damaged".clone_into(&mut view.state);
        }
    }
    Ok(views)
}

/// What an error of verifying says of the thing itself: it is damaged.
pub fn as_damaged(name: &str, error: &Error) -> Option<ImageView> {
    match error {
        Error::Library(
            error @ (LibraryError::Damaged { .. }
            | LibraryError::Manifest { .. }
            | LibraryError::VmmTooOld { .. }
            | LibraryError::VmmVersion { .. }
            | LibraryError::Io { .. }),
        ) => Some(damaged(name, error)),
        _ => None,
    }
}

fn whole(name: String, bytes: u64) -> ImageView {
    ImageView { name, state: "ready".to_owned(), bytes, ..ImageView::default() }
}

/// Removes an image, the VMM root or the lean kernel, damaged or not. One that a running VM uses stays.
///
/// # Errors
/// [`LibraryError::InUse`], [`LibraryError::NoImage`]; [`SiteError::NotYours`] for one of another owner's library.
pub fn remove(site: &Site, name: &str) -> Result<(), Error> {
    let library = site.places().library();
    image::require_own(library.path())?;
    let is_own = has(&library, name);
    if let (false, Some(library)) = (is_own, site.places().only_read().into_iter().find(|l| has(l, name))) {
        let (library, name) = (library.path().to_owned(), name.to_owned());
        return Err(SiteError::NotYours { library, name }.into());
    }
    match name {
        KERNEL => lean::remove(&library)?,
        VMM if is_own => vmm_root::remove(&library)?,
        // Runners hold locks on what they use, and workloads that are over use nothing: nobody else has a say.
        _ => image::remove(&library, name, &|_| None)?,
    }
    Ok(())
}

/// Whether the name is taken there, by something whole or not.
fn has(library: &Library, name: &str) -> bool {
    match name {
        KERNEL => lean::is_in(library),
        VMM => vmm_root::is_in(library),
        _ => image::list(library).is_ok_and(|listed| listed.iter().any(|image| image.name == name)),
    }
}

/// An image as it would boot now: with the lean kernel when it takes it.
fn manifest_view(name: &str, manifest: &Manifest, kernel: Option<&LeanKernel>) -> ImageView {
    let kernel = kernel.filter(|_| manifest.takes_lean_kernel());
    let memory = if kernel.is_some() { manifest.memory_lean() } else { manifest.memory() };
    ImageView {
        name: name.to_owned(),
        state: "ready".to_owned(),
        digest: Some(manifest.digest().to_string()),
        runtime: manifest.runtime().map(|runtime| runtime.name.clone()),
        version: Some(kernel.map_or(manifest.kernel_release(), LeanKernel::release).to_owned()),
        min_limit: Some(memory.min_limit.bytes()),
        min_machine: Some(memory.min_machine.bytes()),
        bytes: manifest.parts().iter().map(|part| part.size).sum(),
        created: Some(manifest.record().created),
        damage: None,
        stale: None,
    }
}

/// An image that came with a kernel of its own.
pub(crate) fn own_view(image: &Image) -> ImageView {
    manifest_view(image.name(), image.manifest(), None)
}

fn kernel_view(kernel: &LeanKernel) -> ImageView {
    ImageView {
        name: KERNEL.to_owned(),
        state: "ready".to_owned(),
        digest: Some(kernel.digest().to_string()),
        version: Some(kernel.release().to_owned()),
        bytes: kernel.record().parts.iter().map(|part| part.size).sum(),
        created: Some(kernel.record().created),
        ..ImageView::default()
    }
}

fn vmm_view(root: &VmmRoot) -> ImageView {
    let digest: Digest = root.digest();
    ImageView {
        name: VMM.to_owned(),
        state: "ready".to_owned(),
        digest: Some(digest.to_string()),
        version: Some(format!("QEMU {}", root.version())),
        bytes: root.record().size,
        created: Some(root.record().created),
        ..ImageView::default()
    }
}

fn damaged(name: &str, error: &LibraryError) -> ImageView {
    ImageView {
        name: name.to_owned(),
        state: "damaged".to_owned(),
        damage: Some(chain(error)),
        ..ImageView::default()
    }
}
