//! Disks that machines write: made, checked, opened, copied and removed.
//!
//! ```text
//!   create:  .NAME.new (sparse, locked) ─► mke2fs ─► [qemu-img: .NAME.new.qcow2] ─► sync ─► NAME, by rename
//! ```
//!
//! A disk is a file with an ext4 file system in it, raw or in QEMU's own format. The tools come out of the VMM root, so
//! that the host needs neither. Not here: whose disk it is, when it goes, and what a machine does with it.

mod copy;
mod error;
mod tool;

pub use copy::{Copied, allocated, copy, sync};
pub use error::DiskError;

use crate::vmm_root::VmmRoot;
use crate::{host, lock};
use outlast_model::DiskFormat;
use outlast_wire::intent::Scratch;
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, FileType, Mode, OFlags, RenameFlags, SeekFrom};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use tool::Tool;

/// The first bytes of QEMU's own format, "QFI" and 0xfb, and where it has the disk's size: docs/interop/qcow2 of QEMU.
const QCOW2_MAGIC: [u8; 4] = [0x51, 0x46, 0x49, 0xfb];
const QCOW2_SIZE_AT: usize = 24;

/// What every ext4 here has, named, so that a guest's kernel finds nothing it does not know whatever the tool's own
/// settings are. Linux 4.18 knows all of it.
const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,\
                        large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/// A disk that is open for a machine.
#[derive(Debug)]
pub struct Disk {
    /// Open for reading and writing.
    pub file: OwnedFd,
    /// The size that the guest sees, in bytes.
    pub bytes: u64,
}

/// A disk that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The size that the guest sees, in bytes.
    pub bytes: u64,
    /// What it takes on the host, in bytes.
    pub allocated: u64,
}

/// What disk is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// How it lies on the host.
    pub format: DiskFormat,
    /// The size that the guest will see, in bytes: whole MiB.
    pub bytes: u64,
    /// Make it although the host has less free than that. Then writes of the guest may fail one day.
    pub beyond_free: bool,
}

/// Makes a disk with an empty ext4 file system. Blocks, for as long as its tools take; a process that is killed leaves
/// files beside it, which the next attempt at the same path replaces and [`remove`] removes.
///
/// # Errors
/// [`DiskError`] names what is there, missing, full or broken. Nothing is left at `path` then.
pub fn create(path: &Path, wanted: Wanted, vmm: &VmmRoot) -> Result<(), DiskError> {
    if path.symlink_metadata().is_ok() {
        return Err(DiskError::Exists { path: path.to_owned() });
    }
    // Asked first: a root that has no tools is not worth a file.
    let format = Tool::of(vmm, vmm.mke2fs())?;
    let convert = match wanted.format {
        DiskFormat::Raw => None,
        DiskFormat::Qcow2 => Some(Tool::of(vmm, vmm.qemu_img())?),
    };
    check_space(path, wanted)?;
    let raw = beside(path, "new");
    let lock = reserve(&raw)?;
    let made = make(path, &raw, wanted, (&format, convert.as_ref()));
    for leftover in [&raw, &beside(path, "new.qcow2")] {
        // Published it has another name; what cannot be removed now is removed with the disk.
        let _ = fs::remove_file(leftover);
    }
    drop(lock);
    made
}

fn make(
    path: &Path,
    raw: &Path,
    wanted: Wanted,
    (format, convert): (&Tool, Option<&Tool>),
) -> Result<(), DiskError> {
    let failed = |operation: &'static str, path: &Path| {
        let path = path.to_owned();
        move |errno: Errno| DiskError::Io { operation, path, source: errno.into() }
    };
    let file = open_file(raw, OFlags::RDWR).map_err(failed("open", raw))?;
    rustix::fs::ftruncate(&file, 0).map_err(failed("empty", raw))?;
    rustix::fs::ftruncate(&file, wanted.bytes).map_err(failed("extend", raw))?;
    format.run(&format_arguments(raw, wanted.bytes))?;
    let whole = match convert {
        None => raw.to_owned(),
        Some(convert) => {
            let converted = beside(path, "new.qcow2");
            let mut arguments: Vec<_> = ["convert", "-f", "raw", "-O", "qcow2"].map(Into::into).to_vec();
            arguments.extend([raw.as_os_str().to_owned(), converted.as_os_str().to_owned()]);
            convert.run(&arguments)?;
            rustix::fs::chmod(&converted, Mode::RUSR | Mode::WUSR).map_err(failed("restrict", &converted))?;
            converted
        }
    };
    // Order matters: whole and on the disk before it has its name.
    rustix::fs::fsync(open_file(&whole, OFlags::RDWR).map_err(failed("open", &whole))?)
        .map_err(failed("sync", &whole))?;
    match rustix::fs::renameat_with(CWD, &whole, CWD, path, RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => return Err(DiskError::Exists { path: path.to_owned() }),
        renamed => renamed.map_err(failed("name", path))?,
    }
    let parent = parent_of(path);
    let directory = open_file(parent, OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed("open", parent))?;
    rustix::fs::fsync(directory).map_err(failed("sync", parent))
}

