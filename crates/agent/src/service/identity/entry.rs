//! One file below /etc that says who the machine is. Whoever lives in the guest may have put anything in its place, and
//! may have left no room on the disk to put it right.
//!
//! ```text
//!   right already ─► nothing
//!   the file the agent made, still in its place ─► only what differs is written
//!   anything else ─► a new file is renamed over it ─► no room: a file in /run is shown in its place
//! ```
//!
//! Not here: what the files say.

use super::IdentityError;
use crate::console;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat, openat2};
use rustix::io::Errno;
use rustix::mount::mount_bind;
use std::path::{Path, PathBuf};

/// The most bytes of a file that are read. A longer one is left as it is.
const MAX_BYTES: usize = 1 << 20;

/// Names that are tried for a new file before it takes its place; directories may be called so.
const BESIDE: [&str; 4] = ["new", "new-1", "new-2", "new-3"];

/// Where files lie that are shown in /etc. It is a tmpfs of the guest's own.
const SPARE: &str = "/run/outlast";

/// The file.
pub(super) struct Entry {
    path: PathBuf,
    /// The one that was made here, open, and which it is.
    made: Option<Made>,
}

struct Made {
    file: OwnedFd,
    device: u64,
    inode: u64,
}

impl Made {
    fn new(file: OwnedFd) -> Result<Self, Errno> {
        let status = rustix::fs::fstat(&file)?;
        Ok(Self { file, device: status.st_dev, inode: status.st_ino })
    }
}

impl Entry {
    /// Looks at nothing yet.
    pub(super) fn at(etc: &Path, name: &str) -> Self {
        Self { path: etc.join(name), made: None }
    }

    /// Closes the file if it is open; the next time it is found by its name.
    pub(super) fn close(&mut self) {
        self.made = None;
    }

    /// What the file says now. One that is not there, or is no file, says nothing.
    pub(super) fn read(&mut self) -> Result<Vec<u8>, IdentityError> {
        let status = self.look();
        self.contents(status.as_ref()).map_err(|source| self.failed(source))
    }

    /// Makes `wanted` all there is in the file.
    pub(super) fn say(&mut self, wanted: &[u8]) -> Result<(), IdentityError> {
        let status = self.look();
        // A fresh clone's are empty, and are not read to learn that.
        let same_size = status.as_ref().is_some_and(|status| size(status) == wanted.len());
        let before = if same_size { self.contents(status.as_ref()).unwrap_or_default() } else { Vec::new() };
        if same_size && before == wanted {
            return Ok(());
        }
        self.put(&before, status.as_ref(), wanted)
    }

    /// Puts in the place of what the file says what `change` makes of it, or nothing where that is `None`. A file that
    /// cannot be read is left alone.
    pub(super) fn change(
        &mut self,
        change: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
    ) -> Result<(), IdentityError> {
        let status = self.look();
        let before = self.contents(status.as_ref()).map_err(|source| self.failed(source))?;
        match change(&before) {
            Some(wanted) => self.put(&before, status.as_ref(), &wanted),
            None => Ok(()),
        }
    }

    /// Puts a new file in the place of whatever has this name, and keeps it open; a link there is replaced and not
    /// followed.
    pub(super) fn replace(&mut self, contents: &[u8]) -> Result<(), IdentityError> {
        self.made = None;
        let made = renew(&self.path, contents).or_else(|source| {
            show(&self.path, contents, Path::new(SPARE))
                .inspect(|_| {
                    console::say(&format!("{} is shown from {SPARE}: {source}", self.path.display()));
                })
                // The first error says more than that the way around it failed too.
                .map_err(|_| source)
        });
        self.made = Some(made.map_err(|source| IdentityError::Make(self.path.clone(), source))?);
        Ok(())
    }

    /// What has the name now. Lets go of the file that was made here when that is another.
    fn look(&mut self) -> Option<Stat> {
        let status = rustix::fs::statat(CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW).ok();
        let is_it = |made: &Made| {
            status.as_ref().is_some_and(|now| now.st_dev == made.device && now.st_ino == made.inode)
        };
        self.made = self.made.take().filter(is_it);
        status
    }

