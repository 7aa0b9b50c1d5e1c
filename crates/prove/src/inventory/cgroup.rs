//! Cgroup directories in every hierarchy that is mounted, version 1 and version 2.

use super::mount::Mount;
use super::scope::CgroupScope;
use super::{Inventory, Item, Kind};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Lists the cgroups in scope. Every hierarchy is walked once, however often it is mounted.
pub(super) fn list(scope: Option<&CgroupScope>, mounts: &[Mount], inventory: &mut Inventory) {
    let Some(scope) = scope else { return };
    let own = match super::process::namespace_of(std::process::id(), "mnt") {
        Ok(own) => own,
        Err(error) => return inventory.doubt(Kind::Cgroup, format!("our own mount namespace: {error}")),
    };
    let mut hierarchies: BTreeMap<(&str, &str), PathBuf> = BTreeMap::new();
    for mount in mounts.iter().filter(|mount| mount.namespace == own) {
        if matches!(mount.line.fstype.as_str(), "cgroup" | "cgroup2") {
            hierarchies.insert((&mount.line.device, &mount.line.root), PathBuf::from(&mount.line.point));
        }
    }
    if hierarchies.is_empty() {
        inventory.skip(Kind::Cgroup, "no cgroup hierarchy is mounted".into());
    }
    for hierarchy in hierarchies.values() {
        let mut walk = Walk { hierarchy, scope, inventory };
        walk.below(&scope.below);
    }
}

struct Walk<'a> {
    hierarchy: &'a Path,
    scope: &'a CgroupScope,
    inventory: &'a mut Inventory,
}

impl Walk<'_> {
    fn below(&mut self, path: &Path) {
        let entries = match children(&self.hierarchy.join(path)) {
            Ok(entries) => entries,
            Err(error) => {
                self.inventory.failed(Kind::Cgroup, &path.display().to_string(), &error);
                return;
            }
        };
        for name in entries {
            let path = path.join(name);
            if !self.scope.except.iter().any(|pattern| pattern.matches(&path)) {
                let hierarchy = self.hierarchy.to_owned();
                self.inventory.found(Item::Cgroup { hierarchy, path: path.clone() });
            }
            self.below(&path);
        }
    }
}

fn children(directory: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.file_name());
        }
    }
    Ok(found)
}
