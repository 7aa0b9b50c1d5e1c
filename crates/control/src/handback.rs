//! Copies the files that a program handed back to where its user wants them.
//!
//! The names were chosen by the program. The runner let only plain files and directories through; here nothing is
//! overwritten and no link followed, because the target directory was empty.

use crate::error::Error;
use crate::site::{Site, SiteError};
use crate::workload::as_written;
use outlast_model::WorkloadId;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Copies a workload's files into `target`, made if it is not there, and gives back how many there were; `None`
/// when nothing was handed back, not even an empty tree.
///
/// # Errors
/// A file cannot be read or written; what was copied until then stays.
pub fn hand_back(site: &Site, id: WorkloadId, target: &Path) -> Result<Option<u64>, Error> {
    let incarnation = as_written(site, id)?.incarnation.id;
    let outputs = site.places().evidence(incarnation).outputs();
    if !outputs.is_dir() {
        return Ok(None);
    }
    let made = fs::create_dir_all(target);
    made.map_err(|source| SiteError::MakeDirectory { path: target.to_owned(), source })?;
    Ok(Some(copy_tree(&outputs, target)?))
}

fn copy_tree(from: &Path, to: &Path) -> Result<u64, SiteError> {
    let mut ahead = vec![PathBuf::new()];
    let mut files = 0;
    while let Some(relative) = ahead.pop() {
        let directory = from.join(&relative);
        let failed = |source| SiteError::Read { path: directory.clone(), source };
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let (kind, relative) = (entry.file_type().map_err(failed)?, relative.join(entry.file_name()));
            let target = to.join(&relative);
            if kind.is_dir() {
                let made = fs::create_dir(&target);
                made.map_err(|source| SiteError::MakeDirectory { path: target, source })?;
                ahead.push(relative);
            } else if kind.is_file() {
                let copied = copy_file(&entry.path(), &target);
                copied.map_err(|source| SiteError::Write { path: target, source })?;
                files += 1;
            }
        }
    }
    Ok(files)
}

fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mode = source.metadata()?.permissions().mode() & 0o777;
    let mut target = OpenOptions::new().write(true).create_new(true).mode(mode).open(to)?;
    io::copy(&mut source, &mut target).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_copied_and_nothing_is_overwritten() {
        let top = tempfile::tempdir().unwrap();
        let (from, to) = (top.path().join("from"), top.path().join("to"));
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("a/b/f"), "1").unwrap();
        fs::write(from.join("g"), "2").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", from.join("link")).unwrap();
        assert_eq!(copy_tree(&from, &to).unwrap(), 2);
        assert_eq!(fs::read_to_string(to.join("a/b/f")).unwrap(), "1");
        assert!(to.join("link").symlink_metadata().is_err());
        assert!(matches!(
            copy_tree(&from, &to),
            Err(SiteError::Write { .. } | SiteError::MakeDirectory { .. })
        ));
    }

    #[test]
    fn a_name_that_a_program_chose_does_not_speak_to_the_terminal() {
        let top = tempfile::tempdir().unwrap();
        let (from, to) = (top.path().join("from"), top.path().join("to"));
        let name = "d\u{1b}]0;x\u{7}\nnext: rm";
        fs::create_dir_all(from.join(name)).unwrap();
        fs::create_dir_all(to.join(name)).unwrap();
        let refused = || crate::error::chain(&copy_tree(&from, &to).unwrap_err());
        let of_a_directory = refused();
        fs::remove_dir(from.join(name)).unwrap();
        fs::write(from.join(name), "").unwrap();
        for told in [of_a_directory, refused()] {
            let is_plain = !told.chars().any(char::is_control);
            assert!(is_plain && told.contains(r"\u{1b}]0;x\u{7}\nnext: rm"), "{told}");
        }
    }
}
