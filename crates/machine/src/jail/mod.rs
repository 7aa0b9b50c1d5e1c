//! The jail of a VMM: a mount namespace in which nothing exists but the VMM and its incarnation's files.
//!
//! The runner starts its own executable with the subcommand `jail` and a [`JailSpec`] as JSON in an inherited
//! descriptor. That process builds the jail around itself and becomes the VMM:
//!
//! ```text
//!   read spec → claim a user id → unshare mounts → tmpfs → bind VMM root, files, devices → seal → pivot
//!     → close → session, limits → Landlock → capabilities, groups, user → filters → execve
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
//! There is no /proc, /sys or /tmp and nothing that can be written but what the spec names. The same for every
//! VMM: docs/security.md says what holds, docs/decisions/0010 why it is built like this. Not responsible for which
//! files, descriptors and limits a VMM needs: its driver says so.

mod filter;
mod identity;
mod landlock;
mod mounts;
mod privileges;
mod proof;

pub use identity::{Identity, keeps_root};
pub use proof::{Unconfined, expect_confined};

use crate::sys;
use rustix::fd::{OwnedFd, RawFd};
use rustix::fs::{MemfdFlags, SealFlags, memfd_create};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
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
    /// The user ids it may have; without any it is whoever its runner is, in a user namespace of that one's.
    pub identity: Option<Identity>,
    /// What one process may have.
    pub limits: Limits,
}

/// Limits of the process (setrlimit(2)), hard ones. What must not be had at all is not in here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Threads of its user id.
    pub threads: u64,
    /// Open descriptors.
    pub open_files: u64,
    /// Bytes to which it may extend a file.
    pub file_size: u64,
    /// Bytes of memory it may map, used or not; for hosts on which no control group counts what is used.
    pub address_space: Option<u64>,
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
    /// A user id could not be looked at.
    #[error("cannot take user id {uid}")]
    Identity {
        /// The id.
        uid: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// None of the user ids was free.
    #[error("none of {tried} user ids for the VMM is free")]
    NoIdentity {
        /// How many were looked at.
        tried: u32,
    },
    /// Something that a VMM must not have could not be given up.
    #[error("cannot {step}")]
    Privilege {
        /// What was to be done.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The filters of the kernel's calls.
    #[error("cannot filter the VMM's calls: {0}")]
    Filter(String),
    /// Landlock is there and refuses.
    #[error("cannot restrict the VMM with Landlock: {0}")]
    Landlock(String),
    /// A program or an argument has a zero byte in it.
    #[error("the VMM's command line has a zero byte in it")]
    CommandLine(#[source] std::ffi::NulError),
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

impl JailError {
    fn privilege(step: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::Privilege { step, source: errno.into() }
    }
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
fn exec(spec: &JailSpec) -> Result<Infallible, JailError> {
    let program = sys::Program::new(&spec.program, &spec.arguments).map_err(JailError::CommandLine)?;
    let claimed = spec.identity.map(Identity::claim).transpose()?;
    mounts::build(spec, claimed.map(|claimed| claimed.uid))?;
    // Order matters: after this line nothing that was open before is.
    sys::close_all_except(&spec.descriptors).map_err(step("close descriptors of", &spec.stage))?;
    privileges::detach()?;
    privileges::limit(&spec.limits)?;
    landlock::restrict(spec)?;
    privileges::give_up(claimed)?;
    // Order matters: what was done above is forbidden from here on.
    filter::put_on(filter::Subject { pid: std::process::id(), program: program.address() })?;
    Err(JailError::Execute { program: spec.program.clone(), source: program.execute() })
}

fn step(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JailError {
    let path = path.to_owned();
    move |source| JailError::Step { step, path, source }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(Errno) -> JailError {
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
            identity: None,
            limits: Limits { threads: 1, open_files: 2, file_size: 3, address_space: Some(4) },
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
    fn what_was_not_inherited_is_not_a_specification() {
        assert!(matches!(enter(1), JailError::Pass(_)));
        assert!(matches!(enter(987), JailError::Pass(_)));
    }
}
