//! Files and directories below one directory.

use super::scope::Tree;
use super::{Inventory, Item, Kind};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

/// Lists everything in the tree that is not excepted. A tree that does not exist is empty. Links are not
/// followed, and an excepted directory is still walked: what is in it has names of its own.
pub(super) fn list(tree: &Tree, inventory: &mut Inventory) {
    walk(tree, tree.root(), inventory);
}

fn walk(tree: &Tree, directory: &Path, inventory: &mut Inventory) {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return inventory.failed(Kind::Directory, &directory.display().to_string(), &error),
    };
    for entry in entries {
        let looked = entry.and_then(|entry| Ok((entry.path(), fs::symlink_metadata(entry.path())?)));
        match looked {
            Ok((path, metadata)) => note(tree, &path, &metadata, inventory),
            Err(error) => inventory.failed(Kind::File, &directory.display().to_string(), &error),
        }
    }
}

fn note(tree: &Tree, path: &Path, metadata: &Metadata, inventory: &mut Inventory) {
    let listed = path.strip_prefix(tree.root()).is_ok_and(|relative| tree.lists(relative));
    if listed {
        match item(path, metadata) {
            Ok(item) => inventory.found(item),
            Err(error) => inventory.doubt(Kind::Special, format!("{}: {error}", path.display())),
        }
    }
    if metadata.is_dir() {
        walk(tree, path, inventory);
    }
}

fn item(path: &Path, metadata: &Metadata) -> io::Result<Item> {
    let kind = metadata.file_type();
    let path = path.to_owned();
    let special = |path, what| Ok(Item::Special { path, what });
    if kind.is_dir() {
        Ok(Item::Directory { path })
    } else if kind.is_file() {
        Ok(Item::File { path, bytes: metadata.len() })
    } else if kind.is_socket() {
        special(path, "socket")
    } else if kind.is_symlink() {
        special(path, "symlink")
    } else if kind.is_fifo() {
        special(path, "pipe")
    } else if kind.is_block_device() || kind.is_char_device() {
        special(path, "device")
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "a file of no known type"))
    }
}
