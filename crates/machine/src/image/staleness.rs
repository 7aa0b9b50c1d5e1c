//! Whether the recipe of an image has changed since the image was built.
//!
//! The manifest says what the recipe said then; it is compared with what it would say now. What packages a mirror has
//! today is not asked: an image does not grow old by itself.

use super::build;
use super::manifest::Manifest;
use super::recipe::{COMMON_PACKAGES, KERNEL_PACKAGE, Recipe};
use super::source::Mirror;
use outlast_wire::image::ImageManifest;

/// What is different, in words; `None` when nothing is, or the image is not of a recipe.
pub fn of(name: &str, manifest: &Manifest) -> Option<String> {
    let recipe = Recipe::named(name)?;
    let have = manifest.record();
    if have.kernel.package != KERNEL_PACKAGE {
        return None;
    }
    missing_package(recipe, have).or_else(|| other_record(recipe, have))
}

fn missing_package(recipe: &Recipe, have: &ImageManifest) -> Option<String> {
    let wanted = recipe.packages.iter().chain(COMMON_PACKAGES);
    let installed = |name: &str| have.packages.iter().any(|package| package.name == name);
    let missing: Vec<&str> = wanted.copied().filter(|name| !installed(name)).collect();
    (!missing.is_empty()).then(|| format!("its recipe has more packages now: {}", missing.join(", ")))
}

/// Everything that a recipe decides beside packages, as a build would write it down today.
fn other_record(recipe: &Recipe, have: &ImageManifest) -> Option<String> {
    let mut now =
        build::record(recipe, &Mirror::default(), &have.kernel, have.parts.clone(), have.packages.clone());
    if now.distribution.suite != have.distribution.suite {
        return Some(format!(
            "its recipe is of {} now, it was built of {}",
            now.distribution.suite, have.distribution.suite
        ));
    }
    if now.runtime != have.runtime {
        return Some("its recipe runs source code in another way now".to_owned());
    }
    // What a build decides by itself, or what was asked for on the day.
    now.format = have.format;
    now.created = have.created;
    now.digest.clone_from(&have.digest);
    now.distribution.sources.clone_from(&have.distribution.sources);
    (now != *have).then(|| "its recipe has other memory needs now".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::manifest::content_digest;
    use super::*;
    use outlast_wire::image::{KernelVersion, Package, Part};

    fn built(change: impl FnOnce(&mut ImageManifest)) -> Manifest {
        let recipe = Recipe::named("python").unwrap();
        let kernel =
            KernelVersion { release: "6.1".into(), package: KERNEL_PACKAGE.into(), version: "6.1-1".into() };
        let part = |name: &str| Part { name: name.into(), sha256: "ab".repeat(32), size: 1 };
        let parts = ["vmlinux", "modules.cpio", "rootfs.squashfs"].map(part).to_vec();
        let names = recipe.packages.iter().chain(COMMON_PACKAGES);
        let packages = names.map(|name| Package { name: (*name).into(), version: "1".into() }).collect();
        let mut record = build::record(recipe, &Mirror::parse("http://mirror"), &kernel, parts, packages);
        change(&mut record);
        record.digest = content_digest(&record).to_string();
        Manifest::try_from(record).unwrap()
    }

    #[test]
    fn an_image_is_stale_when_its_recipe_says_something_else_now() {
        assert_eq!(of("python", &built(|_| {})), None, "whatever the mirror was");
        let said = |change: fn(&mut ImageManifest)| of("python", &built(change)).unwrap();
        assert!(said(|r| r.packages.retain(|p| p.name != "python3")).contains("python3"));
        assert!(said(|r| r.runtime.as_mut().unwrap().command.push("-u".into())).contains("source code"));
        assert!(said(|r| r.memory.reserve += 1 << 20).contains("memory"));
        assert!(said(|r| r.distribution.suite = "bullseye".into()).contains("bullseye"));
    }

    #[test]
    fn an_image_of_no_recipe_is_never_stale() {
        assert_eq!(of("mine", &built(|_| {})), None);
        assert_eq!(of("python", &built(|r| r.kernel.package = "own".into())), None);
    }
}
