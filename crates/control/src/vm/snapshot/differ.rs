//! What differs between the machine that was saved and the one that would be started. Pure.

use outlast_wire::template::TemplateIngredients;

/// A clause for each thing that differs and that a saved machine depends on; none when it fits. What only warms a
/// template, or names an image, is not such a thing.
pub(super) fn differences(saved: &TemplateIngredients, now: &TemplateIngredients) -> Vec<String> {
    let clauses = [
        (saved.backend != now.backend, "its backend is another one"),
        (saved.vmm_digest != now.vmm_digest, "its VMM is another one"),
        (saved.accelerator != now.accelerator, "its accelerator is another one"),
        (saved.cpu_model != now.cpu_model, "its CPU model is another one"),
        (saved.host_cpu != now.host_cpu, "the host's processor is another one"),
        (saved.generation != now.generation || saved.topology != now.topology, "its devices are other ones"),
        (saved.vcpus != now.vcpus, "it has another number of vCPUs"),
        (saved.memory != now.memory, "it has another amount of memory"),
        (saved.image_digest != now.image_digest, "its image is another one"),
        (saved.lean_kernel != now.lean_kernel, "its kernel is another one"),
        (saved.initramfs_digest != now.initramfs_digest, "its agent is another build"),
        (saved.command_line != now.command_line, "its kernel's command line is another one"),
    ];
    clauses.into_iter().filter(|(differs, _)| *differs).map(|(_, clause)| clause.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ingredients() -> TemplateIngredients {
        TemplateIngredients {
            generation: 1,
            image: "base".to_owned(),
            image_digest: "aa".to_owned(),
            initramfs_digest: "bb".to_owned(),
            command_line: "quiet".to_owned(),
            backend: "qemu".to_owned(),
            vmm_digest: "cc".to_owned(),
            topology: "q35".to_owned(),
            accelerator: "tcg".to_owned(),
            cpu_model: "max".to_owned(),
            host_cpu: "emulated".to_owned(),
            vcpus: 1,
            memory: 1 << 27,
            warm_up: Vec::new(),
            lean_kernel: None,
        }
    }

    #[test]
    fn every_thing_that_a_machine_depends_on_is_named() {
        type Change = fn(&mut TemplateIngredients);
        let changes: [(Change, &str); 13] = [
            (|i| i.backend.push('x'), "backend"),
            (|i| i.vmm_digest.push('x'), "VMM"),
            (|i| i.accelerator.push('x'), "accelerator"),
            (|i| i.cpu_model.push('x'), "CPU model"),
            (|i| i.host_cpu.push('x'), "processor"),
            (|i| i.generation += 1, "devices"),
            (|i| i.topology.push('x'), "devices"),
            (|i| i.vcpus += 1, "vCPUs"),
            (|i| i.memory += 1, "memory"),
            (|i| i.image_digest.push('x'), "image"),
            (|i| i.lean_kernel = Some("dd".to_owned()), "kernel"),
            (|i| i.initramfs_digest.push('x'), "agent"),
            (|i| i.command_line.push('x'), "command line"),
        ];
        for (change, word) in changes {
            let mut other = ingredients();
            change(&mut other);
            let told = differences(&ingredients(), &other);
            assert!(told.len() == 1 && told[0].contains(word), "{word}: {told:?}");
        }
    }

    #[test]
    fn what_is_the_same_fits() {
        let renamed =
            TemplateIngredients { image: "other".to_owned(), warm_up: vec!["x".to_owned()], ..ingredients() };
        assert!(differences(&ingredients(), &renamed).is_empty());
    }
}
