//! Reading every byte of what lies in a library beside images, templates and the VMM root: kernels and boot files.
//!
//! Both say what they should hash to in a record beside them. A damaged one harms nobody who looks, as every boot
//! does, and is made again when it is needed; this is for people, who want to know.

use super::digest::Digest;
use super::error::LibraryError;
use super::leftover::is_own;
use super::manifest::ManifestError;
use super::progress::{Phase, Progress, Report};
use super::stamp;
use outlast_wire::image::{BootRecord, KernelManifest};
use outlast_wire::paths::Library;
use serde::de::DeserializeOwned;
use std::fs;
use std::path::{Path, PathBuf};

/// One thing that was read.
#[derive(Debug)]
pub struct Read {
    /// What it is called: `kernel NAME` or `initramfs NAME`.
    pub name: String,
    /// Bytes that were read.
    pub bytes: u64,
    /// Whether they were what they should be.
    pub result: Result<(), LibraryError>,
}

/// Reads every kernel and every initramfs of the library.
///
/// # Errors
/// The library cannot be listed; what is damaged stands in the list.
pub fn boot_files(library: &Library, report: Report<'_>) -> Result<Vec<Read>, LibraryError> {
    let mut read = Vec::new();
    for directory in entries(&library.kernels())?.into_iter().filter(|path| path.is_dir()) {
        let name = format!("kernel {}", name_of(&directory));
        report(Progress { phase: Phase::Hashing, done: 0, total: None, detail: &name });
        let (bytes, result) = kernel(library, &directory);
        read.push(Read { name, bytes, result });
    }
    for record in
        entries(&library.boot())?.into_iter().filter(|path| path.extension().is_some_and(|e| e == "json"))
    {
        let file = record.with_extension("cpio");
        if !file.exists() {
            // A record comes before its file.
            continue;
        }
        let name = format!("initramfs {}", name_of(&record).chars().take(12).collect::<String>());
        report(Progress { phase: Phase::Hashing, done: 0, total: None, detail: &name });
        let wanted = json::<BootRecord>(&record).map(|record| (record.sha256, record.size));
        let (bytes, result) = match wanted {
            Ok((sha256, size)) => (size, compare(library, &name, &file, &sha256)),
            Err(error) => (0, Err(error)),
        };
        read.push(Read { name, bytes, result });
    }
    Ok(read)
}

fn kernel(library: &Library, directory: &Path) -> (u64, Result<(), LibraryError>) {
    let manifest = match json::<KernelManifest>(&directory.join("kernel.json")) {
        Ok(manifest) => manifest,
        Err(error) => return (0, Err(error)),
    };
    let name = format!("kernel {}", manifest.kernel.release);
    let bytes = manifest.parts.iter().map(|part| part.size).sum();
    let mut parts = manifest.parts.iter();
    let result = parts.try_for_each(|part| {
        // What a record calls its parts is a plain name, or it is damaged.
        let plain = Path::new(&part.name).file_name().unwrap_or_default();
        compare(library, &name, &directory.join(plain), &part.sha256)
    });
    (bytes, result)
}

fn compare(library: &Library, name: &str, path: &Path, expected: &str) -> Result<(), LibraryError> {
    // Stamps of a library that others own are theirs.
    let found =
        if is_own(&library.verified()) { stamp::rehash(library, path)? } else { Digest::of_file(path)? };
    if found.to_string() == expected {
        return Ok(());
    }
    let (expected, found) = (expected.to_owned(), found.to_string());
    Err(LibraryError::Damaged { name: name.to_owned(), path: path.to_owned(), expected, found })
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<T, LibraryError> {
    let bytes = fs::read(path).map_err(LibraryError::io("read", path))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| LibraryError::Manifest { path: path.to_owned(), source: ManifestError::Json(error) })
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, LibraryError> {
    let listed = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.and_then(Iterator::collect::<Result<Vec<_>, _>>),
    };
    let listed = listed.map_err(LibraryError::io("list", directory))?;
    let mut paths: Vec<_> = listed.into_iter().map(|entry| entry.path()).collect();
    paths.retain(|path| !name_of(path).starts_with('.'));
    paths.sort();
    Ok(paths)
}

fn name_of(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    #[test]
    fn a_changed_byte_in_a_kernel_or_an_initramfs_is_told_and_stops_nothing() {
        let root = tempfile::tempdir().unwrap();
        let library = Library::at(root.path().join("library"));
        fs::create_dir_all(library.boot()).unwrap();
        fs::create_dir_all(library.verified()).unwrap();
        for (name, content) in [("good", "x"), ("bad", "y")] {
            let record = BootRecord {
                sha256: Digest::of(b"x").to_string(),
                size: 1,
                modules: String::new(),
                agent: String::new(),
            };
            fs::write(library.boot().join(name).with_extension("json"), tree::to_json(&record)).unwrap();
            fs::write(library.boot().join(name).with_extension("cpio"), content).unwrap();
        }
        fs::create_dir_all(library.kernels().join("k")).unwrap();
        fs::write(library.kernels().join("k/kernel.json"), "{").unwrap();
        let read = boot_files(&library, &mut |_| {}).unwrap();
        let damaged: Vec<_> =
            read.iter().filter(|read| read.result.is_err()).map(|read| &*read.name).collect();
        assert_eq!((read.len(), damaged), (3, vec!["kernel k", "initramfs bad"]));
    }
}
