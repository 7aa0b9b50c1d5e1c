//! Members become files below a directory that is ours alone. No link is there while files are written, and none is
//! followed; modes and times of directories come last, because writing in them would change them.

use crate::dress::{Believed, dress, dress_directory, owner, times};
use crate::error::{CopyError, at_destination, shown};
use crate::member::{Kind, Member, Meta};
use crate::name::Name;
use crate::trail::Trail;
use crate::{Stop, Tally};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags, chownat, fstatvfs, linkat, openat, symlinkat, unlinkat, utimensat};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Moved at once.
const CHUNK: usize = 128 * 1024;
/// What directories and links may take of our memory until they are made, in bytes: half a million of them.
const HELD_AT_MOST: usize = 64 << 20;
/// What each of them takes beside its words.
const HELD_EACH: usize = 96;
/// After so much more the free space of the disk is looked at again, in bytes.
const LOOK_EVERY: u64 = 1 << 20;
/// What a file takes of a disk beside its content, roughly.
const OF_EACH_FILE: u64 = 4096;
/// So much of its disk is left to others by what is not trusted, in bytes: what a home needs to accept a workload.
const RESERVE: u64 = 64 << 20;

/// What is believed of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Whether files become those of the users that the stream names; otherwise they are the receiver's own.
    pub owners: bool,
    /// Whether setuid, setgid and sticky bits are taken over.
    pub special_bits: bool,
    /// Whether links may lead out of what is copied; those that would are left out otherwise.
    pub links_out: bool,
    /// Whether a link to a directory in the place of a directory that comes is followed.
    pub follow: bool,
    /// Whether what came is written out before it is published, and its names after.
    pub sync: bool,
    /// What is left of the disk at least, in bytes.
    pub reserve: u64,
}

impl Rules {
    /// Of a host for what a guest sends: plain files of the receiver's own, and nothing that leads elsewhere.
    pub const HOSTILE: Self = Self {
        owners: false,
        special_bits: false,
        links_out: false,
        follow: false,
        sync: true,
        reserve: RESERVE,
    };
    /// Of a guest for what its host sends.
    pub const TRUSTED: Self =
        Self { owners: true, special_bits: true, links_out: true, follow: true, sync: true, reserve: 0 };
}

/// The directory that is being filled.
pub(crate) struct Tree<'a> {
    root: BorrowedFd<'a>,
    /// For errors: what the destination is called.
    shown: &'a Path,
    rules: Rules,
    believed: Believed,
    stop: &'a Stop,
    /// How many components lie above what is one tree: its own name, where it has one.
    above: usize,
    trail: Trail<'a>,
    /// In the order of their components: what lies in a directory comes right after it.
    directories: BTreeMap<PathBuf, Meta>,
    links: Vec<(Name, Vec<u8>, Meta)>,
    /// What both of them take of our memory.
    held: usize,
    /// Written since the disk was looked at.
    unlooked: u64,
    tally: Tally,
    buffer: Vec<u8>,
}

/// A tree that is whole.
pub(crate) struct Grown {
    pub(crate) tally: Tally,
    /// Mode and times of the top, where the stream says them: it gets them when it gets its name.
    pub(crate) top: Option<Meta>,
}

impl<'a> Tree<'a> {
    pub(crate) fn new(
        root: BorrowedFd<'a>,
        shown: &'a Path,
        rules: Rules,
        above: usize,
        stop: &'a Stop,
    ) -> Self {
        Self {
            root,
            shown,
            rules,
            believed: Believed::under(rules),
            stop,
            above,
            trail: Trail::new(root),
            directories: BTreeMap::new(),
            links: Vec::new(),
            held: 0,
            unlooked: 0,
            tally: Tally::default(),
            buffer: vec![0; CHUNK],
        }
    }

    /// Takes in one member.
    pub(crate) fn add(&mut self, member: Member, content: &mut dyn Read) -> Result<(), CopyError> {
        self.stop.check()?;
        let Member { name, kind, meta } = member;
        let meta = self.believed.of(meta);
        match kind {
            Kind::Directory => self.directory(&name, meta)?,
            Kind::File => self.file(&name, &meta, content)?,
            Kind::HardLink(target) => self.hard_link(&name, &target)?,
            Kind::Symlink(target) if !self.rules.links_out && name.link_leads_out(&target, self.above) => {
                let target = Path::new(OsStr::from_bytes(&target)).to_owned();
                self.tally.leave_out(|| {
                    format!(
                        "{}: a link that leads out of the copy, to {}",
                        shown(&name.path()),
                        shown(&target)
                    )
                });
            }
            Kind::Symlink(target) => {
                self.hold(name.held() + target.len())?;
                self.links.push((name, target, meta));
            }
            Kind::Other(what) => {
                self.tally.leave_out(|| format!("{}: {what} is not copied", shown(&name.path())));
            }
        }
        Ok(())
    }

