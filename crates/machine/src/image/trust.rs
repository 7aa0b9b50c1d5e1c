//! Who could have changed a file: asked before anything of another owner's library is used, and of one's own library
//! before anything is made in it.
//!
//! A digest tells that an image is what its manifest says; it does not tell who wrote the manifest. So everything on
//! the way to it, from `/` down, must belong to the superuser or to ourselves, and nobody else may write there.
//! Directories in which everybody may write, but remove only what is his own (/tmp), are ways like others.
//!
//! Not responsible for what the files hold: see [`super::library`] and [`crate::vmm_root`].

use super::error::LibraryError;
use crate::host;
use rustix::fs::{FileType, Mode, Stat, lstat};
use std::path::Path;

/// Checks a directory and everything above it, on the way that was given and on the way it really lies.
///
/// # Errors
/// [`LibraryError::Untrusted`] names the first place that others can change.
pub(crate) fn check(directory: &Path) -> Result<(), LibraryError> {
    let real = directory.canonicalize().map_err(LibraryError::io("follow", directory))?;
    directory.ancestors().chain(real.ancestors()).try_for_each(check_file)
}

/// Refuses to write in a library that belongs to somebody else, or in which others may write; to the superuser also one
/// on whose way another user could put something else in its place. Makes nothing; there need not be one yet.
///
/// # Errors
/// [`LibraryError::Untrusted`] names the place.
pub fn require_own(library: &Path) -> Result<(), LibraryError> {
    let ours = rustix::process::geteuid().as_raw();
    let untrusted = |path: &Path, why| LibraryError::Untrusted { path: path.to_owned(), why };
    if let Ok(found) = rustix::fs::stat(library) {
        let foreign = (found.st_uid != ours).then(|| format!("it belongs to uid {}", found.st_uid));
        if let Some(why) = foreign.or_else(|| doubt(&found, ours, Mode::WGRP | Mode::WOTH)) {
            return Err(untrusted(library, why));
        }
    }
    if host::acts_for_ordinary_user() {
        return Ok(());
    }
    let there = library.ancestors().find(|path| lstat(*path).is_ok()).unwrap_or(Path::new("/"));
    let real = there.canonicalize().map_err(LibraryError::io("follow", there))?;
    there.ancestors().chain(real.ancestors()).try_for_each(|path| {
        let stat = lstat(path).map_err(LibraryError::sys("stat", path))?;
        doubt(&stat, ours, Mode::WOTH).map_or(Ok(()), |why| Err(untrusted(path, why)))
    })
}

/// Checks one file, link or directory.
///
/// # Errors
/// [`LibraryError::Untrusted`].
pub(crate) fn check_file(path: &Path) -> Result<(), LibraryError> {
    let stat = lstat(path).map_err(LibraryError::sys("stat", path))?;
    match doubt(&stat, rustix::process::geteuid().as_raw(), Mode::WGRP | Mode::WOTH) {
        None => Ok(()),
        Some(why) => Err(LibraryError::Untrusted { path: path.to_owned(), why }),
    }
}

fn doubt(stat: &Stat, ours: u32, others: Mode) -> Option<String> {
    let (kind, mode) = (FileType::from_raw_mode(stat.st_mode), Mode::from_raw_mode(stat.st_mode));
    if stat.st_uid != 0 && stat.st_uid != ours {
        return Some(format!("it belongs to uid {}", stat.st_uid));
    }
    // The mode of a link says nothing; who may replace it is told by its directory.
    let everybodys = kind == FileType::Directory && mode.contains(Mode::SVTX);
    if kind != FileType::Symlink && !everybodys && mode.intersects(others) {
        return Some(format!("others may write there (mode {:o})", mode.as_raw_mode() & 0o7777));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_others_may_write_is_not_trusted_and_neither_is_what_lies_below() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("library/images");
        fs::create_dir_all(&path).unwrap();
        let set = |mode| fs::set_permissions(top.path().join("library"), fs::Permissions::from_mode(mode));
        set(0o755).unwrap();
        check(&path).unwrap();
        for mode in [0o775, 0o757, 0o777] {
            set(mode).unwrap();
            let error = check(&path).unwrap_err();
            assert!(
                matches!(&error, LibraryError::Untrusted { path, .. } if path.ends_with("library")),
                "{error}"
            );
        }
        set(0o1777).unwrap();
        check(&path).unwrap();
    }

    #[test]
    fn both_ends_of_a_link_are_looked_at() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        fs::create_dir_all(at("open/real")).unwrap();
        std::os::unix::fs::symlink(at("open/real"), at("link")).unwrap();
        check(&at("link")).unwrap();
        fs::set_permissions(at("open"), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(check(&at("link")), Err(LibraryError::Untrusted { .. })));
    }

    #[test]
    fn what_belongs_to_a_third_person_is_not_trusted() {
        let mut stat = lstat("/").unwrap();
        assert_eq!(doubt(&stat, 1000, Mode::WOTH), None);
        stat.st_uid = 1000;
        assert_eq!(doubt(&stat, 1000, Mode::WOTH), None);
        assert_eq!(doubt(&stat, 1001, Mode::WOTH).as_deref(), Some("it belongs to uid 1000"));
    }

    #[test]
    fn nobody_writes_in_another_users_library_or_where_one_could_be_exchanged() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        require_own(&at("none/yet")).unwrap();
        fs::create_dir_all(at("library")).unwrap();
        require_own(&at("library")).unwrap();
        fs::set_permissions(at("library"), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(require_own(&at("library")), Err(LibraryError::Untrusted { .. })));
        if host::acts_for_ordinary_user() {
            return;
        }
        fs::set_permissions(at("library"), fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(at("library"), at("link")).unwrap();
        std::os::unix::fs::lchown(at("link"), Some(65531), None).unwrap();
        std::os::unix::fs::chown(at("library"), Some(65531), None).unwrap();
        for name in ["library", "link", "library/below", "link/below"] {
            let error = require_own(&at(name)).unwrap_err();
            assert!(error.to_string().contains("uid 65531"), "{name}: {error}");
        }
    }
}
