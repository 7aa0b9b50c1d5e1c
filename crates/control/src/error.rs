//! Every failure of this crate in one type, with its kind and, where there is one, the next command to type.
//!
//! The enums themselves stand beside the code that raises them. Exit codes are `wire`'s.

use crate::accelerator::AcceleratorError;
use crate::archive::{ArchiveError, RefusedArchive};
use crate::audit::AuditError;
use crate::follow::FollowError;
use crate::launch::LaunchError;
use crate::own_image::{AdditionError, TrialError};
use crate::reconcile::ReconcileError;
use crate::request::RequestError;
use crate::site::SiteError;
use crate::template::TemplateError;
use crate::vm::VmError;
use crate::workload::WorkloadError;
use outlast_machine::host::HostError;
use outlast_machine::image::LibraryError;
use outlast_store::StoreError;
use outlast_wire::exit_code::FailureKind;
use std::io;
use std::path::Path;
use thiserror::Error;

/// An operation failed.
#[derive(Debug, Error)]
pub enum Error {
    /// The request makes no sense.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The archive is refused.
    #[error(transparent)]
    Archive(#[from] RefusedArchive),
    /// A place cannot be used.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// The library of images.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A fact about the host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Starting a runner.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// Choosing an accelerator.
    #[error(transparent)]
    Accelerator(#[from] AcceleratorError),
    /// An image that was added does not boot.
    #[error(transparent)]
    Trial(#[from] TrialError),
    /// Templates.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// Following a workload.
    #[error(transparent)]
    Follow(#[from] FollowError),
    /// Finding out what became of an incarnation.
    #[error(transparent)]
    Reconcile(#[from] ReconcileError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A workload is not there, or not in the state for this.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// A VM is not there, not in the state for this, or did not do it.
    #[error(transparent)]
    Vm(#[from] VmError),
}

impl Error {
    /// The kind, from which exit codes follow.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Request(error) => error.kind(),
            Self::Archive(refused) => kind_of_archive(&refused.reason),
            Self::Site(error) => kind_of_site(error),
            Self::Library(error) => kind_of_library(error),
            Self::Store(error) => kind_of_store(error),
            Self::Host(_) => FailureKind::Host,
            Self::Launch(_) | Self::Follow(_) => FailureKind::Failed,
            Self::Accelerator(error) => error.kind(),
            Self::Template(error) => error.kind(),
            Self::Trial(error) => error.kind(),
            Self::Reconcile(error) => error.kind(),
            Self::Workload(error) => error.kind(),
            Self::Vm(error) => error.kind(),
            Self::Audit(error) => error.kind(),
        }
    }

    /// The next command to type, where there is one that is not in the message already.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Request(error) => error.hint(),
            Self::Site(SiteError::NoNamespaces { fix, .. }) => Some(fix.clone()),
            Self::Site(SiteError::NotYours { library, name }) => {
                Some(format!("let its owner do it ({}): outlast image rm {name}", library.display()))
            }
            Self::Site(SiteError::Strangers { path, .. }) => Some(format!(
                "have {} removed by its owner or by root, or set OUTLAST_HOME or XDG_RUNTIME_DIR",
                path.display()
            )),
            Self::Site(SiteError::ProgramMissing { .. }) => {
                Some("put outlast-runner and outlast-agent beside outlast, or set OUTLAST_LIBEXEC".to_owned())
            }
            Self::Site(SiteError::PathTooLong { .. }) => {
                Some("set OUTLAST_HOME to a shorter path".to_owned())
            }
            Self::Library(error) => hint_of_library(error),
            Self::Site(SiteError::NotPrivate { path }) | Self::Store(StoreError::NotPrivate { path, .. }) => {
                Some(format!("chmod 700 {}", path.display()))
            }
            Self::Store(StoreError::Damaged { path, .. } | StoreError::NotADatabase { path }) => {
                Some(recovery(path))
            }
            Self::Accelerator(error) => error.hint(),
            Self::Template(error) => error.hint(),
            Self::Trial(_) => {
                Some("docs/images.md says what a kernel and a root file system must have".to_owned())
            }
            Self::Workload(error) => error.hint(),
            Self::Vm(error) => error.hint(),
            Self::Follow(FollowError::Interrupted { .. } | FollowError::Show { .. }) | Self::Audit(_) => None,
            Self::Launch(_) | Self::Host(_) | Self::Reconcile(_) | Self::Follow(_) => {
                Some("outlast doctor".to_owned())
            }
            Self::Archive(RefusedArchive { reason: ArchiveError::TooLarge { .. }, .. }) => {
                Some("give it more with --memory".to_owned())
            }
            Self::Archive(RefusedArchive { reason: ArchiveError::NoEntry { .. }, .. }) => {
                Some("name the file to start with --entry FILE".to_owned())
            }
            Self::Archive(_) | Self::Site(_) | Self::Store(_) => None,
        }
    }

    /// Whether the disk was full, whatever was being written.
    pub fn is_disk_full(&self) -> bool {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            let by_io = error.downcast_ref::<io::Error>().is_some_and(is_full);
            let by_store = matches!(error.downcast_ref::<StoreError>(), Some(StoreError::Full { .. }));
            if by_io || by_store {
                return true;
            }
            cause = error.source();
        }
        matches!(self, Self::Library(LibraryError::DiskFull { .. } | LibraryError::TooLittleSpace { .. }))
    }
}

/// An error and its causes on one line: for records, which keep no errors.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // A transparent error says what its cause says.
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn kind_of_archive(error: &ArchiveError) -> FailureKind {
    match error {
        ArchiveError::Unpack { .. } => FailureKind::Failed,
        _ => FailureKind::BadInput,
    }
}

fn kind_of_site(error: &SiteError) -> FailureKind {
    match error {
        SiteError::NotPrivate { .. } | SiteError::Strangers { .. } | SiteError::NotYours { .. } => {
            FailureKind::NotPermitted
        }
        SiteError::ProgramMissing { .. } | SiteError::Random(_) | SiteError::NoNamespaces { .. } => {
            FailureKind::Host
        }
        SiteError::PathTooLong { .. } => FailureKind::BadInput,
        SiteError::MakeDirectory { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            FailureKind::NotPermitted
        }
        SiteError::MakeDirectory { .. } | SiteError::Read { .. } | SiteError::Write { .. } => {
            FailureKind::Failed
        }
    }
}

fn kind_of_library(error: &LibraryError) -> FailureKind {
    match error {
        LibraryError::UnknownRecipe { .. } | LibraryError::NoImage { .. } | LibraryError::NoLeanKernel => {
            FailureKind::NotFound
        }
        LibraryError::Addition(AdditionError::Taken { .. } | AdditionError::Reserved { .. }) => {
            FailureKind::Conflict
        }
        LibraryError::BadName { .. } | LibraryError::Addition(_) => FailureKind::BadInput,
        LibraryError::InUse { .. } | LibraryError::LockTimeout { .. } => FailureKind::Conflict,
        LibraryError::NotRoot | LibraryError::NoNamespace(_) | LibraryError::Untrusted { .. } => {
            FailureKind::NotPermitted
        }
        LibraryError::NoVmmRoot | LibraryError::VmmTooOld { .. } | LibraryError::Missing { .. } => {
            FailureKind::Host
        }
        // Everything else was tried and failed; new variants count as that until they are sorted here.
        _ => FailureKind::Failed,
    }
}

fn hint_of_library(error: &LibraryError) -> Option<String> {
    match error {
        LibraryError::Manifest { .. } => Some("outlast image ls, then outlast image build NAME".to_owned()),
        LibraryError::InUse { .. } => Some("outlast ps".to_owned()),
        LibraryError::NoNamespace(missing) => Some(missing.fix()),
        LibraryError::Untrusted { path, .. } => Some(format!(
            "let root or you own {0} alone (chown, chmod go-w {0}), or name other libraries with OUTLAST_LIBRARY",
            path.display()
        )),
        _ => None,
    }
}

/// Nothing of outlast's writes to a damaged database or replaces it: what is to become of it is for its owner to say.
fn recovery(database: &Path) -> String {
    let (path, home) = (database.display(), database.parent().unwrap_or(database).display());
    format!(
        "copy {path}* elsewhere, then recover what can be read (sqlite3 {path} .recover | sqlite3 NEW) and put it in its place, \
         or move {path}* away and begin anew; the disks of VMs stay in {home}/vms"
    )
}

fn kind_of_store(error: &StoreError) -> FailureKind {
    match error {
        StoreError::NoIncarnation { .. }
        | StoreError::NoWorkload { .. }
        | StoreError::NoVm { .. }
        | StoreError::VmRemoved { .. } => FailureKind::NotFound,
        StoreError::BadPrefix { .. } | StoreError::IdempotencyKey { .. } => FailureKind::BadInput,
        StoreError::NotPrivate { .. } | StoreError::NotOurFile { .. } | StoreError::NotWritable { .. } => {
            FailureKind::NotPermitted
        }
        StoreError::Examine { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            FailureKind::NotPermitted
        }
        StoreError::NotOwner { .. }
        | StoreError::Busy { .. }
        | StoreError::VmExists { .. }
        | StoreError::VmBeingRemoved { .. }
        | StoreError::IllegalVm { .. } => FailureKind::Conflict,
        _ => FailureKind::Failed,
    }
}
