//! Loop devices over files of ours. They belong to the whole host, so others are none of our business.

use super::scope::Tree;
use super::{Inventory, Item, Kind};
use std::fs;
use std::path::Path;

const BLOCK_DEVICES: &str = "/sys/block";

/// Lists the loop devices whose backing file lies in one of the trees.
pub(super) fn list(trees: &[Tree], inventory: &mut Inventory) {
    let entries = match fs::read_dir(BLOCK_DEVICES) {
        Ok(entries) => entries,
        Err(error) => return inventory.skip(Kind::LoopDevice, format!("{BLOCK_DEVICES}: {error}")),
    };
    for entry in entries {
        let device = match entry {
            Ok(entry) => entry.file_name().to_string_lossy().into_owned(),
            Err(error) => return inventory.doubt(Kind::LoopDevice, format!("{BLOCK_DEVICES}: {error}")),
        };
        // Only a device that is in use has this file.
        let backing = Path::new(BLOCK_DEVICES).join(&device).join("loop/backing_file");
        match fs::read_to_string(backing) {
            Ok(backing) => {
                let backing = backing.trim_end_matches('\n').to_owned();
                if trees.iter().any(|tree| Path::new(&backing).starts_with(tree.root())) {
                    inventory.found(Item::LoopDevice { device, backing });
                }
            }
            Err(error) => inventory.failed(Kind::LoopDevice, &device, &error),
        }
    }
}
