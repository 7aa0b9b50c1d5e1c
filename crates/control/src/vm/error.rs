//! What can be wrong with a wish about a VM.

use super::snapshot::SnapshotError;
use super::spec::SpecError;
use super::spec_file::SpecFileError;
use crate::runner_link::LinkError;
use outlast_copy::{CopyError, FaultKind};
use outlast_machine::disk::DiskError;
use outlast_model::{Memory, VmState};
use outlast_wire::exit_code::FailureKind;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// A VM is not there, not in the state for this, or did not do it.
#[derive(Debug, Error)]
pub enum VmError {
    /// No VM has this name.
    #[error("there is no VM '{name}'{}", meant(.near))]
    NotFound {
        /// What was given.
        name: String,
        /// Names that may have been meant.
        near: Vec<String>,
    },
    /// A new VM cannot be like this.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A file that describes one cannot be read, or makes no sense.
    #[error(transparent)]
    File(#[from] SpecFileError),
    /// The name is taken.
    #[error("there is a VM '{name}' already")]
    Exists {
        /// The name.
        name: String,
    },
    /// Less memory than the image needs.
    #[error("{asked} of memory is less than a machine with image '{image}' needs, {least}")]
    MemoryTooSmall {
        /// What was asked for.
        asked: Memory,
        /// The least.
        least: Memory,
        /// The image.
        image: String,
    },
    /// More memory than the host has.
    #[error("a machine of {} MiB does not fit: this host has {} MiB", .asked.mib(), .host.mib())]
    MemoryTooLarge {
        /// What was asked for.
        asked: Memory,
        /// The host's memory.
        host: Memory,
    },
    /// Its disk.
    #[error("the disk of VM '{name}'")]
    Disk {
        /// Its name.
        name: String,
        /// What is wrong.
        source: DiskError,
    },
    /// What it keeps cannot be made or removed.
    #[error("cannot {operation} {}", .path.display())]
    Keep {
        /// What was being done.
        operation: &'static str,
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing of it lives.
    #[error("{name} is not running ({why})")]
    NotRunning {
        /// Its name.
        name: String,
        /// How its last incarnation ended, and when.
        why: String,
    },
    /// It lives, and is in another state than this needs.
    #[error("{name} is {}{}", .state.name(), .so)]
    WrongState {
        /// Its name.
        name: String,
        /// Its state.
        state: VmState,
        /// What that means for what was asked; empty or beginning with a comma.
        so: &'static str,
    },
    /// Its removal was asked for.
    #[error("{name} is being removed")]
    BeingRemoved {
        /// Its name.
        name: String,
    },
    /// Its removal was asked for, and its disk was to go, too: it may be gone by now.
    #[error("a removal of {name} and its disk {} is under way already", .disk.display())]
    DiskGoes {
        /// Its name.
        name: String,
        /// The disk.
        disk: PathBuf,
    },
    /// Its start did not succeed; everything of it was undone.
    #[error("{name} did not start: {step}: {cause}")]
    StartFailed {
        /// Its name.
        name: String,
        /// The boot step that failed.
        step: String,
        /// Why.
        cause: String,
    },
    /// Somebody had it stopped, or it died, while its start was waited for.
    #[error("{name} was started and has ended ({why})")]
    EndedMeanwhile {
        /// Its name.
        name: String,
        /// How.
        why: String,
    },
    /// Its end was waited for and did not come.
    #[error("{name} was told to stop and has not")]
    StillRuns {
        /// Its name.
        name: String,
    },
    /// Something of it cannot be removed, so neither is its row.
    #[error("{name} is not removed: {what} is still there")]
    LeftBehind {
        /// Its name.
        name: String,
        /// What.
        what: String,
    },
    /// Its runner lives and does not do what it was asked.
    #[error("cannot reach the runner of {name}")]
    Link {
        /// Its name.
        name: String,
        /// Why.
        source: LinkError,
    },
    /// Its runner, its VMM or its agent said no.
    #[error("{name}: {cause}")]
    Refused {
        /// Its name.
        name: String,
        /// Why.
        cause: String,
    },
    /// The monitor did not carry a command out.
    #[error("the monitor of {name} refused '{command}': {cause}")]
    Monitor {
        /// Its name.
        name: String,
        /// The command.
        command: String,
        /// What the monitor said.
        cause: String,
    },
    /// That is no command of a monitor.
    #[error("'{command}' is not a monitor command: {cause}")]
    BadCommand {
        /// The command.
        command: String,
        /// Why.
        cause: String,
    },
    /// A program in it did not start.
    #[error("the program did not start in {name}: {cause}")]
    ProgramNotStarted {
        /// The VM's name.
        name: String,
        /// Why.
        cause: String,
    },
    /// A request for a program is too long for one frame.
    #[error("the program's arguments and environment are too long: {size} bytes, at most {most} are allowed")]
    ProgramTooLong {
        /// Their size.
        size: usize,
        /// What is allowed.
        most: usize,
    },
    /// The host's side of a copy.
    #[error(transparent)]
    CopyHere(#[from] CopyError),
    /// The guest's side of a copy.
    #[error("{name}: {cause}")]
    CopyThere {
        /// The VM's name.
        name: String,
        /// What the guest says.
        cause: String,
        /// What kind of failure it says that it is.
        kind: FailureKind,
    },
    /// A name that cannot be passed on.
    #[error("the name of {} is not UTF-8, which a copy into a VM needs", .path.display())]
    CopyName {
        /// What was to be copied.
        path: PathBuf,
    },
    /// A copy was cut off.
    #[error("the copy was not finished: {cause}")]
    CopyCut {
        /// What became of its program in the guest.
        cause: String,
    },
    /// Its agent is of an earlier version.
    #[error("the agent in {name} is of an earlier version, which copies nothing")]
    AgentTooOld {
        /// The VM's name.
        name: String,
    },
    /// What was asked to wait was told to go away.
    #[error("interrupted; nobody waits for the program in {name} any more, and it is killed")]
    Interrupted {
        /// The VM's name.
        name: String,
    },
    /// One of its snapshots.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// There is no such log.
    #[error("there is no {what} of {name}")]
    NoLog {
        /// The VM's name.
        name: String,
        /// Which.
        what: String,
    },
}

impl VmError {
    /// The kind, from which exit codes follow.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::NotFound { .. } | Self::NoLog { .. } => FailureKind::NotFound,
            Self::Snapshot(error) => error.kind(),
            Self::CopyHere(error) => kind_of_copy(error),
            Self::CopyThere { kind, .. } => *kind,
            Self::Spec(error) => error.kind(),
            Self::File(error) => error.kind(),
            Self::MemoryTooSmall { .. }
            | Self::BadCommand { .. }
            | Self::CopyName { .. }
            | Self::ProgramTooLong { .. } => FailureKind::BadInput,
            Self::MemoryTooLarge { .. }
            | Self::Disk { source: DiskError::TooLittleSpace { .. } | DiskError::NoTool { .. }, .. } => {
                FailureKind::Host
            }
            Self::Exists { .. }
            | Self::NotRunning { .. }
            | Self::WrongState { .. }
            | Self::BeingRemoved { .. }
            | Self::DiskGoes { .. }
            | Self::EndedMeanwhile { .. }
            | Self::StillRuns { .. }
            | Self::Refused { .. }
            | Self::AgentTooOld { .. }
            | Self::Link { source: LinkError::Stranger { .. }, .. } => FailureKind::Conflict,
            Self::Keep { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                FailureKind::NotPermitted
            }
            Self::Keep { .. }
            | Self::Disk { .. }
            | Self::StartFailed { .. }
            | Self::LeftBehind { .. }
            | Self::Link { .. }
            | Self::Monitor { .. }
            | Self::CopyCut { .. }
            | Self::ProgramNotStarted { .. }
            | Self::Interrupted { .. } => FailureKind::Failed,
        }
    }

    /// The next command to type, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { .. } => Some("outlast vm ls".to_owned()),
            Self::Snapshot(error) => error.hint(),
            Self::Spec(error) | Self::File(SpecFileError::Spec(error)) => error.hint(),
            Self::File(_) => Some("the words of such a file are those of outlast vm show --spec".to_owned()),
            Self::Exists { name } => Some(format!("outlast vm show {name}")),
            Self::MemoryTooSmall { least, .. } => Some(format!("ask for --memory {least} or more")),
            Self::NotRunning { name, .. } => Some(format!("outlast vm start {name}")),
            Self::WrongState { name, state, .. } => Some(match state {
                VmState::Paused => format!("outlast vm resume {name}"),
                VmState::Stopping => format!("outlast vm stop --force {name}"),
                VmState::Running => format!("outlast vm stop {name}"),
                VmState::Created | VmState::Starting | VmState::Stopped | VmState::Failed => {
                    format!("outlast vm show {name}")
                }
            }),
            Self::BeingRemoved { name } | Self::LeftBehind { name, .. } => {
                Some(format!("outlast vm rm --force {name}"))
            }
            Self::StartFailed { name, .. } | Self::EndedMeanwhile { name, .. } => {
                Some(format!("outlast vm show {name}, and outlast vm logs {name}"))
            }
            Self::StillRuns { name } => Some(format!("outlast vm stop --force {name}")),
            Self::Link { .. } | Self::Disk { .. } => Some("outlast doctor".to_owned()),
            Self::BadCommand { .. } => Some("outlast vm monitor NAME query-status".to_owned()),
            Self::AgentTooOld { name } => {
                Some(format!("outlast vm stop {name}, and outlast vm start {name}"))
            }
            Self::MemoryTooLarge { .. }
            | Self::CopyHere(_)
            | Self::CopyThere { .. }
            | Self::CopyCut { .. }
            | Self::CopyName { .. }
            | Self::Keep { .. }
            | Self::Refused { .. }
            | Self::Monitor { .. }
            | Self::ProgramNotStarted { .. }
            | Self::ProgramTooLong { .. }
            | Self::Interrupted { .. }
            | Self::DiskGoes { .. }
            | Self::NoLog { .. } => None,
        }
    }
}

