//! What can go wrong while the library of images, kernels and VMM roots is read or changed.
//!
//! The pure readers ([`super::bzimage`], [`super::elf`], [`super::modules`]) have enums of their own; this one
//! carries them with the file they were about.

use super::bzimage::BzImageError;
use super::manifest::ManifestError;
use super::modules::ModuleError;
use super::own::AdditionError;
use super::subordinate::NoSubordinateIds;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// An operation on the library failed. Unless a variant says otherwise nothing became visible: what was being
/// made lies in a scratch directory that the next build of this library removes.
#[derive(Debug, Error)]
pub enum LibraryError {
    /// No recipe has this name.
    #[error("there is no recipe for an image '{name}' (recipes: {})", .known.join(", "))]
    UnknownRecipe {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<&'static str>,
    },
    /// A name that cannot be a directory of ours.
    #[error("'{name}' is not an image name (lower-case letters, digits, '.', '_', '-'; at most 64)")]
    BadName {
        /// What was asked for.
        name: String,
    },
    /// The library holds no such image.
    #[error("there is no image '{name}' (built: {}); build it with: outlast image build {name}", list(.built))]
    NoImage {
        /// What was asked for.
        name: String,
        /// What the library holds.
        built: Vec<String>,
    },
    /// The library holds no VMM root.
    #[error("QEMU is not in the library; build its VMM root with: outlast image build vmm")]
    NoVmmRoot,
    /// The library holds no lean kernel.
    #[error("the lean kernel is not in the library; build it with: outlast image build kernel")]
    NoLeanKernel,
    /// Options of the kernel did not become what they should be.
    #[error("the source of {source_package} does not take its configuration: {}", .missing.join("; "))]
    KernelOptions {
        /// The package of the source.
        source_package: &'static str,
        /// One text for each: what was asked for and what it is instead.
        missing: Vec<String>,
    },
    /// What was compiled is nothing that a VMM could start.
    #[error("{} is no kernel that can be started as an ELF file (PVH)", .path.display())]
    NotBootable {
        /// The file.
        path: PathBuf,
    },
    /// The VMM is older than what this build can drive.
    #[error("QEMU {found} is too old, at least {wanted} is needed; rebuild with: outlast image build vmm")]
    VmmTooOld {
        /// What was unpacked.
        found: String,
        /// The oldest that works.
        wanted: &'static str,
    },
    /// The VMM's answer about its version has no version in it.
    #[error("cannot read a version in '{line}'")]
    VmmVersion {
        /// What it answered.
        line: String,
    },
    /// Something a build needs is not installed on this host.
    #[error("{what} is missing; install it with: apt-get install {package}")]
    Missing {
        /// The program or file.
        what: String,
        /// The Debian and Ubuntu package that has it.
        package: &'static str,
    },
    /// What a user gave cannot become an image.
    #[error(transparent)]
    Addition(AdditionError),
    /// Builds unpack files of other owners.
    #[error("only the superuser builds, of the host or of a user namespace")]
    NotRoot,
    /// An ordinary user could not become the superuser of a namespace.
    #[error("cannot build images as an ordinary user")]
    NoNamespace(#[source] NoSubordinateIds),
    /// Somebody else could have changed what would be used.
    #[error("{} is not used: {why}", .path.display())]
    Untrusted {
        /// The first place that others can change.
        path: PathBuf,
        /// Who, or how.
        why: String,
    },
    /// The disk has too little room, seen before anything was made.
    #[error("{} has {} MiB free and building {what} takes {} MiB", .path.display(), .free >> 20, .needed >> 20)]
    TooLittleSpace {
        /// What was to be built.
        what: String,
        /// The directory asked about.
        path: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// The disk filled up while working.
    #[error("no space left on the disk of {} ({operation})", .path.display())]
    DiskFull {
        /// What was being done.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {operation} {}", .path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A program that builds could not be started or read.
    #[error("cannot run {program}")]
    Spawn {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A program that builds failed; its last lines are kept.
    #[error("{program} ended with {status}:\n{tail}")]
    Program {
        /// The program.
        program: String,
        /// Exit code or signal, in words.
        status: String,
        /// The end of what it said.
        tail: String,
    },
    /// A program that builds said nothing for too long or took too long, and was killed.
    #[error("{program} was killed: {why} ({seconds} s); it last said: {tail}")]
    TooSlow {
        /// The program.
        program: String,
        /// Which limit it met.
        why: &'static str,
        /// That limit.
        seconds: u64,
        /// The end of what it said.
        tail: String,
    },
    /// Another build of the same thing did not end in time.
    #[error("another process has held {} for {seconds} s", .path.display())]
    LockTimeout {
        /// The lock file.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// The kernel image could not be taken apart.
    #[error("cannot take the kernel out of {}", .path.display())]
    BzImage {
        /// The bzImage.
        path: PathBuf,
        /// Why.
        source: BzImageError,
    },
    /// The modules could not be put in order.
    #[error("cannot gather the modules of kernel {release}")]
    Modules {
        /// The kernel's release.
        release: String,
        /// Why.
        source: ModuleError,
    },
    /// The archive's packages did not hold what they should.
    #[error("the packages of {suite} hold no {what}")]
    Unpacked {
        /// The distribution's suite.
        suite: &'static str,
        /// What was looked for.
        what: String,
    },
    /// A record of ours does not parse or does not make sense.
    #[error("{} is damaged", .path.display())]
    Manifest {
        /// The record.
        path: PathBuf,
        /// Why.
        source: ManifestError,
    },
    /// A file is not what the manifest says.
    #[error("{} is damaged: it hashes to {found}, the manifest says {expected}; rebuild with: outlast image build {name}", .path.display())]
    Damaged {
        /// The image, or `vmm`.
        name: String,
        /// The file.
        path: PathBuf,
        /// What the manifest says.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The agent is not a program that a guest could start.
    #[error("{} cannot be the agent: {why}", .path.display())]
    Agent {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file changed while it was being hashed.
    #[error("{} changes while it is read", .path.display())]
    Changing {
        /// The file.
        path: PathBuf,
    },
    /// Somebody uses it.
    #[error("image '{name}' is in use by {by}")]
    InUse {
        /// The image.
        name: String,
        /// Who, as far as that is known.
        by: String,
    },
}

impl LibraryError {
    /// A full disk gets its own variant wherever it shows; everything else stays an I/O error.
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { operation, path: path.to_owned() }
            }
            _ => Self::Io { operation, path: path.to_owned(), source },
        }
    }

    /// Whether it says that this user may not look there.
    pub(crate) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }

    /// The same for rustix's error numbers.
    pub(crate) fn sys(operation: &'static str, path: &Path) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::io(operation, path)(errno.into())
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named_as_such() {
        let full = LibraryError::sys("write", Path::new("/x"))(rustix::io::Errno::NOSPC);
        assert!(matches!(full, LibraryError::DiskFull { operation: "write", .. }), "{full}");
        let other = LibraryError::sys("write", Path::new("/x"))(rustix::io::Errno::IO);
        assert!(matches!(other, LibraryError::Io { .. }), "{other}");
    }

    #[test]
    fn an_unknown_image_says_what_to_type() {
        let error = LibraryError::NoImage { name: "python".into(), built: vec![] }.to_string();
        assert!(error.contains("built: none") && error.ends_with("outlast image build python"), "{error}");
    }
}
