//! What can be typed after `outlast vm`.

use clap::{Args, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

const EXEC_HELP: &str = "\
The exit code is the program's own; 128 + n when signal n killed it; 124 when its time was over; 137 when it was
killed or ran out of memory; 125 when it did not run, its end is unknown, not all of its output is here, or
outlast failed (--json says which).";

const EXAMPLES: &str = "\
Examples:
  outlast vm create web --image base --memory 256M --disk 1G
  outlast vm start web
  outlast vm exec web -- sh -c 'echo $HOSTNAME; date'
  outlast vm exec -it web -- sh
  outlast vm stop web && outlast vm rm web";

/// Keep VMs: long-lived machines with a name and a disk
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct VmArgs {
    #[command(subcommand)]
    pub(crate) command: VmCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VmCommand {
    /// Make a VM and its disk
    Create(VmCreateArgs),
    /// Start a VM, and wait until it is certified
    Start(VmStartArgs),
    /// Stop a VM, and wait for its end
    Stop(VmStopArgs),
    /// Remove a VM, its disk last
    Rm(VmRmArgs),
    /// List VMs
    Ls,
    /// Show everything about a VM: its incarnations, certificates, death certificates, steps
    Show(VmShowArgs),
    /// Run a program in a VM
    Exec(VmExecArgs),
    /// Copy files and directories between this host and a VM
    Cp(VmCpArgs),
    /// Ask a VM's runner, and the agent in its guest, whether they are there
    Ping(VmNameArgs),
    /// Sit at a VM's serial console: Enter begins a root shell, Ctrl-] leaves
    Console(VmNameArgs),
    /// Print what a VM's console said, or what a detached program wrote
    Logs(VmLogsArgs),
    /// Tell what a VM uses of the host
    Stats(VmNameArgs),
    /// Let a VM's virtual CPUs stand still
    Pause(VmNameArgs),
    /// Let a VM's virtual CPUs run again, and certify its guest
    Resume(VmNameArgs),
    /// Pass a command on to a VMM's monitor (QMP)
    Monitor(VmMonitorArgs),
    /// Keep what a VM is at this moment: its memory, its devices and its disk
    Snapshot(super::VmSnapshotArgs),
    /// List, remove and verify the snapshots of a VM
    #[command(subcommand)]
    Snapshots(super::VmSnapshotsCommand),
    /// Start a VM from a snapshot of it
    Restore(super::VmRestoreArgs),
}

#[derive(Debug, Args)]
pub(crate) struct VmNameArgs {
    /// The VM's name
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct VmCreateArgs {
    /// Its name, and its guest's host name: 1 to 63 lower-case letters, digits and dashes
    #[arg(required_unless_present = "file")]
    pub(crate) name: Option<String>,
    /// A file that describes it, in YAML or TOML; what is said here wins
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// The image
    #[arg(long, value_name = "I")]
    pub(crate) image: Option<String>,
    /// vCPUs [default: 1]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(crate) vcpus: Option<String>,
    /// Memory of the machine [default: 256M]
    #[arg(long, value_name = "256M", allow_hyphen_values = true)]
    pub(crate) memory: Option<String>,
    /// Size of its disk [default: 1G]
    #[arg(long, value_name = "1G", allow_hyphen_values = true)]
    pub(crate) disk: Option<String>,
    /// How its disk lies on the host: raw or qcow2 [default: qcow2]
    #[arg(long, value_name = "F")]
    pub(crate) disk_format: Option<String>,

    // Of later versions: known by name, so that they are refused by name.
    #[arg(long, hide = true)]
    pub(crate) network: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) volume: Vec<String>,
    #[arg(long, hide = true)]
    pub(crate) publish: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct VmStartArgs {
    /// The VM's name
    pub(crate) name: String,
    /// auto, kvm or tcg (emulation)
    #[arg(long, value_name = "A", default_value = "auto")]
    pub(crate) accel: String,
    /// Boot, even if there is a template
    #[arg(long)]
    pub(crate) cold: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VmStopArgs {
    /// The VM's name
    pub(crate) name: String,
    /// Do not ask the guest: kill the VMM
    #[arg(long)]
    pub(crate) force: bool,
    /// How long it may take, all ways to stop it together [default: 11s]
    #[arg(long, value_name = "10s", allow_hyphen_values = true)]
    pub(crate) timeout: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct VmRmArgs {
    /// The VM's name
    pub(crate) name: String,
    /// Stop it first
    #[arg(long)]
    pub(crate) force: bool,
    /// Leave its disk where it is
    #[arg(long)]
    pub(crate) keep_disks: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VmShowArgs {
    /// The VM's name; of one that was removed, its name or id
    pub(crate) name: String,
    /// What it is to be: every value, and where it came from
    #[arg(long)]
    pub(crate) spec: bool,
}

#[derive(Debug, Args)]
#[command(after_help = EXEC_HELP)]
pub(crate) struct VmExecArgs {
    /// The VM's name
    pub(crate) name: String,
    /// After --: the program and its arguments
    #[arg(last = true, value_name = "COMMAND", required = true)]
    pub(crate) command: Vec<OsString>,

    /// Pass our standard input on
    #[arg(short = 'i', long)]
    pub(crate) stdin: bool,
    /// Give it a terminal
    #[arg(short = 't', long)]
    pub(crate) tty: bool,
    /// Return once it runs; what it writes is kept (outlast vm logs --exec N)
    #[arg(long, conflicts_with_all = ["stdin", "tty"])]
    pub(crate) detach: bool,
    /// An environment variable (repeatable)
    #[arg(long, value_name = "K=V")]
    pub(crate) env: Vec<OsString>,
    /// The working directory [default: /]
    #[arg(long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// A user the guest knows: NAME or UID, and :GROUP or :GID [default: root]
    #[arg(long, value_name = "U")]
    pub(crate) user: Option<String>,
    /// How long it may run [default: as long as it likes]
    #[arg(long, value_name = "30s", allow_hyphen_values = true)]
    pub(crate) timeout: Option<String>,
}

const CP_HELP: &str = "\
One of the two is NAME:/PATH, in the VM of that name, which must run; the other is a path here, or - for a tar on
standard input or output.

A directory that is there gets the copy under its own name; a file that is there is replaced; where nothing is, the
copy gets that name. DIR/. means what is in DIR. Modes and times (in seconds) are kept. What is copied into a VM
belongs to root there (a tar's files to whom it says); what comes out belongs to you, without setuid and setgid.

A copy is there whole or not at all. What comes out of a VM is not trusted: links that lead out of the copy, devices,
pipes and sockets are left out and named; a tar on standard output has the links as they are.

Examples:
  outlast vm cp ./data web:/srv/
  outlast vm cp web:/var/log/syslog .
  outlast vm cp web:/etc - | tar t";

#[derive(Debug, Args)]
#[command(after_help = CP_HELP)]
pub(crate) struct VmCpArgs {
    /// What to copy: NAME:/PATH, PATH or -
    pub(crate) source: OsString,
    /// Where to: PATH, NAME:/PATH or -
    pub(crate) destination: OsString,
}

#[derive(Debug, Args)]
pub(crate) struct VmLogsArgs {
    /// The VM's name
    pub(crate) name: String,
    /// Go on until the VM, or the program, ends
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// What the detached program of this number wrote, instead of the console; the exit code is the program's, once it is
    /// over
    #[arg(long, value_name = "N")]
    pub(crate) exec: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct VmMonitorArgs {
    /// The VM's name
    pub(crate) name: String,
    /// A QMP command: its name, or the whole JSON object
    pub(crate) command: String,
}
