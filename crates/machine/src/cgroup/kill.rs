//! Killing everything in a control group.
//!
//! v2 has `cgroup.kill` (Linux 5.14): nothing in the group escapes it, however fast it forks, frozen or not. Without
//! it processes are killed one by one, each held by a pidfd that was opened while it was a member; what is born
//! meanwhile is for the next look. Not here: when that is right to do.

use super::CgroupError;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io;
use std::path::Path;

/// Sends SIGKILL to everything in the group of that directory. No such group is no error.
pub(super) fn everything_in(directory: &Path) -> Result<(), CgroupError> {
    let killed = match kill_at_once(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => kill_each(directory),
        killed => killed,
    };
    match killed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // The group was removed while its file was open.
        Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => Ok(()),
        killed => killed.map_err(|source| CgroupError::Kill { path: directory.to_owned(), source }),
    }
}

fn kill_at_once(directory: &Path) -> io::Result<()> {
    let file = std::fs::OpenOptions::new().write(true).open(directory.join("cgroup.kill"))?;
    Ok(rustix::io::write(&file, b"1").map(drop)?)
}

fn kill_each(directory: &Path) -> io::Result<()> {
    let mut held = Vec::new();
    for pid in members(directory)? {
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => held.push((pid, pidfd)),
            // It is dead already.
            Err(Errno::SRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    // Order matters: only a pid that is a member's after its pidfd was opened is known to be the one that is held;
    // one that died and was given away in between is held and not listed, or listed and another's, which is a
    // member as well.
    let still = members(directory)?;
    for (pid, pidfd) in held.iter().filter(|(pid, _)| still.contains(pid)) {
        match pidfd_send_signal(pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => {
                let error = io::Error::from(errno);
                return Err(io::Error::new(
                    error.kind(),
                    format!("process {}: {error}", pid.as_raw_nonzero()),
                ));
            }
        }
    }
    Ok(())
}

/// The members of the group, as seen from this process's PID namespace; those outside of it are listed as 0 and
/// left out.
pub(super) fn members(directory: &Path) -> io::Result<Vec<Pid>> {
    let text = std::fs::read_to_string(directory.join("cgroup.procs"))?;
    Ok(text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Child, Command};

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").spawn().unwrap()
    }

    #[test]
    fn members_are_killed_one_by_one_and_nobody_else() {
        let group = tempfile::tempdir().unwrap();
        let (mut inside, mut outside) = (sleeper(), sleeper());
        std::fs::write(group.path().join("cgroup.procs"), format!("0\n{}\n", inside.id())).unwrap();
        everything_in(group.path()).unwrap();
        assert_eq!(inside.wait().unwrap().signal(), Some(9));
        assert!(outside.try_wait().unwrap().is_none());
        outside.kill().unwrap();
        outside.wait().unwrap();
    }

    #[test]
    fn where_the_kernel_can_do_it_at_once_it_is_asked_to() {
        let group = tempfile::tempdir().unwrap();
        std::fs::write(group.path().join("cgroup.kill"), "").unwrap();
        everything_in(group.path()).unwrap();
        assert_eq!(std::fs::read_to_string(group.path().join("cgroup.kill")).unwrap(), "1");
    }

    #[test]
    fn a_group_that_is_not_there_has_nothing_in_it() {
        everything_in(Path::new("/nowhere/at/all")).unwrap();
    }

    #[test]
    fn a_member_that_is_dead_is_no_error() {
        let group = tempfile::tempdir().unwrap();
        let mut dead = sleeper();
        dead.kill().unwrap();
        dead.wait().unwrap();
        std::fs::write(group.path().join("cgroup.procs"), format!("{}\n", dead.id())).unwrap();
        everything_in(group.path()).unwrap();
    }
}
