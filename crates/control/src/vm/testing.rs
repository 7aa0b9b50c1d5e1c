//! Scenes for tests: a site with a VM that was never started.

use super::spec::{Field, Said, Words, resolve};
use crate::clock;
use crate::site::Site;
use outlast_store::{NewVm, VmRow};
use outlast_wire::paths::Places;

/// A site with a VM named `web`, and a file in the place of its disk.
pub(crate) fn site_of_web() -> (tempfile::TempDir, Site, VmRow) {
    let top = tempfile::tempdir().unwrap();
    let at = |name: &str| top.path().join(name);
    let site = Site::new(Places::new(at("home"), at("run"), at("library")), at("bin"));
    let vm = add(&site, "web");
    (top, site, vm)
}

/// Another VM there.
pub(crate) fn add(site: &Site, name: &str) -> VmRow {
    let words = [name, "base"].map(|text| Said { text: text.to_owned(), origin: String::new() });
    let words: Words = [Field::Name, Field::Image].into_iter().zip(words).collect();
    let resolved = resolve(&[&words]).unwrap();
    let new = NewVm {
        id: clock::new_vm_id().unwrap(),
        name: resolved.name,
        spec: resolved.spec,
        origins: resolved.origins,
        created_unix_ns: clock::unix_ns(),
    };
    site.store().unwrap().create_vm(&new).unwrap();
    let directory = site.places().vm(new.id);
    std::fs::create_dir_all(directory.path()).unwrap();
    std::fs::write(directory.disk(), "x").unwrap();
    site.store().unwrap().vm(new.id).unwrap().unwrap()
}
