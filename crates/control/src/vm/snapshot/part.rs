//! The parts of a snapshot, read: the manifest by its form and checksum, the others by length and SHA-256.
//!
//! Whoever wrote into a snapshot's directory since may have put anything there: links are not followed, and nothing but
//! regular files is opened for long.

use super::error::{Damage, Part};
use outlast_machine::digest::{Digest, sha256_bytes};
use outlast_model::limit::SNAPSHOT_MANIFEST_BYTES;
use outlast_wire::paths::SnapshotDirectory;
use outlast_wire::snapshot::{SnapshotManifest, SnapshotPart};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A part, and what is wrong with it.
pub(super) type Damaged = (Part, Damage);

/// What the manifest says of the others, with where they lie.
fn others<'a>(
    directory: &SnapshotDirectory,
    manifest: &'a SnapshotManifest,
) -> [(Part, PathBuf, &'a SnapshotPart); 2] {
    [
        (Part::Machine, directory.machine(), &manifest.machine_part),
        (Part::Disk, directory.disk(), &manifest.disk_part),
    ]
}

/// Reads the manifest, and looks whether the other parts are as long as it says.
pub(super) fn glance(directory: &SnapshotDirectory) -> Result<SnapshotManifest, Damaged> {
    let manifest = read_manifest(&directory.manifest()).map_err(|damage| (Part::Manifest, damage))?;
    for (part, path, said) in others(directory, &manifest) {
        let length = open(&path).and_then(|(_, found)| has_length(found, said.bytes));
        length.map_err(|damage| (part, damage))?;
    }
    Ok(manifest)
}

/// Reads every byte of the other parts; how many there were.
pub(super) fn read_through(
    directory: &SnapshotDirectory,
    manifest: &SnapshotManifest,
) -> Result<u64, Damaged> {
    let mut bytes = 0_u64;
    for (part, path, said) in others(directory, manifest) {
        let found = measure(&path).map_err(|damage| (part, damage))?;
        has_length(found.bytes, said.bytes).map_err(|damage| (part, damage))?;
        if found.sha256 != said.sha256 {
            return Err((part, Damage::Content));
        }
        bytes = bytes.saturating_add(found.bytes);
    }
    Ok(bytes)
}

/// What a file is, by reading all of it.
pub(super) fn measure(path: &Path) -> Result<SnapshotPart, Damage> {
    let (mut file, length) = open(path)?;
    let digest = Digest::of_reader(&mut file)?;
    // One that somebody writes to is not what was hashed.
    has_length(file.metadata()?.len(), length)?;
    Ok(SnapshotPart { sha256: digest.to_string(), bytes: length })
}

fn read_manifest(path: &Path) -> Result<SnapshotManifest, Damage> {
    let (file, _) = open(path)?;
    let mut text = Vec::new();
    // One byte more than there may be: what is longer is refused by its length.
    let most = u64::try_from(SNAPSHOT_MANIFEST_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_end(&mut text)?;
    Ok(SnapshotManifest::parse(&text, sha256_bytes)?)
}

/// Writes the manifest, synced.
pub(super) fn write_manifest(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

fn has_length(found: u64, expected: u64) -> Result<(), Damage> {
    if found == expected { Ok(()) } else { Err(Damage::Length { found, expected }) }
}

/// Opens a regular file, and tells its length.
fn open(path: &Path) -> Result<(File, u64), Damage> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(CWD, path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Err(Damage::Missing),
        Err(Errno::LOOP | Errno::NXIO) => return Err(Damage::Kind),
        Err(errno) => return Err(io::Error::from(errno).into()),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(Damage::Kind);
    }
    Ok((file, metadata.len()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use outlast_model::{DiskFormat, DiskSpec, Memory, SnapshotId, SnapshotName, VcpuCount, VmId, VmSpec};
    use outlast_wire::template::TemplateIngredients;
    use std::fs;
    use std::os::unix::fs::symlink;

    const MACHINE: &[u8] = b"devices and memory";
    const DISK: &[u8] = b"what is on the disk";

    pub(crate) fn ingredients() -> TemplateIngredients {
        TemplateIngredients {
            generation: 1,
            image: "base".to_owned(),
            image_digest: "aa".repeat(32),
            initramfs_digest: "bb".repeat(32),
            command_line: "console=ttyS0".to_owned(),
            backend: "qemu".to_owned(),
            vmm_digest: "cc".repeat(32),
            topology: "q35 1".to_owned(),
            accelerator: "tcg".to_owned(),
            cpu_model: "max".to_owned(),
            host_cpu: "emulated".to_owned(),
            vcpus: 1,
            memory: 128 << 20,
            warm_up: Vec::new(),
            lean_kernel: None,
        }
    }

    /// Fills a directory with a snapshot that is whole.
    pub(crate) fn fill(directory: &SnapshotDirectory, vm: VmId, name: &SnapshotName) -> SnapshotManifest {
        fs::write(directory.machine(), MACHINE).unwrap();
        fs::write(directory.disk(), DISK).unwrap();
        let mib = |count| Memory::from_mib(count).unwrap();
        let disk = DiskSpec::new(DiskFormat::Raw, mib(64)).unwrap();
        let manifest = SnapshotManifest {
            id: SnapshotId::from_parts(1, 2),
            name: name.clone(),
            vm,
            taken_unix_ns: 5,
            spec: VmSpec::new("base".to_owned(), VcpuCount::ONE, mib(128), disk).unwrap(),
            machine: ingredients(),
            machine_part: measure(&directory.machine()).unwrap(),
            disk_part: measure(&directory.disk()).unwrap(),
        };
        write_manifest(&directory.manifest(), &manifest.encode(sha256_bytes).unwrap()).unwrap();
        manifest
    }

    fn whole() -> (tempfile::TempDir, SnapshotDirectory, SnapshotManifest) {
        let top = tempfile::tempdir().unwrap();
        let directory = SnapshotDirectory::at(top.path().to_owned());
        let manifest = fill(&directory, VmId::from_parts(1, 1), &"one".parse().unwrap());
        (top, directory, manifest)
    }

    #[test]
    fn a_whole_one_is_read_as_it_was_written() {
        let (_top, directory, manifest) = whole();
        assert_eq!(glance(&directory).unwrap(), manifest);
        assert_eq!(read_through(&directory, &manifest).unwrap(), (MACHINE.len() + DISK.len()) as u64);
    }

    #[test]
    fn any_flipped_byte_is_found_in_the_part_where_it_is() {
        for part in [Part::Manifest, Part::Machine, Part::Disk] {
            let (_top, directory, _) = whole();
            let path = match part {
                Part::Manifest => directory.manifest(),
                Part::Machine => directory.machine(),
                Part::Disk => directory.disk(),
            };
            let bytes = fs::read(&path).unwrap();
            for at in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[at] ^= 0x10;
                fs::write(&path, &changed).unwrap();
                let looked = glance(&directory).and_then(|manifest| read_through(&directory, &manifest));
                let (found, damage) = looked.unwrap_err();
                assert_eq!(found, part, "byte {at}: {damage}");
            }
        }
    }

    #[test]
    fn a_part_that_is_missing_longer_or_no_file_is_seen_without_reading_it() {
        type Change = fn(&Path);
        type Expected = fn(&Damage) -> bool;
        let changes: [(Change, Expected); 4] = [
            (|path| fs::remove_file(path).unwrap(), |damage| matches!(damage, Damage::Missing)),
            (
                |path| fs::write(path, [&fs::read(path).unwrap()[..], b"x"].concat()).unwrap(),
                |damage| matches!(damage, Damage::Length { .. }),
            ),
            (
                |path| {
                    fs::rename(path, path.with_extension("away")).unwrap();
                    symlink(path.with_extension("away"), path).unwrap();
                },
                |damage| matches!(damage, Damage::Kind),
            ),
            (
                |path| {
                    fs::remove_file(path).unwrap();
                    fs::create_dir(path).unwrap();
                },
                |damage| matches!(damage, Damage::Kind),
            ),
        ];
        for (number, (change, is_it)) in changes.into_iter().enumerate() {
            for part in [Part::Machine, Part::Disk] {
                let (_top, directory, _) = whole();
                change(&if part == Part::Machine { directory.machine() } else { directory.disk() });
                let (found, damage) = glance(&directory).unwrap_err();
                assert!(found == part && is_it(&damage), "change {number}: {found}: {damage}");
            }
        }
    }

    #[test]
    fn a_manifest_that_never_ends_is_not_read_to_its_end() {
        let (_top, directory, _) = whole();
        fs::write(directory.manifest(), vec![b' '; 4 * SNAPSHOT_MANIFEST_BYTES]).unwrap();
        let (part, damage) = glance(&directory).unwrap_err();
        assert_eq!(part, Part::Manifest);
        assert!(damage.to_string().contains(&(SNAPSHOT_MANIFEST_BYTES + 1).to_string()), "{damage}");
    }
}
