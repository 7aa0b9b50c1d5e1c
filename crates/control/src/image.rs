//! Images and the VMM root, as commands see them. Building and checking is `machine`'s; this says who may.

use crate::error::{Error, chain};
use crate::site::{Site, require_root};
use outlast_machine::image::{self, Digest, Image, LibraryError, Manifest, Progress, Recipe};
use outlast_machine::vmm_root::{self, VmmRoot};
use outlast_wire::view::ImageView;

pub use outlast_machine::image::{Mirror, Phase};

/// The name under which the VMM root is built, verified and listed.
pub const VMM: &str = "vmm";

/// Everything that can be built, in an order that makes sense.
pub fn names() -> Vec<&'static str> {
    let mut names = vec![VMM];
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
    vmm_root::open(&site.places().library()).is_ok()
}

/// Builds an image, or the VMM root under the name [`VMM`]. Blocks for up to minutes.
///
/// # Errors
/// [`LibraryError`] names what is missing, full, slow or broken; the library is as before.
pub fn build(site: &Site, name: &str, mirror: &Mirror, report: BuildReport<'_>) -> Result<ImageView, Error> {
    require_root("building images")?;
    let library = site.places().library();
    let mut pass_on = |progress: Progress<'_>| {
        report(progress.phase, progress.done, progress.total, progress.detail);
    };
    if name == VMM {
        return Ok(vmm_view(&vmm_root::build(&library, mirror, &mut pass_on)?));
    }
    Ok(view(&image::build(&library, name, mirror, &mut pass_on)?))
}

/// Every image of the library and the VMM root, damaged ones as well.
///
/// # Errors
/// The library cannot be read.
pub fn list(site: &Site) -> Result<Vec<ImageView>, Error> {
    let library = site.places().library();
    let mut views = Vec::new();
    match vmm_root::open(&library) {
        Ok(root) => views.push(vmm_view(&root)),
        Err(LibraryError::NoVmmRoot) => {}
        Err(error) => views.push(damaged(VMM, &error)),
    }
    for listed in image::list(&library)? {
        views.push(match &listed.manifest {
            Ok(manifest) => manifest_view(&listed.name, manifest),
            Err(error) => damaged(&listed.name, error),
        });
    }
    Ok(views)
}

/// Reads every byte of an image, or of the VMM root, and compares it with its manifest.
///
/// # Errors
/// [`LibraryError::Damaged`] names the first difference.
pub fn verify(site: &Site, name: &str, report: BuildReport<'_>) -> Result<ImageView, Error> {
    let library = site.places().library();
    let mut pass_on = |progress: Progress<'_>| {
        report(progress.phase, progress.done, progress.total, progress.detail);
    };
    if name == VMM {
        let root = vmm_root::open(&library)?;
        vmm_root::verify(&library, &root, &mut pass_on)?;
        return Ok(vmm_view(&root));
    }
    let image = image::open(&library, name)?;
    image::verify(&library, &image, &mut pass_on)?;
    Ok(view(&image))
}

/// Removes an image. One that a running VM uses stays.
///
/// # Errors
/// [`LibraryError::InUse`], [`LibraryError::NoImage`].
pub fn remove(site: &Site, name: &str) -> Result<(), Error> {
    require_root("removing images")?;
    // Runners hold locks on what they use, and workloads that are over use nothing: nobody else has a say.
    Ok(image::remove(&site.places().library(), name, &|_| None)?)
}

fn view(image: &Image) -> ImageView {
    manifest_view(image.name(), image.manifest())
}

fn manifest_view(name: &str, manifest: &Manifest) -> ImageView {
    let memory = manifest.memory();
    ImageView {
        name: name.to_owned(),
        state: "ready".to_owned(),
        digest: Some(manifest.digest().to_string()),
        runtime: manifest.runtime().map(|runtime| runtime.name.clone()),
        version: Some(manifest.kernel_release().to_owned()),
        min_limit: Some(memory.min_limit.bytes()),
        min_machine: Some(memory.min_machine.bytes()),
        bytes: manifest.parts().iter().map(|part| part.size).sum(),
        created: Some(manifest.record().created),
        damage: None,
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
