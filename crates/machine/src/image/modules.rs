//! Which kernel modules a guest needs, and in which order they load.
//!
//! The order follows from each module's own `depends=` (what depmod reads too, so that no depmod is needed on
//! the host), with `WANTED` deciding where dependencies do not. The result is one archive with
//! `modules/000-NAME.ko` ... and `modules/order`, one file name a line, so that the agent loads file after file
//! and knows nothing of dependencies.
//!
//! Not here: finding the kernel package (`kernel`), loading (the agent).

use super::elf::{Elf, ElfError};
use super::newc::Archive;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Modules cannot be gathered.
#[derive(Debug, Error)]
pub enum ModuleError {
    /// The kernel has no such module, neither as a file nor built in.
    #[error("there is no module '{name}'")]
    Absent {
        /// The module.
        name: String,
    },
    /// The kernel's modules are compressed, which the agent could not load by itself.
    #[error("module {} is compressed", .path.display())]
    Compressed {
        /// The file.
        path: PathBuf,
    },
    /// A module is not an ELF file.
    #[error("module '{name}' cannot be read")]
    Elf {
        /// The module.
        name: String,
        /// Why.
        source: ElfError,
    },
    /// Modules that wait for each other.
    #[error("module '{name}' depends on itself")]
    Cycle {
        /// One of them.
        name: String,
    },
    /// A file operation failed.
    #[error("cannot read {}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What a guest uses, in loading order where dependencies do not say. Names as the kernel says them, with
/// underscores. ext4 is built into Debian's cloud kernel.
pub(crate) const WANTED: &[&str] = &[
    // The bus of every device below.
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    // The root file system, and the link to the host.
    "virtio_blk",
    "virtio_console",
    "squashfs",
    "overlay",
    // Tells the host of a panic.
    "pvpanic",
    "pvpanic_pci",
    // Randomness and network.
    "virtio_rng",
    "virtio_net",
    // The link to the host on VMMs other than QEMU.
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vmw_vsock_virtio_transport",
];

/// A kernel's modules as files.
#[derive(Debug)]
pub(crate) struct ModuleTree {
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
}

impl ModuleTree {
    /// Reads `lib/modules/RELEASE` of an unpacked kernel package.
    pub(crate) fn open(directory: &Path) -> Result<Self, ModuleError> {
        let mut files = BTreeMap::new();
        collect(&directory.join("kernel"), &mut files)?;
        let list = directory.join("modules.builtin");
        let text = std::fs::read_to_string(&list).map_err(|source| ModuleError::Io { path: list, source })?;
        let built_in = text.lines().filter_map(|line| module_name(Path::new(line))).collect();
        Ok(Self { files, built_in })
    }

