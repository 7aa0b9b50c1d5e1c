//! Walking, syncing and replacing of directory trees and small files, in the ways that publishing needs.
//!
//! Symbolic links are never followed. What is walked and why is the caller's business.

use super::error::LibraryError;
use rustix::fs::{Mode, OFlags};
use std::fs::{self, File, Metadata};
use std::io::{ErrorKind, Write};
use std::path::Path;

/// Calls `visit` for everything below `directory`, contents before the directory that holds them, in the order of
/// names, so that what is derived from a walk is the same every time.
pub(crate) fn walk(
    directory: &Path,
    visit: &mut dyn FnMut(&Path, &Metadata) -> Result<(), LibraryError>,
) -> Result<(), LibraryError> {
    let entries = fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut paths: Vec<_> =
        entries.map_err(LibraryError::io("list", directory))?.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let metadata = path.symlink_metadata().map_err(LibraryError::io("stat", &path))?;
        if metadata.is_dir() {
            walk(&path, visit)?;
        }
        visit(&path, &metadata)?;
    }
    Ok(())
}

/// Syncs every file and directory of a tree, and the tree's own directory last.
pub(crate) fn sync_tree(directory: &Path) -> Result<(), LibraryError> {
    walk(directory, &mut |path, metadata| {
        // Links and special files have no content of their own to sync.
        if metadata.is_file() || metadata.is_dir() { sync(path) } else { Ok(()) }
    })?;
    sync(directory)
}

/// Syncs one file or directory.
pub(crate) fn sync(path: &Path) -> Result<(), LibraryError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(LibraryError::io("sync", path))
}

/// Removes a file or a whole tree; nothing to remove is no error.
pub(crate) fn remove(path: &Path) -> Result<(), LibraryError> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(LibraryError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Makes a directory and its parents, private to the owner, unless they are there.
pub(crate) fn make_private_directory(path: &Path) -> Result<(), LibraryError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(path).map_err(LibraryError::io("make", path))
}

/// Opens a file or directory to change what it is, not what a link in its place leads to.
pub(crate) fn open_itself(path: &Path) -> Result<File, LibraryError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    opened.map(File::from).map_err(LibraryError::sys("open", path))
}

/// Gives a file or directory this mode, unless it has it: a mode that is set moves the time of the last change. A link
/// is refused.
pub(crate) fn set_mode(path: &Path, mode: u32) -> Result<(), LibraryError> {
    use std::os::unix::fs::PermissionsExt as _;
    let file = open_itself(path)?;
    let found = file.metadata().map_err(LibraryError::io("stat", path))?.permissions().mode();
    if found & 0o7777 == mode {
        return Ok(());
    }
    let permissions = fs::Permissions::from_mode(mode);
    file.set_permissions(permissions).map_err(LibraryError::io("change the mode of", path))
}

/// Writes a file that must not be there yet. It has exactly this mode: the caller's umask, which [`File::options`]
/// obeys, says nothing about what is published.
pub(crate) fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<(), LibraryError> {
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
    let mut options = File::options();
    let file = options.write(true).create_new(true).mode(mode).open(path);
    let written = file.and_then(|mut file| {
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)
    });
    written.map_err(LibraryError::io("write", path))
}

/// A record of ours as JSON.
pub(crate) fn to_json(record: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(record)
        .expect("our records are plain data: no maps with odd keys, no failing writers")
}

/// Replaces a file in one step: readers see the old or the new content, never a part. `synced` also makes it
/// outlast a power cut; without it a crash may leave either content, or an empty file.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32, synced: bool) -> Result<(), LibraryError> {
    // Two writers must not share a scratch file. Process ids would not tell them apart: writers live in PID
    // namespaces of their own and share a library.
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(LibraryError::sys("name a scratch file beside", path))?;
    let scratch = path.with_extension(format!("new-{:016x}", u64::from_le_bytes(random)));
    write_new(&scratch, content, mode)?;
    if synced {
        sync(&scratch)?;
    }
    fs::rename(&scratch, path).map_err(LibraryError::io("publish", path))?;
    match path.parent() {
        Some(parent) if synced => sync(parent),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_is_in_order_and_does_not_follow_links() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("b/c")).unwrap();
        fs::write(root.path().join("a"), "").unwrap();
        std::os::unix::fs::symlink("/", root.path().join("d")).unwrap();
        let mut seen = Vec::new();
        walk(root.path(), &mut |path, _| {
            seen.push(path.strip_prefix(root.path()).unwrap().to_owned());
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, ["a", "b/c", "b", "d"].map(std::path::PathBuf::from));
        sync_tree(root.path()).unwrap();
    }

    #[test]
    fn removing_a_link_spares_what_it_points_to() {
        let root = tempfile::tempdir().unwrap();
        let (kept, link) = (root.path().join("kept"), root.path().join("link"));
        fs::create_dir(&kept).unwrap();
        std::os::unix::fs::symlink(&kept, &link).unwrap();
        remove(&link).unwrap();
        remove(&link).unwrap();
        assert!(kept.exists() && link.symlink_metadata().is_err());
    }

    #[test]
    fn the_mode_of_what_a_link_points_to_is_not_changed() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().unwrap();
        let (kept, link) = (root.path().join("kept"), root.path().join("link"));
        fs::write(&kept, "").unwrap();
        std::os::unix::fs::symlink(&kept, &link).unwrap();
        set_mode(&kept, 0o640).unwrap();
        assert!(matches!(set_mode(&link, 0o777), Err(LibraryError::Io { .. })));
        assert_eq!(kept.metadata().unwrap().permissions().mode() & 0o7777, 0o640);
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("record.json");
        for content in ["one", "two"] {
            replace(&path, content.as_bytes(), 0o600, true).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "no scratch file is left");
    }
}
