//! What came moves into a directory that is there: file by file under its final name, each whole.

use crate::Stop;
use crate::error::{CopyError, at_destination};
use crate::partial::joined;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, StatxFlags, openat, renameat, renameat_with, statat,
    statx,
};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::path::Path;

/// Moves everything in `from` into `into`, whose path is for errors. Nothing is moved when something is in the way.
pub(crate) fn merge(
    from: BorrowedFd<'_>,
    into: BorrowedFd<'_>,
    path: &Path,
    follow: bool,
    stop: &Stop,
) -> Result<(), CopyError> {
    let mount = Mount::of(from, c"").map_err(at_destination("look at", path))?;
    each(from, into, path, follow, Pass::Look { mount: &mount, stop })?;
    each(from, into, path, follow, Pass::Move)
}

#[derive(Clone, Copy)]
enum Pass<'a> {
    /// Can be stopped.
    Look {
        mount: &'a Mount,
        stop: &'a Stop,
    },
    Move,
}

/// Where something is mounted. Nothing is renamed from one mount to another, be they of one file system.
struct Mount {
    /// Kernels before 5.8 do not tell it.
    id: Option<u64>,
    device: (u32, u32),
}

impl Mount {
    /// Of a name in a directory, or of the directory itself when the name is empty.
    fn of(beside: BorrowedFd<'_>, name: &CStr) -> Result<Self, Errno> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        let found = statx(beside, name, flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)?;
        let id = (found.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(found.stx_mnt_id);
        Ok(Self { id, device: (found.stx_dev_major, found.stx_dev_minor) })
    }

    /// Whether a directory is here. A subvolume is mounted nowhere, and another device all the same.
    fn has_directory(&self, other: &Self) -> bool {
        self.has_file(other) && self.device == other.device
    }

    /// Whether a file is here. Its device is not asked: a file below an overlay has that of the layer it lies in.
    fn has_file(&self, other: &Self) -> bool {
        self.id.zip(other.id).is_none_or(|(here, there)| here == there)
    }
}

/// What is in the place of something that comes.
enum There {
    Nothing,
    /// A directory, and a directory comes.
    Directory(OwnedFd),
    /// Something that is replaced.
    Replaced,
}

fn each(
    from: BorrowedFd<'_>,
    into: BorrowedFd<'_>,
    path: &Path,
    follow: bool,
    pass: Pass<'_>,
) -> Result<(), CopyError> {
    for name in names(from).map_err(at_destination("read", path))? {
        if let Pass::Look { stop, .. } = pass {
            stop.check()?;
        }
        let path = joined(path, &name);
        let failed = |operation| at_destination::<Errno>(operation, &path);
        let comes = is_directory(from, &name).map_err(failed("look at"))?;
        match (there(into, &name, comes, &path, follow)?, pass) {
            (There::Directory(deeper), pass) => {
                if let Pass::Look { mount, .. } = pass {
                    let other = Mount::of(deeper.as_fd(), c"").map_err(failed("look at"))?;
                    elsewhere(mount.has_directory(&other), "a directory", &path)?;
                }
                let source = crate::partial::open_directory(from, &name).map_err(failed("open"))?;
                each(source.as_fd(), deeper.as_fd(), &path, follow, pass)?;
            }
            (There::Nothing, Pass::Look { .. }) => {}
            (There::Replaced, Pass::Look { mount, .. }) => {
                let other = Mount::of(into, &name).map_err(failed("look at"))?;
                elsewhere(mount.has_file(&other), "a file", &path)?;
            }
            (There::Nothing, Pass::Move) => {
                place(from, &name, into, &name).map_err(failed("make"))?;
            }
            (There::Replaced, Pass::Move) => {
                renameat(from, &name, into, &name).map_err(failed("replace"))?;
            }
        }
    }
    Ok(())
}

fn elsewhere(is_here: bool, came: &'static str, path: &Path) -> Result<(), CopyError> {
    if is_here {
        return Ok(());
    }
    Err(CopyError::InTheWay { path: path.to_owned(), found: "mounted from elsewhere", came })
}

/// Gives something its final name, which nothing has. File systems that cannot promise that (NFS) are asked without.
pub(crate) fn place(
    from: BorrowedFd<'_>,
    name: &CStr,
    into: BorrowedFd<'_>,
    as_name: &CStr,
) -> Result<(), Errno> {
    match renameat_with(from, name, into, as_name, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => renameat(from, name, into, as_name),
        renamed => renamed,
    }
}

fn there(
    into: BorrowedFd<'_>,
    name: &CStr,
    directory_comes: bool,
    path: &Path,
    follow: bool,
) -> Result<There, CopyError> {
    let found = match statat(into, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(status) => FileType::from_raw_mode(status.st_mode),
        Err(Errno::NOENT) => return Ok(There::Nothing),
        Err(errno) => return Err(at_destination("look at", path)(errno)),
    };
    let in_the_way = |found, came| CopyError::InTheWay { path: path.to_owned(), found, came };
    match (found, directory_comes) {
        (FileType::Directory, true) => {
            open(into, name, OFlags::NOFOLLOW).map(There::Directory).map_err(at_destination("open", path))
        }
        (FileType::Symlink, true) if follow => open(into, name, OFlags::empty())
            .map(There::Directory)
            .map_err(|_| in_the_way("a link to something else", "a directory")),
        (FileType::Symlink, true) => Err(in_the_way("a link", "a directory")),
        (FileType::Directory, false) => Err(in_the_way("a directory", "none")),
        (_, true) => Err(in_the_way("a file", "a directory")),
        (_, false) => Ok(There::Replaced),
    }
}

fn open(into: BorrowedFd<'_>, name: &CStr, more: OFlags) -> Result<OwnedFd, Errno> {
    openat(into, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | more, Mode::empty())
}

pub(crate) fn is_directory(beside: BorrowedFd<'_>, name: &CStr) -> Result<bool, Errno> {
    let status = statat(beside, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(status.st_mode) == FileType::Directory)
}

pub(crate) fn names(directory: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}
