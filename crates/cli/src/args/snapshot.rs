//! What can be typed about snapshots of VMs.

use clap::{Args, Subcommand};

const RESTORE_HELP: &str = "\
The VM goes on where the snapshot was taken: its memory, its programs and its disk are what they were then, its
clock is right and its randomness new. What its disk holds now is gone afterwards. A restore that fails leaves the
disk as it is, and never boots the VM instead.";

#[derive(Debug, Args)]
pub(crate) struct VmSnapshotArgs {
    /// The VM's name
    pub(crate) name: String,
    /// The snapshot's name: 1 to 63 lower-case letters, digits and dashes
    pub(crate) snapshot: String,
}

#[derive(Debug, Args)]
#[command(after_help = RESTORE_HELP)]
pub(crate) struct VmRestoreArgs {
    /// The VM's name
    pub(crate) name: String,
    /// The snapshot's name
    pub(crate) snapshot: String,
    /// Kill the VM first, when it lives
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VmSnapshotsCommand {
    /// List the snapshots of a VM
    Ls(super::VmNameArgs),
    /// Remove a snapshot
    Rm(VmSnapshotArgs),
    /// Read every byte of a snapshot and compare it with its manifest (of all when none is named)
    Verify(VmSnapshotVerifyArgs),
}

#[derive(Debug, Args)]
pub(crate) struct VmSnapshotVerifyArgs {
    /// The VM's name
    pub(crate) name: String,
    /// The snapshot's name
    pub(crate) snapshot: Option<String>,
}
