//! Who could have changed a file: asked before anything of another owner's library is used.
//!
//! A digest tells that an image is what its manifest says; it does not tell who wrote the manifest. So everything on
//! the way to it, from `/` down, must belong to the superuser or to ourselves, and nobody else may write there.
//! Directories in which everybody may write, but remove only what is his own (/tmp), are ways like others.
//!
//! Not responsible for what the files hold: see [`super::library`] and [`crate::vmm_root`].

use super::error::LibraryError;
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

/// Checks one file, link or directory.
///
/// # Errors
/// [`LibraryError::Untrusted`].
pub(crate) fn check_file(path: &Path) -> Result<(), LibraryError> {
    let stat = lstat(path).map_err(LibraryError::sys("stat", path))?;
    match doubt(&stat, rustix::process::geteuid().as_raw()) {
        None => Ok(()),
        Some(why) => Err(LibraryError::Untrusted { path: path.to_owned(), why }),
    }
}

fn doubt(stat: &Stat, ours: u32) -> Option<String> {
    let (kind, mode) = (FileType::from_raw_mode(stat.st_mode), Mode::from_raw_mode(stat.st_mode));
    if stat.st_uid != 0 && stat.st_uid != ours {
        return Some(format!("it belongs to uid {}", stat.st_uid));
    }
    // The mode of a link says nothing; who may replace it is told by its directory.
    let everybodys = kind == FileType::Directory && mode.contains(Mode::SVTX);
    if kind != FileType::Symlink && !everybodys && mode.intersects(Mode::WGRP | Mode::WOTH) {
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
        assert_eq!(doubt(&stat, 1000), None);
        stat.st_uid = 1000;
        assert_eq!(doubt(&stat, 1000), None);
        assert_eq!(doubt(&stat, 1001).as_deref(), Some("it belongs to uid 1000"));
    }
}
