//! Modes, owners and times: what of them is believed, and how a file gets them.

use crate::member::Meta;
use crate::tree::Rules;
use rustix::fd::BorrowedFd;
use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid, fchmod, fchown, futimens};
use rustix::io::Errno;

/// Nobody else may write what a guest has sent, whatever the umask is.
const NEVER_BY_OTHERS: u32 = 0o022;

/// The bits of modes that are taken over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Believed {
    bits: u32,
}

impl Believed {
    pub(crate) fn under(rules: Rules) -> Self {
        Self { bits: if rules.special_bits { 0o7777 } else { 0o777 & !(umask() | NEVER_BY_OTHERS) } }
    }

    /// What of it is believed.
    pub(crate) fn of(self, meta: Meta) -> Meta {
        Meta { mode: meta.mode & self.bits, ..meta }
    }
}

/// The caller's umask. The system call that asks for it changes it for all threads, so the kernel's own words are read;
/// a kernel that does not say it leaves us with what is always taken away.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let said = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    said.and_then(|said| u32::from_str_radix(said.trim(), 8).ok()).unwrap_or(0)
}

/// Order matters: a change of owner takes special bits away.
pub(crate) fn dress(file: BorrowedFd<'_>, meta: &Meta, owners: bool) -> Result<(), Errno> {
    if owners {
        let (uid, gid) = owner(meta);
        fchown(file, uid, gid)?;
    }
    fchmod(file, Mode::from_raw_mode(meta.mode))?;
    futimens(file, &times(meta))
}

/// The same for a directory. Whoever is not root could neither move nor remove one that is closed to its owner.
pub(crate) fn dress_directory(file: BorrowedFd<'_>, meta: &Meta, owners: bool) -> Result<(), Errno> {
    let open = if rustix::process::geteuid().is_root() { 0 } else { 0o700 };
    dress(file, &Meta { mode: meta.mode | open, ..*meta }, owners)
}

pub(crate) fn owner(meta: &Meta) -> (Option<Uid>, Option<Gid>) {
    // The number that means "leave it" is nobody's.
    let known = |id: u32| (id != u32::MAX).then_some(id);
    (known(meta.uid).map(Uid::from_raw), known(meta.gid).map(Gid::from_raw))
}

pub(crate) fn times(meta: &Meta) -> Timestamps {
    let modified = Timespec { tv_sec: i64::try_from(meta.modified).unwrap_or(i64::MAX), tv_nsec: 0 };
    Timestamps { last_access: modified, last_modification: modified }
}
