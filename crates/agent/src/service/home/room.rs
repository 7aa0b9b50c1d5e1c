//! A few files that are kept on the machine's disk for their inodes. Mounting an overlay makes files in its work
//! directory, so that a disk whose last inode somebody used could never be lived on again.
//!
//! They lie beside what the guest's root shows, and are given up only where there is no other way. Not here: room for
//! what the guest's programs write.

use crate::console;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// An overlay needs three while it is mounted and gives them back; the rest is for the machine's name.
const FILES: u32 = 8;

/// Where they are.
pub(super) struct Room(PathBuf);

impl Room {
    /// On the disk that is mounted there.
    pub(super) fn on(disk: &str) -> Self {
        Self(Path::new(disk).join("room"))
    }

    /// Does it, and once more with what was kept if there is no room for it.
    pub(super) fn or_give<T>(&self, mut attempt: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
        match attempt() {
            Err(Errno::NOSPC) if self.give() => attempt(),
            done => done,
        }
    }

    /// Gives everything up; whether there was anything.
    fn give(&self) -> bool {
        let given = (0..FILES).filter(|file| {
            rustix::fs::unlinkat(CWD, self.0.join(file.to_string()), AtFlags::empty()).is_ok()
        });
        given.count() > 0
    }

    /// Keeps what is missing. A disk that is full already has nothing to keep, which changes nothing for now.
    pub(super) fn keep(&self) {
        let kept = make(&self.0).and_then(|()| (0..FILES).try_for_each(|file| self.keep_one(file)));
        if let Err(errno) = kept {
            console::say(&format!("keep room for the next start: {errno}"));
        }
    }

    fn keep_one(&self, file: u32) -> Result<(), Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        exists(rustix::fs::openat(CWD, self.0.join(file.to_string()), flags, Mode::RUSR).map(drop))
    }
}

fn make(directory: &Path) -> Result<(), Errno> {
    exists(rustix::fs::mkdirat(CWD, directory, Mode::RWXU))
}

fn exists(made: Result<(), Errno>) -> Result<(), Errno> {
    made.or_else(|errno| if errno == Errno::EXIST { Ok(()) } else { Err(errno) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_given_only_for_want_of_room_and_kept_again() {
        let disk = tempfile::tempdir().unwrap();
        let room = Room::on(disk.path().to_str().unwrap());
        let kept = || std::fs::read_dir(disk.path().join("room")).map_or(0, Iterator::count);
        assert_eq!(room.or_give(|| Err::<(), _>(Errno::NOSPC)), Err(Errno::NOSPC), "nothing to give");
        room.keep();
        assert_eq!(kept(), 8);
        assert_eq!(room.or_give(|| Err::<(), _>(Errno::IO)), Err(Errno::IO));
        assert_eq!(kept(), 8, "no want of room");
        let full = || if kept() > 0 { Err(Errno::NOSPC) } else { Ok("mounted") };
        assert_eq!(room.or_give(full), Ok("mounted"));
        room.keep();
        assert_eq!(kept(), 8);
    }
}
