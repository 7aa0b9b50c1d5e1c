//! The namespaces of a runner: left by its launcher, furnished by itself.
//!
//! The launcher unshares and then starts the runner, which is thereby PID 1 of the new PID namespace: when it
//! dies, the kernel kills everything in there and takes mounts and network along. Nothing here is undone: the
//! kernel is the janitor. The VMM's own mount namespace is made in [`crate::jail`].

use crate::sys;
use rustix::fs::Mode;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::umask;
use rustix::thread::UnshareFlags;
use std::io;
use thiserror::Error;

/// The runner's namespaces could not be made or furnished.
#[derive(Debug, Error)]
pub enum NamespaceError {
    /// New namespaces were refused.
    #[error("cannot make new PID, mount, network, IPC and UTS namespaces")]
    Unshare(#[source] io::Error),
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
    sys::unshare(flags).map_err(NamespaceError::Unshare)?;
    follow_the_host()
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
}