    fn contents(&self, status: Option<&Stat>) -> Result<Vec<u8>, Errno> {
        let Some(status) = status else { return Ok(Vec::new()) };
        match (&self.made, FileType::from_raw_mode(status.st_mode)) {
            (Some(made), _) => read_all(&made.file),
            (None, FileType::RegularFile) => read_all(&open(&self.path, ResolveFlags::NO_SYMLINKS)?),
            (None, FileType::Symlink) => Ok(behind_link(&self.path).unwrap_or_default()),
            (None, _) => Ok(Vec::new()),
        }
    }

    fn put(&mut self, before: &[u8], status: Option<&Stat>, wanted: &[u8]) -> Result<(), IdentityError> {
        if let (Some(made), Some(status)) = (&self.made, status) {
            // What has no room in place may have some elsewhere.
            if overwrite(&made.file, before, size(status), wanted).is_ok() {
                return Ok(());
            }
        }
        self.replace(wanted)
    }

    fn failed(&self, source: Errno) -> IdentityError {
        IdentityError::Write(self.path.clone(), source)
    }
}

fn size(status: &Stat) -> usize {
    usize::try_from(status.st_size).unwrap_or(usize::MAX)
}

/// Opens what must be a file: it may have been exchanged since it was looked at, and nothing is waited for.
fn open(path: &Path, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    openat2(CWD, path, flags, Mode::empty(), resolve | ResolveFlags::NO_MAGICLINKS)
}

/// The link will be replaced; what it leads to on the same file system is copied.
fn behind_link(path: &Path) -> Result<Vec<u8>, Errno> {
    read_all(&open(path, ResolveFlags::NO_XDEV)?)
}

fn read_all(file: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let status = rustix::fs::fstat(file)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Ok(Vec::new());
    }
    if size(&status) > MAX_BYTES {
        return Err(Errno::FBIG);
    }
    // One byte more than there is: where the first call does not fill it, that was all.
    let mut bytes = vec![0; size(&status) + 1];
    let mut length = 0;
    while let Some(rest) = bytes.get_mut(length..).filter(|rest| !rest.is_empty()) {
        let offset = u64::try_from(length).unwrap_or(u64::MAX);
        let wanted = rest.len();
        let read = rustix::io::pread(file, rest, offset)?;
        length += read;
        if read < wanted {
            bytes.truncate(length);
            return Ok(bytes);
        }
    }
    // It grows while it is read: whoever writes it is not disturbed.
    Err(Errno::AGAIN)
}

/// Writes from the first byte that differs, so that what stays is not touched.
fn overwrite(file: &OwnedFd, before: &[u8], size: usize, wanted: &[u8]) -> Result<(), Errno> {
    let same = before.iter().zip(wanted).take_while(|(before, wanted)| before == wanted).count();
    write_from(file, wanted, same)?;
    if size > wanted.len() {
        rustix::fs::ftruncate(file, u64::try_from(wanted.len()).unwrap_or(u64::MAX))?;
    }
    Ok(())
}

fn write_from(file: &OwnedFd, bytes: &[u8], mut offset: usize) -> Result<(), Errno> {
    while let Some(rest) = bytes.get(offset..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pwrite(file, rest, u64::try_from(offset).unwrap_or(u64::MAX))? {
            0 => return Err(Errno::NOSPC),
            written => offset += written,
        }
    }
    Ok(())
}

/// A new file with these contents in the place of whatever is called `path`.
fn renew(path: &Path, contents: &[u8]) -> std::io::Result<Made> {
    let (Some(etc), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::INVAL.into());
    };
    // The canary's initramfs has no /etc.
    std::fs::create_dir_all(etc)?;
    let beside = |ending| etc.join(format!(".{}.{ending}", name.to_string_lossy()));
    let mut failure = Errno::EXIST;
    for beside in BESIDE.map(beside) {
        match fresh(&beside) {
            Ok(file) => return take_place(file, contents, &beside, path).map_err(Into::into),
            Err(errno) => failure = errno,
        }
    }
    Err(failure.into())
}