fn kind_of_copy(error: &CopyError) -> FailureKind {
    let denied = |source: &io::Error| source.kind() == io::ErrorKind::PermissionDenied;
    match error {
        CopyError::Source { source, .. } | CopyError::Destination { source, .. } if denied(source) => {
            FailureKind::NotPermitted
        }
        error => match error.kind() {
            FaultKind::Missing => FailureKind::NotFound,
            FaultKind::Conflict => FailureKind::Conflict,
            FaultKind::BadStream | FaultKind::Failed => FailureKind::Failed,
        },
    }
}

fn meant(near: &[String]) -> String {
    match near {
        [] => String::new(),
        names => format!(" (is {} meant?)", names.join(" or ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_comes_with_those_that_may_be_meant() {
        let text = |near: &[&str]| {
            let near = near.iter().map(|&name| name.to_owned()).collect();
            VmError::NotFound { name: "wbe".to_owned(), near }.to_string()
        };
        assert_eq!(text(&[]), "there is no VM 'wbe'");
        assert_eq!(text(&["web", "we"]), "there is no VM 'wbe' (is web or we meant?)");
    }

    #[test]
    fn a_vm_in_another_state_is_said_to_be_in_it() {
        let error =
            VmError::WrongState { name: "web".to_owned(), state: VmState::Paused, so: ", and not started" };
        assert_eq!(error.to_string(), "web is paused, and not started");
        assert_eq!(
            (error.kind(), error.hint().unwrap()),
            (FailureKind::Conflict, "outlast vm resume web".to_owned())
        );
    }
}
