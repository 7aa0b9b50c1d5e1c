//! Manifests on disk: of images, of the VMM root, of templates, of kernels. A record that is accepted survives being
//! written and read, and nothing in it can lead out of its directory.
//!
//! A fuzzer does not find a SHA-256, so an image's manifest is also tried with the digest that its content has.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outlast_machine::image::manifest::{Manifest, MemoryNeeds, content_digest};
use outlast_machine::vmm_root::parse_manifest;
use outlast_model::{Memory, limit::MEMORY_STEP};
use outlast_wire::image::{ImageManifest, KernelManifest, LeanKernelManifest};
use outlast_wire::template::TemplateManifest;
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

fuzz_target!(|json: &[u8]| {
    if let Ok(manifest) = Manifest::parse(json) {
        check_image(&manifest);
    }
    if let Ok(mut record) = serde_json::from_slice::<ImageManifest>(json) {
        record.digest = content_digest(&record).to_string();
        if let Ok(manifest) = Manifest::try_from(record.clone()) {
            check_image(&manifest);
            // It is the content that is hashed: any change of it must be noticed.
            record.memory.reserve ^= 1;
            assert!(Manifest::try_from(record).is_err(), "a forged manifest was believed");
        }
    }
    if let Ok((manifest, digest, binary)) = parse_manifest(json) {
        let again = serde_json::to_vec(&manifest).expect("a record can be written");
        assert_eq!(parse_manifest(&again).ok(), Some((manifest, digest, binary)));
    }
    if let Ok(manifest) = TemplateManifest::parse(json) {
        let again = serde_json::to_vec(&manifest).expect("a record can be written");
        assert_eq!(TemplateManifest::parse(&again).ok(), Some(manifest));
    }
    survives::<KernelManifest>(json);
    survives::<LeanKernelManifest>(json);
});

/// A record that nobody checks any further.
fn survives<T: Serialize + DeserializeOwned + PartialEq + Debug>(json: &[u8]) {
    if let Ok(record) = serde_json::from_slice::<T>(json) {
        let again = serde_json::to_vec(&record).expect("a record can be written");
        assert_eq!(serde_json::from_slice::<T>(&again).ok(), Some(record));
    }
}

fn check_image(manifest: &Manifest) {
    let again = serde_json::to_vec(manifest.record()).expect("a record can be written");
    assert_eq!(Manifest::parse(&again).ok().as_ref(), Some(manifest));
    let plain = |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0']);
    assert!(plain(manifest.name()) && manifest.name().len() <= 64);
    if let Some(runtime) = manifest.runtime() {
        assert!(plain(&runtime.name) && plain(&runtime.file_name) && !runtime.command.is_empty());
        for argument in runtime.command.iter().chain(&runtime.warm_up) {
            assert!(!argument.contains('\0'), "no program can be given it");
        }
    }
    for needs in [manifest.memory(), manifest.memory_lean()] {
        check_memory(&needs);
    }
}

fn check_memory(needs: &MemoryNeeds) {
    let mut last = 0;
    for mib in [1, 64, 65, 1024, 4096, 1 << 20, 1 << 30] {
        let limit = Memory::from_mib(mib).expect("more than zero");
        let machine = needs.machine_for(limit);
        assert!(machine >= needs.min_machine && machine.bytes() >= limit.plus(needs.reserve).bytes());
        assert_eq!(machine.bytes() % MEMORY_STEP.bytes(), 0);
        assert!(machine.bytes() >= last, "more limit is never less machine");
        last = machine.bytes();
    }
}
