//! The jail of a VMM: a mount namespace in which nothing exists but the VMM and its incarnation's files.
//!
//! The runner starts its own executable with the subcommand `jail` and a [`JailSpec`] as JSON in an inherited
//! descriptor. That process builds the jail around itself and becomes the VMM:
//!
//! ```text
//!   read spec → unshare mounts → tmpfs → bind VMM root, files, devices → seal → pivot → close → execve
//! ```
//!
//! What the VMM sees afterwards:
//!
//! ```text
//!   /            tmpfs, sealed read-only
//!   /usr /etc …  the VMM root, read-only
//!   /vm/NAME     each file of the incarnation, read-only unless it is a template's memory being made
//!   /dev/NAME    the devices asked for
//! ```
//!
//! There is no /proc, /sys or /tmp and nothing that can be written but what the spec names. Further steps
//! (unprivileged uid, capabilities, seccomp, Landlock, limits) are further fields here and go between *pivot*
//! and *execve*. Not responsible for which files and descriptors a VMM needs: its driver says so.

use crate::sys;
use rustix::fd::{OwnedFd, RawFd};
use rustix::fs::{MemfdFlags, SealFlags, memfd_create};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_remount, unmount,
};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use thiserror::Error;

/// The subcommand of the runner that calls [`enter`].
pub const SUBCOMMAND: &str = "jail";
/// The option before the number of the descriptor that holds the specification.
pub const SPEC_OPTION: &str = "--spec-fd";
/// The exit code of a jail that could not be built. QEMU itself exits with 1.
pub const FAILED: u8 = 125;
/// The directory in the jail that holds the incarnation's files.
pub const FILES: &str = "/vm";
/// A specification is a few kilobytes; one that is longer was not written by us.
const LONGEST_SPEC: u64 = 1024 * 1024;
/// Directories of a VMM root that are not shown: the jail has its own, or none.
const HIDDEN: [&str; 7] = ["dev", "proc", "run", "sys", "tmp", "vm", "home"];

/// What a jail is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JailSpec {
    /// The VMM root's directory.
    pub root: PathBuf,
    /// An existing directory to build the jail on. What is in it is covered for the VMM alone.
    pub stage: PathBuf,
    /// The files shown in [`FILES`].
    pub files: Vec<BoundFile>,
    /// Names of devices of the host's /dev that are shown: `null`, `kvm`.
    pub devices: Vec<String>,
    /// Descriptors that stay open, beside the standard streams.
    pub descriptors: Vec<RawFd>,
    /// The VMM's path in the jail.
    pub program: PathBuf,
    /// Its arguments, without its name. Its environment is empty.
    pub arguments: Vec<String>,
}

/// A file shown to the VMM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoundFile {
    /// Where it is on the host.
    pub source: PathBuf,
    /// What it is called in [`FILES`]: one path component.
    pub name: String,
    /// What may be done with it.
    pub access: FileAccess,
}

/// What a VMM may do with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileAccess {
    /// Read it.
    Read,
    /// Read and write it.
    Write,
}

