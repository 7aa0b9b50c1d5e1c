//! The inner half: PID 1. Makes the world the test sees, starts it, reaps every orphan until it ends.

use super::cgroup::Cgroups;
use super::{INSIDE, code_of};
use anyhow::{Context as _, bail};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::process::{Pid, Signal, WaitOptions, set_parent_process_death_signal, wait};
use rustix::thread::UnshareFlags;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Builds the inside, runs the program and returns its exit code. Leaving ends everything that still runs.
///
/// # Errors
/// When a part of the inside cannot be made; the program has not been started then.
pub(super) fn main(arguments: &[OsString]) -> anyhow::Result<u8> {
    let [cgroups, program, rest @ ..] = arguments else { bail!("this role is not for people") };
    // A dead `outside` means that nobody waits for us; then nothing of the test may go on.
    set_parent_process_death_signal(Some(Signal::KILL)).context("ask for a signal when the parent dies")?;
    expect_parent(cgroups)?;
    build(&Cgroups::named(cgroups))?;
    let child = Command::new(program).args(rest).env(INSIDE, "1").spawn();
    let child = child.with_context(|| format!("start {}", Path::new(program).display()))?;
    reap_until(Pid::from_child(&child))
}

/// That `outside` still lives: one that died before we asked for the signal never sends it.
///
/// For a PID 1 getppid(2) is always 0. /proc is still the one of `outside` and shows the parent as that sees it,
/// and the cgroups carry that pid in their name; an orphan has another parent.
fn expect_parent(outside: &OsStr) -> anyhow::Result<()> {
    let status = fs::read_to_string("/proc/self/status").context("read who the parent is")?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).map(str::trim);
    if parent.is_some_and(|parent| outside == parent) {
        return Ok(());
    }
    bail!("the outer half, {}, is gone: the parent is {parent:?}", Path::new(outside).display())
}

fn build(cgroups: &Cgroups) -> anyhow::Result<()> {
    cgroups.join().context("join the test's cgroups")?;
    let namespaces = UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    #[expect(deprecated, reason = "the sound subset: no CLONE_FILES, and this process has one thread")]
    rustix::thread::unshare(namespaces).context("make the test's namespaces")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("make mounts private")?;
    leave_others_work()?;
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", plain, None).context("mount /proc")?;
    // Shared memory, sockets and scratch files of the host are not the test's. /tmp stays: labs are made there.
    for (path, mode) in [("/dev/shm", c"mode=1777"), ("/run", c"mode=0755"), ("/var/tmp", c"mode=1777")] {
        mount("tmpfs", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(mode))
            .with_context(|| format!("mount {path}"))?;
    }
    cgroups.become_root().context("make the test's cgroup the root it sees")
}

/// Takes our copies of what others have mounted for the while, such as the trees that images are made in, out of
/// the test's sight: they vanish from here, too, when their makers remove the directories below them.
fn leave_others_work() -> anyhow::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read the mounts")?;
    let usual = ["/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp"];
    // Those inside of others come later, and go first.
    for line in mounts.lines().rev() {
        let mut fields = line.split(' ').skip(1);
        let (Some(point), Some(kind)) = (fields.next(), fields.next()) else { continue };
        let is_usual = usual.iter().any(|usual| Path::new(point).starts_with(usual));
        if matches!(kind, "proc" | "sysfs" | "devpts" | "tmpfs") && !is_usual {
            // What cannot be taken away is seen, and may be taken for something that vanished.
            let _ = unmount(point, UnmountFlags::DETACH);
        }
    }
    Ok(())
}

/// Waits for every child there is, ours and the orphans', until `test` ends.
fn reap_until(test: Pid) -> anyhow::Result<u8> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == test => {
                return Ok(code_of(status.exit_status(), status.terminating_signal()));
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for the test"),
        }
    }
}
