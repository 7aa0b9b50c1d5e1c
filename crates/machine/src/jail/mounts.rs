//! What a VMM sees of files: a mount namespace with the VMM root, its incarnation's files and devices, all sealed.
//!
//! Not responsible for who the VMM is ([`super::identity`]) nor for what it may ask of the kernel
//! ([`super::filter`]).

use super::{BoundFile, FILES, FileAccess, JailError, JailSpec, failed, step};
use crate::sys;
use rustix::fs::{CWD, FileType, Mode, StatVfsMountFlags, Uid, chown, mknodat, statvfs};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_remount, unmount,
};
use rustix::process::umask;
use rustix::thread::UnshareFlags;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};

/// Directories of a VMM root that are not shown: the jail has its own, or none.
const HIDDEN: [&str; 7] = ["dev", "proc", "run", "sys", "tmp", "vm", "home"];

/// Builds what `spec` says and makes it this process's root. What the VMM is to write is given to `owner`.
pub(super) fn build(spec: &JailSpec, owner: Option<Uid>) -> Result<(), JailError> {
    // The directories made here must be passable for a VMM that does not own them.
    umask(Mode::WGRP | Mode::WOTH);
    sys::unshare(UnshareFlags::NEWNS).map_err(step("unshare the mounts of", &spec.stage))?;
    // Nothing that is mounted below reaches the runner or the host, and what the host unmounts meanwhile is not
    // kept busy by a copy of ours.
    change_mounts(MountPropagationFlags::DOWNSTREAM)?;

    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("outlast-jail", &spec.stage, "tmpfs", flags, c"mode=0755,size=64k,nr_inodes=256")
        .map_err(failed("mount a tmpfs on", &spec.stage))?;
    show_root(&spec.root, &spec.stage)?;
    show_files(&spec.files, &spec.stage, owner)?;
    show_devices(&spec.devices, &spec.stage, owner)?;
    mount_remount(&spec.stage, MountFlags::BIND | MountFlags::RDONLY | flags, c"")
        .map_err(failed("seal", &spec.stage))?;
    pivot(&spec.stage)?;
    // Only what the spec names is left: from here on the host mounts nothing into it.
    change_mounts(MountPropagationFlags::PRIVATE)
}

fn change_mounts(propagation: MountPropagationFlags) -> Result<(), JailError> {
    mount_change("/", propagation | MountPropagationFlags::REC)
        .map_err(failed("change the propagation of", Path::new("/")))
}

/// The top of the VMM root: its directories bound read-only, its links (usr-merge) made again.
fn show_root(root: &Path, stage: &Path) -> Result<(), JailError> {
    for entry in fs::read_dir(root).map_err(step("list", root))? {
        let entry = entry.map_err(step("list", root))?;
        let (source, target) = (entry.path(), stage.join(entry.file_name()));
        let kind = entry.file_type().map_err(step("look at", &source))?;
        if HIDDEN.iter().any(|hidden| entry.file_name() == *hidden) {
            continue;
        }
        if kind.is_symlink() {
            let destination = fs::read_link(&source).map_err(step("read the link", &source))?;
            std::os::unix::fs::symlink(destination, &target).map_err(step("make the link", &target))?;
        } else if kind.is_dir() {
            fs::create_dir(&target).map_err(step("make", &target))?;
            let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
            bind(&source, &target, flags)?;
        }
    }
    Ok(())
}

fn show_files(files: &[BoundFile], stage: &Path, owner: Option<Uid>) -> Result<(), JailError> {
    let directory = stage.join(FILES.trim_start_matches('/'));
    fs::create_dir(&directory).map_err(step("make", &directory))?;
    for file in files {
        let target = directory.join(plain_name(&file.name)?);
        File::create(&target).map_err(step("make", &target))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        match file.access {
            FileAccess::Read => bind(&file.source, &target, flags | MountFlags::RDONLY)?,
            FileAccess::Write => {
                chown(&file.source, owner, None).map_err(failed("give away", &file.source))?;
                bind(&file.source, &target, flags)?;
            }
        }
    }
    Ok(())
}

fn show_devices(devices: &[String], stage: &Path, owner: Option<Uid>) -> Result<(), JailError> {
    let directory = stage.join("dev");
    fs::create_dir(&directory).map_err(step("make", &directory))?;
    if devices.is_empty() {
        return Ok(());
    }
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("outlast-dev", &directory, "tmpfs", flags, c"mode=0755,size=64k,nr_inodes=16")
        .map_err(failed("mount a tmpfs on", &directory))?;
    for device in devices {
        let name = plain_name(device)?;
        let (source, target) = (Path::new("/dev").join(name), directory.join(name));
        if let Some(owner) = owner {
            copy_device(&source, &target, owner)?;
        } else {
            File::create(&target).map_err(step("make", &target))?;
            bind(&source, &target, flags)?;
        }
    }
    mount_remount(&directory, MountFlags::BIND | MountFlags::RDONLY | flags, c"")
        .map_err(failed("seal", &directory))
}

/// The same device under a name of its own: the host's is for its owner and group, to whom the VMM does not belong.
fn copy_device(source: &Path, target: &Path, owner: Uid) -> Result<(), JailError> {
    let number = fs::metadata(source).map_err(step("look at", source))?.rdev();
    mknodat(CWD, target, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, number)
        .map_err(failed("make the device", target))?;
    chown(target, Some(owner), None).map_err(failed("give away", target))
}

/// A bind mount takes its flags only when it is mounted a second time.
fn bind(source: &Path, target: &Path, flags: MountFlags) -> Result<(), JailError> {
    mount_bind(source, target).map_err(failed("bind", source))?;
    let kept = kept_flags(target).map_err(failed("look at", source))?;
    mount_remount(target, MountFlags::BIND | flags | kept, c"").map_err(failed("restrict", source))
}

/// What the mount forbids already. In a user namespace the kernel refuses to have any of it left out.
fn kept_flags(target: &Path) -> rustix::io::Result<MountFlags> {
    let found = statvfs(target)?.f_flag;
    let pairs = [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
    ];
    let kept = pairs.into_iter().filter(|(seen, _)| found.contains(*seen)).map(|(_, flag)| flag);
    Ok(kept.fold(MountFlags::empty(), |all, flag| all | flag))
}

/// Makes the stage the root, and the old root unreachable.
fn pivot(stage: &Path) -> Result<(), JailError> {
    rustix::process::chdir(stage).map_err(failed("enter", stage))?;
    // Both arguments the same: the old root ends up on top of the new one (pivot_root(2), last example) and
    // no directory is needed for it.
    rustix::process::pivot_root(".", ".").map_err(failed("pivot into", stage))?;
    unmount(".", UnmountFlags::DETACH).map_err(failed("let go of the old root of", stage))?;
    rustix::process::chdir("/").map_err(failed("enter", Path::new("/")))
}

fn plain_name(name: &str) -> Result<&str, JailError> {
    let mut components = Path::new(name).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(only)), None) if only == name => Ok(name),
        _ => Err(JailError::Name { name: name.chars().take(80).collect() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["", ".", "..", "a/b", "/etc", "a/", "./a"] {
            assert!(plain_name(name).is_err(), "{name}");
        }
        assert_eq!(plain_name("kernel").unwrap(), "kernel");
    }
}
