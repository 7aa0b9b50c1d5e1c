//! Memory that outlives the process which made it: files on shared-memory mounts, System V segments.

use super::{Inventory, Item, Kind};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const SYSTEM_V: &str = "/proc/sysvipc/shm";

/// Lists the files of these directories, and the segments of our IPC namespace.
pub(super) fn list(directories: &[PathBuf], inventory: &mut Inventory) {
    for directory in directories {
        if let Err(error) = files(directory, inventory) {
            inventory.failed(Kind::MemoryFile, &directory.display().to_string(), &error);
        }
    }
    match fs::read_to_string(SYSTEM_V) {
        Ok(text) => inventory.items.extend(segments(&text)),
        Err(error) => inventory.skip(Kind::MemoryFile, format!("{SYSTEM_V}: {error}")),
    }
}

fn files(directory: &Path, inventory: &mut Inventory) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.is_dir() {
            files(&path, inventory)?;
        }
        inventory.found(Item::MemoryFile { name: path.display().to_string(), bytes: metadata.len() });
    }
    Ok(())
}

/// The segments in /proc/sysvipc/shm, by key and id (proc_sysvipc(5)).
fn segments(text: &str) -> Vec<Item> {
    let segment = |line: &str| {
        let mut fields = line.split_whitespace();
        let (key, id) = (fields.next()?, fields.next()?);
        let bytes = fields.nth(1)?.parse().ok()?;
        Some(Item::MemoryFile { name: format!("system v segment {id} with key {key}"), bytes })
    };
    text.lines().skip(1).filter_map(segment).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_named_by_key_and_id() {
        let text = "       key      shmid perms                  size  cpid\n         7          3   600                  4096  12\n";
        let name = "system v segment 3 with key 7".to_owned();
        assert_eq!(segments(text), [Item::MemoryFile { name, bytes: 4096 }]);
    }
}