/// A jail could not be built.
#[derive(Debug, Error)]
pub enum JailError {
    /// The specification could not be handed over or taken.
    #[error("cannot pass the jail's specification")]
    Pass(#[source] io::Error),
    /// The specification is not one.
    #[error("the jail's specification makes no sense")]
    Spec(#[source] serde_json::Error),
    /// A name in the specification is not a plain file name.
    #[error("'{name}' is not the name of a file in the jail")]
    Name {
        /// The name.
        name: String,
    },
    /// A step on the way failed.
    #[error("cannot {step} {path}")]
    Step {
        /// What was to be done.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Everything stood, and the VMM could not be executed.
    #[error("cannot execute {program}")]
    Execute {
        /// Its path in the jail.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl BoundFile {
    /// A file that is only read.
    pub fn read(source: &Path, name: &str) -> Self {
        Self { source: source.to_owned(), name: name.to_owned(), access: FileAccess::Read }
    }

    /// A file that is read and written.
    pub fn write(source: &Path, name: &str) -> Self {
        Self { access: FileAccess::Write, ..Self::read(source, name) }
    }

    /// Its path in the jail.
    pub fn inside(&self) -> String {
        format!("{FILES}/{}", self.name)
    }
}

/// The command that builds the jail: `PROGRAM jail --spec-fd N`. The descriptors named in the spec must be
/// among `descriptors`, which the command owns from now on.
///
/// # Errors
/// The specification could not be written to memory.
pub fn command(program: &Path, spec: &JailSpec, mut descriptors: Vec<OwnedFd>) -> Result<Command, JailError> {
    let sheet = written(spec)?;
    let mut command = Command::new(program);
    command.arg(SUBCOMMAND).arg(SPEC_OPTION).arg(sys::number_of(&sheet).to_string()).env_clear();
    descriptors.push(sheet);
    sys::inherit(&mut command, descriptors);
    Ok(command)
}

/// The specification in a sealed piece of memory: whoever reads it reads what was written.
fn written(spec: &JailSpec) -> Result<OwnedFd, JailError> {
    let text = serde_json::to_vec(spec).map_err(JailError::Spec)?;
    let make = || -> io::Result<OwnedFd> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut sheet = File::from(memfd_create("outlast-jail", flags)?);
        sheet.write_all(&text)?;
        sheet.seek(SeekFrom::Start(0))?;
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        rustix::fs::fcntl_add_seals(&sheet, seals)?;
        Ok(sheet.into())
    };
    make().map_err(JailError::Pass)
}

/// In the child: takes the specification from the inherited descriptor, builds the jail around this process
/// and becomes the VMM. Returns only when that failed; the process must then exit with [`FAILED`], for it is
/// half a jail.
pub fn enter(spec_descriptor: RawFd) -> JailError {
    let result = sys::take_inherited(spec_descriptor).map_err(JailError::Pass).and_then(|descriptor| {
        let mut text = Vec::new();
        File::from(descriptor).take(LONGEST_SPEC).read_to_end(&mut text).map_err(JailError::Pass)?;
        exec(&serde_json::from_slice(&text).map_err(JailError::Spec)?)
    });
    match result {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// Builds the jail around this process and becomes the VMM.
pub fn exec(spec: &JailSpec) -> Result<Infallible, JailError> {
    build(spec)?;
    // Order matters: after this line nothing that was open before is, so it is the last before the VMM.
    sys::close_all_except(&spec.descriptors).map_err(step("close descriptors of", &spec.stage))?;
    let source = Command::new(&spec.program).args(&spec.arguments).env_clear().exec();
    Err(JailError::Execute { program: spec.program.clone(), source })
}

fn build(spec: &JailSpec) -> Result<(), JailError> {
    sys::unshare(UnshareFlags::NEWNS).map_err(step("unshare the mounts of", &spec.stage))?;
    // Nothing that is mounted below reaches the runner or the host, and what the host unmounts meanwhile is not
    // kept busy by a copy of ours.
    change_mounts(MountPropagationFlags::DOWNSTREAM)?;

    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("outlast-jail", &spec.stage, "tmpfs", flags, c"mode=0755,size=64k,nr_inodes=256")
        .map_err(failed("mount a tmpfs on", &spec.stage))?;
    show_root(&spec.root, &spec.stage)?;
    show_files(&spec.files, &spec.stage)?;
    show_devices(&spec.devices, &spec.stage)?;
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

fn show_files(files: &[BoundFile], stage: &Path) -> Result<(), JailError> {
    let directory = stage.join(FILES.trim_start_matches('/'));
    fs::create_dir(&directory).map_err(step("make", &directory))?;
    for file in files {
        let target = directory.join(plain_name(&file.name)?);
        File::create(&target).map_err(step("make", &target))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        match file.access {
            FileAccess::Read => bind(&file.source, &target, flags | MountFlags::RDONLY)?,
            FileAccess::Write => bind(&file.source, &target, flags)?,
        }
    }
    Ok(())
}

fn show_devices(devices: &[String], stage: &Path) -> Result<(), JailError> {
    let directory = stage.join("dev");
    fs::create_dir(&directory).map_err(step("make", &directory))?;
    for device in devices {
        let name = plain_name(device)?;
        let target = directory.join(name);
        File::create(&target).map_err(step("make", &target))?;
        bind(&Path::new("/dev").join(name), &target, MountFlags::NOSUID | MountFlags::NOEXEC)?;
    }
    Ok(())
}

/// A bind mount takes its flags only when it is mounted a second time.
fn bind(source: &Path, target: &Path, flags: MountFlags) -> Result<(), JailError> {
    mount_bind(source, target).map_err(failed("bind", source))?;
    mount_remount(target, MountFlags::BIND | flags, c"").map_err(failed("restrict", source))
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

fn step(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JailError {
    let path = path.to_owned();
    move |source| JailError::Step { step, path, source }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(rustix::io::Errno) -> JailError {
    let step = step(what, path);
    move |errno| step(errno.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> JailSpec {
        JailSpec {
            root: "/r".into(),
            stage: "/s".into(),
            files: vec![
                BoundFile::read(Path::new("/k"), "kernel"),
                BoundFile::write(Path::new("/m"), "memory"),
            ],
            devices: vec!["null".to_owned()],
            descriptors: vec![5, 7],
            program: "/usr/bin/vmm".into(),
            arguments: vec!["-x".to_owned()],
        }
    }

    #[test]
    fn a_specification_survives_the_trip() {
        let mut text = String::new();
        File::from(written(&spec()).unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(serde_json::from_str::<JailSpec>(&text).unwrap(), spec());
    }

    #[test]
    fn a_specification_with_a_field_we_do_not_know_is_refused() {
        let mut value = serde_json::to_value(spec()).unwrap();
        value["setuid"] = 0.into();
        // A confinement that was asked for and not understood must not be left out silently.
        assert!(serde_json::from_value::<JailSpec>(value).is_err());
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["", ".", "..", "a/b", "/etc", "a/", "./a"] {
            assert!(plain_name(name).is_err(), "{name}");
        }
        assert_eq!(plain_name("kernel").unwrap(), "kernel");
    }

    #[test]
    fn what_was_not_inherited_is_not_a_specification() {
        assert!(matches!(enter(1), JailError::Pass(_)));
        assert!(matches!(enter(987), JailError::Pass(_)));
    }
}