/// The file is new and has holes where nothing was written, so nothing needs to be zeroed, now or by the guest.
fn format_arguments(raw: &Path, bytes: u64) -> Vec<std::ffi::OsString> {
    // A small disk is for small files: an inode for every 4 KiB below 512 MiB, for every 16 KiB above.
    let ratio = if bytes < 512 << 20 { "4096" } else { "16384" };
    let settings =
        "nodiscard,lazy_itable_init=1,lazy_journal_init=1,assume_storage_prezeroed=1,root_owner=0:0";
    let fixed = ["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "1", "-i", ratio, "-O", FEATURES];
    let mut arguments: Vec<std::ffi::OsString> = fixed.map(Into::into).to_vec();
    arguments.extend(["-E".into(), settings.into(), raw.as_os_str().to_owned()]);
    arguments
}

/// Looks whether the disk is there, of the format and size it should have. Reads its first bytes and nothing else:
/// whether its file system is whole, the guest's kernel finds out.
///
/// # Errors
/// [`DiskError::Missing`], [`DiskError::Kind`], [`DiskError::Format`], [`DiskError::Size`], [`DiskError::Io`].
pub fn check(path: &Path, format: DiskFormat, bytes: u64) -> Result<Found, DiskError> {
    let (file, found) = look(path, format, OFlags::RDONLY)?;
    if found != bytes {
        return Err(DiskError::Size { path: path.to_owned(), found, expected: bytes });
    }
    let metadata = File::from(file).metadata();
    let metadata =
        metadata.map_err(|source| DiskError::Io { operation: "look at", path: path.to_owned(), source })?;
    Ok(Found { bytes, allocated: host::bytes_on_disk(&metadata) })
}

/// Opens the disk of a machine for its VMM.
///
/// # Errors
/// As [`check`], and [`DiskError::UnknownFormat`].
pub fn open(scratch: &Scratch) -> Result<Disk, DiskError> {
    let unknown = || DiskError::UnknownFormat { path: scratch.path.clone() };
    let format = scratch.format.parse::<DiskFormat>().map_err(|_| unknown())?;
    let (file, bytes) = look(&scratch.path, format, OFlags::RDWR)?;
    if bytes != scratch.bytes {
        return Err(DiskError::Size { path: scratch.path.clone(), found: bytes, expected: scratch.bytes });
    }
    Ok(Disk { file, bytes })
}

/// Removes the disk, and what an interrupted [`create`] left beside it. What is not there is as good as removed.
///
/// # Errors
/// [`DiskError::Io`]: it is still there.
pub fn remove(path: &Path) -> Result<(), DiskError> {
    for path in [beside(path, "new"), beside(path, "new.qcow2"), path.to_owned()] {
        match fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(DiskError::Io { operation: "remove", path, source });
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Opens it and tells the size that a guest sees.
fn look(path: &Path, format: DiskFormat, access: OFlags) -> Result<(OwnedFd, u64), DiskError> {
    let failed = |operation: &'static str| {
        move |errno: Errno| DiskError::Io { operation, path: path.to_owned(), source: errno.into() }
    };
    let file = match open_file(path, access) {
        Err(Errno::NOENT) => return Err(DiskError::Missing { path: path.to_owned() }),
        Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => {
            return Err(DiskError::Kind { path: path.to_owned() });
        }
        opened => opened.map_err(failed("open"))?,
    };
    let status = rustix::fs::fstat(&file).map_err(failed("look at"))?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Err(DiskError::Kind { path: path.to_owned() });
    }
    let mut head = [0; QCOW2_SIZE_AT + 8];
    let length = rustix::io::pread(&file, &mut head, 0).map_err(failed("read"))?;
    let inner = qcow2_size(head.get(..length).unwrap_or_default());
    let bytes = match format {
        DiskFormat::Raw => rustix::fs::seek(&file, SeekFrom::End(0)).map_err(failed("measure"))?,
        DiskFormat::Qcow2 => inner.ok_or_else(|| DiskError::Format { path: path.to_owned(), format })?,
    };
    Ok((file, bytes))
}

/// The size of the disk in a file that begins so, if that is QEMU's own format.
fn qcow2_size(head: &[u8]) -> Option<u64> {
    let rest = head.strip_prefix(&QCOW2_MAGIC)?;
    let size = rest.get(QCOW2_SIZE_AT - QCOW2_MAGIC.len()..)?;
    size.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes))
}

/// A link in the place of a disk would be a way to any other file.
fn open_file(path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
}

fn check_space(path: &Path, wanted: Wanted) -> Result<(), DiskError> {
    let parent = parent_of(path);
    let free = host::disk_free(parent).map_err(DiskError::Host)?;
    if free < wanted.bytes && !wanted.beyond_free {
        return Err(DiskError::TooLittleSpace { path: parent.to_owned(), free, needed: wanted.bytes });
    }
    Ok(())
}

/// The file that becomes the disk, for one maker alone.
fn reserve(raw: &Path) -> Result<OwnedFd, DiskError> {
    let failed = |source: io::Error| DiskError::Io { operation: "make", path: raw.to_owned(), source };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file =
        File::from(rustix::fs::open(raw, flags, Mode::RUSR | Mode::WUSR).map_err(|e| failed(e.into()))?);
    match lock::try_lock(&file, lock::Hold::Exclusive) {
        Ok(true) => Ok(file.into()),
        Ok(false) => Err(DiskError::Busy { path: raw.to_owned() }),
        Err(error) => Err(failed(error)),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{suffix}"))
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests;