    /// Makes the links, and gives directories their modes and times.
    pub(crate) fn finish(mut self) -> Result<Grown, CopyError> {
        for (name, target, meta) in std::mem::take(&mut self.links) {
            self.stop.check()?;
            self.symlink(&name, &target, &meta)?;
        }
        let top = self.directories.remove(Path::new(""));
        // The deepest first: what is made in a directory changes its time.
        for (path, meta) in std::mem::take(&mut self.directories).into_iter().rev() {
            self.stop.check()?;
            let failed = at_destination("finish", &self.shown.join(&path));
            let directory = self.trail.reach(path.iter());
            directory
                .and_then(|directory| dress_directory(directory.as_fd(), &meta, self.rules.owners))
                .map_err(failed)?;
        }
        if self.rules.sync {
            rustix::fs::syncfs(self.root).map_err(at_destination("write out", self.shown))?;
        }
        Ok(Grown { tally: self.tally, top })
    }

    /// A later word about the same directory is the one that counts.
    fn directory(&mut self, name: &Name, meta: Meta) -> Result<(), CopyError> {
        self.takes(OF_EACH_FILE)?;
        self.open(&name.0, name)?;
        let path = name.path();
        let size = path.as_os_str().len();
        if self.directories.insert(path, meta).is_none() { self.hold(size) } else { Ok(()) }
    }

    /// Remembers so many bytes more.
    fn hold(&mut self, more: usize) -> Result<(), CopyError> {
        self.held += more + HELD_EACH;
        if self.held > HELD_AT_MOST { Err(CopyError::TooMuch(HELD_AT_MOST)) } else { Ok(()) }
    }

    /// So much more of the disk is taken, which may not be its last.
    fn takes(&mut self, more: u64) -> Result<(), CopyError> {
        self.unlooked += more;
        if self.rules.reserve == 0 || self.unlooked < LOOK_EVERY {
            return Ok(());
        }
        self.unlooked = 0;
        let disk = fstatvfs(self.root).map_err(at_destination("look at the disk of", self.shown))?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < self.rules.reserve {
            return Err(CopyError::NoRoom { path: self.shown.to_owned(), least: self.rules.reserve });
        }
        Ok(())
    }

    fn failed<E: Into<io::Error>>(
        &self,
        operation: &'static str,
        name: &Name,
    ) -> impl FnOnce(E) -> CopyError + use<E> {
        at_destination(operation, &self.shown.join(name.path()))
    }

    fn file(&mut self, name: &Name, meta: &Meta, content: &mut dyn Read) -> Result<(), CopyError> {
        self.takes(OF_EACH_FILE)?;
        let (parent, last) = self.parent(name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = || openat(&parent, &last, flags, Mode::RUSR | Mode::WUSR);
        let file = create().or_else(|errno| match errno {
            // A later member of the same name is the one that counts.
            Errno::EXIST => unlinkat(&parent, &last, AtFlags::empty()).and_then(|()| create()),
            errno => Err(errno),
        });
        let mut file = File::from(file.map_err(self.failed("make", name))?);
        loop {
            let length = match content.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(CopyError::Receive(error)),
            };
            self.stop.check()?;
            file.write_all(&self.buffer[..length]).map_err(self.failed("write", name))?;
            self.tally.bytes += length as u64;
            self.takes(length as u64)?;
        }
        self.tally.files += 1;
        dress(file.as_fd(), meta, self.rules.owners).map_err(self.failed("finish", name))
    }

    fn hard_link(&mut self, name: &Name, target: &Name) -> Result<(), CopyError> {
        let Some((last_of_target, above)) = target.split() else {
            return Err(CopyError::Entry { name: shown(&name.path()), reason: "it is a link to nothing" });
        };
        let (parent, last) = self.parent(name)?;
        let from = self.open(above, name)?;
        linkat(from, last_of_target, parent, last, AtFlags::empty()).map_err(self.failed("link", name))?;
        self.tally.files += 1;
        Ok(())
    }

    fn symlink(&mut self, name: &Name, target: &[u8], meta: &Meta) -> Result<(), CopyError> {
        let (parent, last) = self.parent(name)?;
        symlinkat(OsStr::from_bytes(target), &parent, &last).map_err(self.failed("link", name))?;
        if self.rules.owners {
            let (uid, gid) = owner(meta);
            chownat(&parent, &last, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(self.failed("finish", name))?;
        }
        utimensat(&parent, &last, &times(meta), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(self.failed("finish", name))
    }

    /// The directory of a member, made if it is missing, and the member's own name.
    fn parent(&mut self, name: &Name) -> Result<(OwnedFd, CString), CopyError> {
        let nameless = || CopyError::Entry { name: shown(&name.path()), reason: "it has no name" };
        let (last, above) = name.split().ok_or_else(nameless)?;
        let last = CString::new(last.as_bytes()).map_err(|_| nameless())?;
        Ok((self.open(above, name)?, last))
    }

    /// A directory, made if it is missing.
    fn open(&mut self, components: &[OsString], name: &Name) -> Result<OwnedFd, CopyError> {
        let reached = self.trail.reach(components.iter().map(OsString::as_os_str));
        reached.map_err(self.failed("make", name))
    }
}
