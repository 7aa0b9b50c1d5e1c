//! From the kernel's first program to a root file system like a host's.
//!
//! ```text
//!   /payload (squashfs)  what is under test  ┐
//!   /system  (squashfs)  Debian              ├─ overlay ─► /root ─► moved to /, entered
//!   /scratch (tmpfs)     all writes          ┘
//! ```

use super::{program, suite, systemd};
use crate::guest_lab::initramfs::MODULES;
use crate::guest_lab::suite::Cgroups;
use anyhow::Context as _;
use rustix::cstr;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::process::{Pid, WaitOptions, chdir, chroot, wait};
use std::ffi::CStr;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// The first disk QEMU was given, and the second.
const SYSTEM_DISK: &str = "/dev/vda";
const PAYLOAD_DISK: &str = "/dev/vdb";

/// `/init`: does not return when it succeeds.
pub(super) fn enter_root() -> anyhow::Result<()> {
    for (kind, path) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        place(kind, kind, path, MountFlags::empty(), None)?;
    }
    load_modules()?;
    place(SYSTEM_DISK, "squashfs", "/system", MountFlags::RDONLY, None)?;
    place(PAYLOAD_DISK, "squashfs", "/payload", MountFlags::RDONLY, None)?;
    place("tmpfs", "tmpfs", "/scratch", MountFlags::empty(), Some(c"size=100%"))?;
    fs::create_dir_all("/scratch/upper")?;
    fs::create_dir_all("/scratch/work")?;
    let layers = c"lowerdir=/payload:/system,upperdir=/scratch/upper,workdir=/scratch/work";
    place("overlay", "overlay", "/root", MountFlags::empty(), Some(layers))?;
    for path in ["/dev", "/proc", "/sys"] {
        mount_move(path, Path::new("/root").join(&path[1..])).with_context(|| format!("move {path}"))?;
    }
    chdir("/root").context("enter the root")?;
    // Moved, not pivoted: the initramfs cannot be left otherwise (ramfs-rootfs-initramfs.rst).
    mount_move(".", "/").context("move the root")?;
    chroot(".").context("enter the root")?;
    chdir("/").context("enter the root")?;
    let first = if suite()?.begins_with_systemd() {
        systemd::prepare()?;
        Command::new(systemd::PROGRAM).exec()
    } else {
        Command::new(program()).arg("first").exec()
    };
    Err(first).context("execute PID 1 of the root")
}

/// PID 1 of the root: returns when the cases have ended without powering off.
pub(super) fn be_first() -> anyhow::Result<()> {
    let suite = suite()?;
    let plain = MountFlags::NOSUID | MountFlags::NODEV;
    for (path, mode) in [
        ("/dev/shm", c"mode=1777"),
        ("/run", c"mode=0755"),
        ("/tmp", c"mode=1777"),
        ("/var/tmp", c"mode=1777"),
    ] {
        fs::create_dir_all(path)?;
        place("tmpfs", "tmpfs", path, plain, Some(mode))?;
    }
    mount_cgroups(suite.cgroups())?;
    let child = Command::new(program()).arg("cases").spawn().context("start the cases")?;
    let child = Pid::from_child(&child);
    // Whatever becomes an orphan in here is ours to reap.
    while !matches!(wait(WaitOptions::empty()), Ok(Some((pid, _))) if pid == child) {}
    Ok(())
}

fn mount_cgroups(how: Cgroups) -> anyhow::Result<()> {
    const TOP: &str = "/sys/fs/cgroup";
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    match how {
        Cgroups::V2 => place("cgroup2", "cgroup2", TOP, plain, None),
        Cgroups::Hybrid => {
            place("tmpfs", "tmpfs", TOP, plain, Some(c"mode=0755"))?;
            let (memory, unified) = (format!("{TOP}/memory"), format!("{TOP}/unified"));
            fs::create_dir(&memory)?;
            fs::create_dir(&unified)?;
            place("cgroup", "cgroup", &memory, plain, Some(c"memory"))?;
            place("cgroup2", "cgroup2", &unified, plain, None)
        }
    }
}

fn load_modules() -> anyhow::Result<()> {
    let mut files: Vec<_> = fs::read_dir(MODULES)?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    for path in files {
        let file = fs::File::open(&path)?;
        match rustix::system::finit_module(&file, cstr!(""), 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).with_context(|| format!("load {}", path.display())),
        }
    }
    Ok(())
}

fn place(from: &str, kind: &str, to: &str, flags: MountFlags, options: Option<&CStr>) -> anyhow::Result<()> {
    mount(from, to, kind, flags, options).with_context(|| format!("mount {from} at {to}"))
}
