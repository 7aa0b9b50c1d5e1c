//! The namespaces of a runner: left by its launcher, furnished by itself.
//!
//! The launcher unshares and then starts the runner, which is thereby PID 1 of the new PID namespace: when it
//! dies, the kernel kills everything in there and takes mounts and network along. Nothing here is undone: the
//! kernel is the janitor. The VMM's own mount namespace is made in [`crate::jail`].
//!
//! An ordinary user may make such namespaces only inside a user namespace of its own, which is made in the same
//! step and owns the others. One id is mapped in it, the user's own, to 0: what mounts and pivots in there needs the
//! capabilities of that namespace, and a program keeps them over execve(2) only as its superuser. Outside it
//! is the user all the while: its files, sockets and signals are the user's, and it may do nothing that the user may not.

use crate::{host, sys};
use rustix::fs::Mode;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{getegid, geteuid, umask};
use rustix::thread::UnshareFlags;
use std::fmt;
use std::io;
use std::path::Path;
use thiserror::Error;

/// The runner's namespaces could not be made or furnished.
#[derive(Debug, Error)]
pub enum NamespaceError {
    /// New namespaces were refused.
    #[error("cannot make new PID, mount, network, IPC and UTS namespaces")]
    Unshare(#[source] io::Error),
    /// A user namespace with them was refused.
    #[error("cannot make a user namespace")]
    User(#[source] io::Error),
    /// The user's id could not be mapped.
    #[error("cannot map this user's id with {path}")]
    Map {
        /// The file.
        path: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// We are not PID 1, so our death would not take the VMM along.
    #[error("this process is {pid}, not the first of a PID namespace")]
    NotInit {
        /// What we are.
        pid: u32,
    },
    /// The mounts still lead back to the host's.
    #[error("cannot make the mounts followers of the host's")]
    Follow(#[source] io::Error),
    /// The new namespace's /proc could not be mounted.
    #[error("cannot mount /proc")]
    Proc(#[source] io::Error),
}

/// In the launcher: the next child this process starts is PID 1 of a new PID namespace, and everything from
/// here on happens in new mount, network, IPC and UTS namespaces, of which the mounts follow the host's.
///
/// Order matters: launcher and runner share the new mount namespace, in which the runner covers /proc with its
/// own. So the launcher reads the host's /proc about its child first and lets the child go on only then.
pub fn unshare_for_runner() -> Result<(), NamespaceError> {
    let flags = UnshareFlags::NEWPID
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS;
    if host::is_root() {
        sys::unshare(flags).map_err(NamespaceError::Unshare)?;
    } else {
        unshare_as_user(flags)?;
    }
    follow_the_host()
}

/// Makes the namespaces in a user namespace in which this user is 0 and nobody else is anybody.
fn unshare_as_user(flags: UnshareFlags) -> Result<(), NamespaceError> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    sys::unshare(flags | UnshareFlags::NEWUSER).map_err(NamespaceError::User)?;
    let write = |path: &'static str, text: String| {
        std::fs::write(path, text).map_err(|source| NamespaceError::Map { path, source })
    };
    // Order matters: a group is mapped only when nobody in there can give up groups any more, by which a user could get
    // at what is forbidden to one of its groups (user_namespaces(7)).
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// Something on this host that keeps ordinary users from having user namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ban {
    /// Nobody may have any.
    NoneAllowed,
    /// Debian's and Ubuntu's switch is off.
    SwitchedOff,
    /// Ubuntu's AppArmor takes away what they are for, unless a profile says otherwise.
    AppArmor,
}

impl Ban {
    /// What to type.
    pub const fn fix(self) -> &'static str {
        match self {
            Self::NoneAllowed => "sudo sysctl user.max_user_namespaces=10000",
            Self::SwitchedOff => "sudo sysctl kernel.unprivileged_userns_clone=1",
            Self::AppArmor => {
                "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile with 'userns,' \
                 for outlast-runner"
            }
        }
    }
}

impl fmt::Display for Ban {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::NoneAllowed => "user namespaces are forbidden (user.max_user_namespaces is 0)",
            Self::SwitchedOff => {
                "user namespaces are forbidden to ordinary users (kernel.unprivileged_userns_clone is 0)"
            }
            Self::AppArmor => {
                "user namespaces are restricted by AppArmor (kernel.apparmor_restrict_unprivileged_userns is 1)"
            }
        })
    }
}

/// What the host's settings say against user namespaces of ordinary users. Whether they work is told by
/// [`unshare_for_runner`] alone: this says why not.
pub fn ban() -> Option<Ban> {
    ban_in(Path::new("/proc/sys"))
}

fn ban_in(settings: &Path) -> Option<Ban> {
    let is = |name: &str, value: &str| {
        std::fs::read_to_string(settings.join(name)).is_ok_and(|text| text.trim() == value)
    };
    let bans = [
        ("user/max_user_namespaces", "0", Ban::NoneAllowed),
        ("kernel/unprivileged_userns_clone", "0", Ban::SwitchedOff),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", Ban::AppArmor),
    ];
    bans.into_iter().find(|(name, value, _)| is(name, value)).map(|(_, _, ban)| ban)
}

/// In the runner: checks that it is PID 1, lets no mount of its own reach the host, mounts a /proc that shows
/// its own PID namespace, and sets the umask so that whatever it makes is its owner's alone.
pub fn become_init() -> Result<(), NamespaceError> {
    let pid = std::process::id();
    if pid != 1 {
        return Err(NamespaceError::NotInit { pid });
    }
    follow_the_host()?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", flags, None).map_err(|errno| NamespaceError::Proc(errno.into()))?;
    umask(Mode::RWXG | Mode::RWXO);
    Ok(())
}

/// What is mounted here from now on stays here, and what the host unmounts goes here too: private copies of the
/// host's mounts would keep its disks and network shares busy for as long as a runner lives.
fn follow_the_host() -> Result<(), NamespaceError> {
    let follow = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", follow).map_err(|errno| NamespaceError::Follow(errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pid_one_becomes_init() {
        assert!(matches!(become_init(), Err(NamespaceError::NotInit { .. })));
    }

    #[test]
    fn every_ban_is_read_from_its_setting() {
        let top = tempfile::tempdir().unwrap();
        for directory in ["user", "kernel"] {
            std::fs::create_dir(top.path().join(directory)).unwrap();
        }
        let set = |name: &str, value: &str| std::fs::write(top.path().join(name), value).unwrap();
        assert_eq!(ban_in(top.path()), None, "settings that a kernel does not have forbid nothing");
        set("user/max_user_namespaces", "95000\n");
        set("kernel/unprivileged_userns_clone", "1\n");
        set("kernel/apparmor_restrict_unprivileged_userns", "0\n");
        assert_eq!(ban_in(top.path()), None);
        set("kernel/apparmor_restrict_unprivileged_userns", "1\n");
        assert_eq!(ban_in(top.path()), Some(Ban::AppArmor));
        set("kernel/unprivileged_userns_clone", "0\n");
        assert_eq!(ban_in(top.path()), Some(Ban::SwitchedOff));
        set("user/max_user_namespaces", "0\n");
        assert_eq!(ban_in(top.path()), Some(Ban::NoneAllowed));
    }
}
