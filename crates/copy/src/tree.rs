//! Members become files below a directory that is ours alone. No link is there while files are written, and none is
//! followed; modes and times of directories come last, because writing in them would change them.

use crate::Tally;
use crate::error::{CopyError, at_destination, shown};
use crate::member::{Kind, Member, Meta};
use crate::name::Name;
use crate::partial::open_directory;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, chownat, fchmod, fchown, futimens, linkat,
    mkdirat, openat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Moved at once.
const CHUNK: usize = 128 * 1024;

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
    /// Whether what came is written out before it is published.
    pub sync: bool,
}

impl Rules {
    /// Of a host for what a guest sends: plain files of the receiver's own, and nothing that leads elsewhere.
    pub const HOSTILE: Self =
        Self { owners: false, special_bits: false, links_out: false, follow: false, sync: false };
    /// Of a guest for what its host sends.
    pub const TRUSTED: Self =
        Self { owners: true, special_bits: true, links_out: true, follow: true, sync: true };
}

/// The directory that is being filled.
pub(crate) struct Tree<'a> {
    root: BorrowedFd<'a>,
    /// For errors: what the destination is called.
    shown: &'a Path,
    rules: Rules,
    /// How many components lie above what is one tree: its own name, where it has one.
    above: usize,
    /// The directory of the last member.
    last: Option<(Vec<OsString>, OwnedFd)>,
    directories: Vec<(Name, Meta)>,
    links: Vec<(Name, Vec<u8>, Meta)>,
    tally: Tally,
    buffer: Vec<u8>,
}

impl<'a> Tree<'a> {
    pub(crate) fn new(root: BorrowedFd<'a>, shown: &'a Path, rules: Rules, above: usize) -> Self {
        Self {
            root,
            shown,
            rules,
            above,
            last: None,
            directories: Vec::new(),
            links: Vec::new(),
            tally: Tally::default(),
            buffer: vec![0; CHUNK],
        }
    }

    /// Takes in one member.
    pub(crate) fn add(&mut self, member: Member, content: &mut dyn Read) -> Result<(), CopyError> {
        let Member { name, kind, meta } = member;
        match kind {
            Kind::Directory => {
                self.open(&name.0, &name)?;
                self.directories.push((name, meta));
            }
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
            Kind::Symlink(target) => self.links.push((name, target, meta)),
            Kind::Other(what) => {
                self.tally.leave_out(|| format!("{}: {what} is not copied", shown(&name.path())));
            }
        }
        Ok(())
    }

    /// Makes the links, and gives directories their modes and times.
    pub(crate) fn finish(mut self) -> Result<Tally, CopyError> {
        for (name, target, meta) in std::mem::take(&mut self.links) {
            self.symlink(&name, &target, &meta)?;
        }
        self.last = None;
        // The deepest first: what is made in a directory changes its time.
        for (name, meta) in std::mem::take(&mut self.directories).into_iter().rev() {
            let directory = self.walk(&name.0, &name)?;
            let mut meta = meta;
            if !rustix::process::geteuid().is_root() {
                // Whoever is not root could neither move nor remove it otherwise.
                meta.mode |= 0o700;
            }
            self.dress(directory.as_fd(), &meta).map_err(self.failed("finish", &name))?;
        }
        if self.rules.sync {
            rustix::fs::syncfs(self.root).map_err(at_destination("write out", self.shown))?;
        }
        Ok(self.tally)
    }

    fn failed<E: Into<io::Error>>(
        &self,
        operation: &'static str,
        name: &Name,
    ) -> impl FnOnce(E) -> CopyError + use<E> {
        at_destination(operation, &self.shown.join(name.path()))
    }

    fn file(&mut self, name: &Name, meta: &Meta, content: &mut dyn Read) -> Result<(), CopyError> {
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
            file.write_all(&self.buffer[..length]).map_err(self.failed("write", name))?;
            self.tally.bytes += length as u64;
        }
        self.tally.files += 1;
        self.dress(file.as_fd(), meta).map_err(self.failed("finish", name))
    }

    fn hard_link(&mut self, name: &Name, target: &Name) -> Result<(), CopyError> {
        let Some((last_of_target, above)) = target.split() else {
            return Err(CopyError::Entry { name: shown(&name.path()), reason: "it is a link to nothing" });
        };
        let (parent, last) = self.parent(name)?;
        let from = self.walk(above, name)?;
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
        let again = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 0);
        if let Some((_, fd)) = self.last.as_ref().filter(|(last, _)| last == components) {
            return again(fd).map_err(self.failed("open", name));
        }
        let directory = self.walk(components, name)?;
        self.last = Some((components.to_vec(), again(&directory).map_err(self.failed("open", name))?));
        Ok(directory)
    }

    fn walk(&self, components: &[OsString], name: &Name) -> Result<OwnedFd, CopyError> {
        let top = rustix::io::fcntl_dupfd_cloexec(self.root, 0).map_err(self.failed("open", name))?;
        components.iter().try_fold(top, |directory, component| {
            let component = CString::new(component.as_bytes()).unwrap_or_default();
            match mkdirat(&directory, &component, Mode::RWXU) {
                // If it is no directory, it cannot be opened as one.
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(self.failed("make", name)(errno)),
            }
            open_directory(directory.as_fd(), &component).map_err(self.failed("open", name))
        })
    }

    /// Order matters: a change of owner takes special bits away.
    fn dress(&self, file: BorrowedFd<'_>, meta: &Meta) -> Result<(), Errno> {
        if self.rules.owners {
            let (uid, gid) = owner(meta);
            fchown(file, uid, gid)?;
        }
        let bits = if self.rules.special_bits { 0o7777 } else { 0o777 };
        fchmod(file, Mode::from_raw_mode(meta.mode & bits))?;
        futimens(file, &times(meta))
    }
}

fn owner(meta: &Meta) -> (Option<Uid>, Option<Gid>) {
    // The number that means "leave it" is nobody's.
    let known = |id: u32| (id != u32::MAX).then_some(id);
    (known(meta.uid).map(Uid::from_raw), known(meta.gid).map(Gid::from_raw))
}

fn times(meta: &Meta) -> Timestamps {
    let modified = Timespec { tv_sec: i64::try_from(meta.modified).unwrap_or(i64::MAX), tv_nsec: 0 };
    Timestamps { last_access: modified, last_modification: modified }
}