/// Makes a file that nobody else has open. What has its name goes, unless it is a directory.
fn fresh(path: &Path) -> Result<OwnedFd, Errno> {
    match rustix::fs::unlinkat(CWD, path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(0o644))
}

fn take_place(file: OwnedFd, contents: &[u8], beside: &Path, path: &Path) -> Result<Made, Errno> {
    let placed = write_from(&file, contents, 0).and_then(|()| {
        match rustix::fs::renameat(CWD, beside, CWD, path) {
            // A directory changes places with it, and keeps what is in it.
            Err(Errno::ISDIR) => rustix::fs::renameat_with(CWD, beside, CWD, path, RenameFlags::EXCHANGE),
            renamed => renamed,
        }
    });
    if let Err(errno) = placed {
        // What cannot be removed stays; the next attempt removes it first.
        let _ = rustix::fs::unlinkat(CWD, beside, AtFlags::empty());
        return Err(errno);
    }
    Made::new(file)
}

/// Shows a file that lies in `spare` where something is called `path` already: that needs no room there.
fn show(path: &Path, contents: &[u8], spare: &Path) -> Result<Made, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    match rustix::fs::mkdirat(CWD, spare, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let source = spare.join(path.file_name().ok_or(Errno::INVAL)?);
    let file = fresh(&source)?;
    write_from(&file, contents, 0)?;
    // The descriptor, and not a path that could lead elsewhere by now.
    mount_bind(&source, format!("/proc/self/fd/{}", place.as_raw_fd()))?;
    Made::new(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::mount::{MountFlags, mount};
    use std::process::Command;

    /// Set where mounts are this test's own.
    const ALONE: &str = "OUTLAST_TEST_ALONE";

    /// Runs the test again where it may mount; `None` where this host does not let it.
    fn alone(test: &str) -> Option<std::process::Output> {
        let unshared = |program: &Path| {
            let mut command = Command::new("unshare");
            command.args(["--map-root-user", "--mount"]).arg(program);
            command
        };
        let probe = unshared(Path::new("true")).output().ok()?;
        let mut again = unshared(&std::env::current_exe().unwrap());
        again.args(["--exact", test]).env(ALONE, "1");
        probe.status.success().then(|| again.output().unwrap())
    }

    #[test]
    fn on_a_disk_without_room_for_a_file_one_is_shown_from_elsewhere() {
        if std::env::var_os(ALONE).is_none() {
            let name = "service::identity::entry::tests::on_a_disk_without_room_for_a_file_one_is_shown_from_elsewhere";
            if let Some(output) = alone(name) {
                let said = String::from_utf8_lossy(&output.stdout);
                assert!(output.status.success() && said.contains("1 passed"), "{said}");
            }
            return;
        }
        let disk = tempfile::tempdir().unwrap();
        // Inodes for the top, the two files and nothing else.
        mount("tmpfs", disk.path(), "tmpfs", MountFlags::empty(), c"nr_inodes=3").unwrap();
        mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), c"").unwrap();
        let names = ["machine-id", "hosts"].map(|name| disk.path().join(name));
        std::fs::write(&names[0], "old\n").unwrap();
        rustix::fs::mknodat(CWD, &names[1], FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert_eq!(fresh(&disk.path().join("more")).map(drop), Err(Errno::NOSPC));
        for (name, path) in ["machine-id", "hosts"].into_iter().zip(&names) {
            let mut entry = Entry::at(disk.path(), name);
            for wanted in ["a\n", "another\n", "b\n"] {
                entry.say(wanted.as_bytes()).unwrap();
                assert_eq!(std::fs::read_to_string(path).unwrap(), wanted);
            }
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let shown = mounts.lines().filter(|line| line.contains("/hosts ")).count();
        assert_eq!(shown, 1, "shown once, whatever was said:\n{mounts}");
    }
}