    /// The wanted modules and what they depend on, as (name, content) in loading order.
    pub(crate) fn gather(&self, wanted: &[&str]) -> Result<Vec<(String, Vec<u8>)>, ModuleError> {
        let mut contents = BTreeMap::new();
        let order = loading_order(wanted, |name| {
            if self.built_in.contains(name) {
                return Ok(None);
            }
            let content = self.read(name)?;
            let depends = depends(name, &content)?;
            contents.insert(name.to_owned(), content);
            Ok(Some(depends))
        })?;
        Ok(order.into_iter().filter_map(|name| contents.remove_entry(&name)).collect())
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, ModuleError> {
        let path = self.files.get(name).ok_or_else(|| ModuleError::Absent { name: name.to_owned() })?;
        if path.extension().is_none_or(|extension| extension != "ko") {
            return Err(ModuleError::Compressed { path: path.clone() });
        }
        std::fs::read(path).map_err(|source| ModuleError::Io { path: path.clone(), source })
    }
}

/// The archive of modules that are in loading order.
pub(crate) fn archive(modules: &[(String, Vec<u8>)]) -> io::Result<Vec<u8>> {
    let file_name = |index: usize, name: &str| format!("{index:03}-{name}.ko");
    let mut order = String::new();
    let mut archive = Archive::new(Vec::new()).directory("modules")?;
    for (index, (name, content)) in modules.iter().enumerate() {
        let file = file_name(index, name);
        archive = archive.file(&format!("modules/{file}"), 0o644, content)?;
        order.push_str(&file);
        order.push('\n');
    }
    archive.file("modules/order", 0o644, order.as_bytes())?.finish()
}

/// What a module says it depends on.
fn depends(name: &str, content: &[u8]) -> Result<Vec<String>, ModuleError> {
    let elf = Elf::parse(content).map_err(|source| ModuleError::Elf { name: name.to_owned(), source })?;
    let names = elf.modinfo("depends").into_iter().flat_map(|list| list.split(','));
    Ok(names.filter(|name| !name.is_empty()).map(normal).collect())
}

/// Depth first, so that a module follows everything it depends on. `depends` answers `None` for what is built in.
fn loading_order(
    wanted: &[&str],
    mut depends: impl FnMut(&str) -> Result<Option<Vec<String>>, ModuleError>,
) -> Result<Vec<String>, ModuleError> {
    enum Visit {
        Enter(String),
        Leave(String),
    }
    let (mut order, mut entered, mut done) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    let mut stack: Vec<_> = wanted.iter().rev().map(|name| Visit::Enter(normal(name))).collect();
    while let Some(visit) = stack.pop() {
        match visit {
            Visit::Leave(name) => {
                done.insert(name.clone());
                order.push(name);
            }
            Visit::Enter(name) if done.contains(&name) => {}
            // Entered and not left means that it stands below itself.
            Visit::Enter(name) if entered.contains(&name) => return Err(ModuleError::Cycle { name }),
            Visit::Enter(name) => match depends(&name)? {
                None => _ = done.insert(name),
                Some(needs) => {
                    entered.insert(name.clone());
                    stack.push(Visit::Leave(name));
                    stack.extend(needs.into_iter().rev().map(Visit::Enter));
                }
            },
        }
    }
    Ok(order)
}

fn collect(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<(), ModuleError> {
    let error = |source| ModuleError::Io { path: directory.to_owned(), source };
    for entry in std::fs::read_dir(directory).map_err(error)? {
        let entry = entry.map_err(error)?;
        let path = entry.path();
        if entry.file_type().map_err(error)?.is_dir() {
            collect(&path, files)?;
        } else if let Some(name) = module_name(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// `virtio-rng.ko`, `virtio-rng.ko.xz` → `virtio_rng`.
fn module_name(path: &Path) -> Option<String> {
    let (stem, rest) = path.file_name()?.to_str()?.split_once(".ko")?;
    (rest.is_empty() || rest.starts_with('.')).then(|| normal(stem))
}

fn normal(name: &str) -> String {
    name.trim().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::super::elf::tests::elf_with;
    use super::*;
    use proptest::prelude::*;

    fn order_of(wanted: &[&str], graph: &[(&str, &[&str])]) -> Result<Vec<String>, ModuleError> {
        loading_order(wanted, |name| {
            let found = graph.iter().find(|(module, _)| *module == name);
            let (_, needs) = found.ok_or_else(|| ModuleError::Absent { name: name.to_owned() })?;
            Ok(Some(needs.iter().map(|need| (*need).to_owned()).collect()))
        })
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let graph: &[(&str, &[&str])] =
            &[("net", &["ring", "failover"]), ("ring", &[]), ("failover", &["core"]), ("core", &[])];
        assert_eq!(order_of(&["net", "ring"], graph).unwrap(), ["ring", "core", "failover", "net"]);
    }

    #[test]
    fn a_cycle_and_an_absent_module_are_errors() {
        let cycle = order_of(&["a"], &[("a", &["b"]), ("b", &["a"])]);
        assert!(matches!(cycle, Err(ModuleError::Cycle { .. })));
        assert!(matches!(order_of(&["x"], &[]), Err(ModuleError::Absent { .. })));
    }

    #[test]
    fn a_tree_of_files_becomes_an_archive_in_loading_order() {
        let tree = tempfile::tempdir().unwrap();
        let kernel = tree.path().join("kernel/drivers");
        std::fs::create_dir_all(&kernel).unwrap();
        let module =
            |depends: &str| elf_with(&[(".modinfo", format!("depends={depends}\0").as_bytes())], &[]);
        std::fs::write(kernel.join("virtio-rng.ko"), module("virtio_ring,fs")).unwrap();
        std::fs::write(kernel.join("virtio_ring.ko"), module("")).unwrap();
        std::fs::write(kernel.join("packed.ko.xz"), b"").unwrap();
        std::fs::write(tree.path().join("modules.builtin"), "kernel/fs/fs.ko\n").unwrap();
        let modules = ModuleTree::open(tree.path()).unwrap();
        let gathered = modules.gather(&["virtio_rng"]).unwrap();
        let names: Vec<_> = gathered.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["virtio_ring", "virtio_rng"]);
        let bytes = archive(&gathered).unwrap();
        let order = b"000-virtio_ring.ko\n001-virtio_rng.ko\n";
        assert!(bytes.windows(order.len()).any(|window| window == order));
        assert!(matches!(modules.gather(&["packed"]), Err(ModuleError::Compressed { .. })));
    }

    proptest! {
        /// The shadow model: in any acyclic graph (edges to smaller numbers only), everything stands after its needs.
        #[test]
        fn order_respects_every_edge(edges in proptest::collection::vec((0usize..12, 0usize..12), 0..60)) {
            let needs = |name: &str| -> Vec<String> {
                let me: usize = name.parse().unwrap();
                edges.iter().filter(|(a, b)| *a == me && b < a).map(|(_, b)| b.to_string()).collect()
            };
            let all: Vec<String> = (0..12).rev().map(|n| n.to_string()).collect();
            let wanted: Vec<&str> = all.iter().map(String::as_str).collect();
            let order = loading_order(&wanted, |name| Ok(Some(needs(name)))).unwrap();
            prop_assert_eq!(order.len(), 12);
            for (place, name) in order.iter().enumerate() {
                for need in needs(name) {
                    prop_assert!(order.iter().position(|other| *other == need).unwrap() < place);
                }
            }
        }
    }
}
