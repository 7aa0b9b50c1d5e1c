//! A template's key: a hash of everything that must be equal for a clone to be allowed.

use outlast_machine::digest::sha256_bytes;
use outlast_wire::template::TemplateIngredients;

/// The key of these ingredients: SHA-256 of their JSON, whose fields stand in the order of the type.
pub(super) fn key_of(ingredients: &TemplateIngredients) -> String {
    let json = serde_json::to_vec(ingredients).expect("texts and numbers can always be written as JSON");
    sha256_bytes(&json)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn ingredients() -> TemplateIngredients {
        TemplateIngredients {
            generation: 1,
            image: "python".to_owned(),
            image_digest: "aa".repeat(32),
            initramfs_digest: "bb".repeat(32),
            command_line: "console=ttyS0".to_owned(),
            backend: "qemu".to_owned(),
            vmm_digest: "cc".repeat(32),
            topology: "q35 1".to_owned(),
            accelerator: "tcg".to_owned(),
            cpu_model: "max".to_owned(),
            host_cpu: "emulated".to_owned(),
            vcpus: 1,
            memory: 256 << 20,
            warm_up: vec!["python3".to_owned(), "-c".to_owned(), "pass".to_owned()],
            lean_kernel: None,
        }
    }

    /// A changed key orphans every template that people have. If this fails, raise the generation on purpose.
    #[test]
    fn the_key_is_stable() {
        assert_eq!(key_of(&ingredients()), GOLDEN);
    }

    const GOLDEN: &str = "b5b94c639498eea7b8a05b6b7f236518e4537e0c869f51956db9e83c66cd97bd";

    #[test]
    fn every_ingredient_counts() {
        let changes: [fn(&mut TemplateIngredients); 15] = [
            |i| i.generation += 1,
            |i| i.image.push('x'),
            |i| i.image_digest.push('x'),
            |i| i.initramfs_digest.push('x'),
            |i| i.command_line.push('x'),
            |i| i.backend.push('x'),
            |i| i.vmm_digest.push('x'),
            |i| i.topology.push('x'),
            |i| i.accelerator.push('x'),
            |i| i.cpu_model.push('x'),
            |i| i.host_cpu.push('x'),
            |i| i.vcpus += 1,
            |i| i.memory += 1,
            |i| i.warm_up.push("x".to_owned()),
            |i| i.lean_kernel = Some("dd".repeat(32)),
        ];
        let mut keys = vec![key_of(&ingredients())];
        for change in changes {
            let mut other = ingredients();
            change(&mut other);
            let key = key_of(&other);
            assert!(!keys.contains(&key));
            keys.push(key);
        }
    }
}
