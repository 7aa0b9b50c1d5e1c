//! What can be typed. Texts only: what they mean is decided in [`crate::commands`].

mod run;
mod snapshot;
mod vm;

pub(crate) use run::RunArgs;
pub(crate) use snapshot::{VmRestoreArgs, VmSnapshotArgs, VmSnapshotVerifyArgs, VmSnapshotsCommand};
pub(crate) use vm::{
    VmArgs, VmCommand, VmCpArgs, VmCreateArgs, VmExecArgs, VmLogsArgs, VmMonitorArgs, VmNameArgs, VmRmArgs,
    VmShowArgs, VmStartArgs, VmStopArgs,
};

use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  outlast image build python        build the python image (and QEMU's, the first time)
  outlast run hello.py              run a file in a fresh microVM
  outlast run --timeout 5s a.py -- x y
  outlast run --image base -- nproc
  outlast ps -a                     what ran, newest first
  outlast vm create web --image base, outlast vm start web, outlast vm exec -it web -- sh
  outlast doctor                    what this host can do";

const ENVIRONMENT: &str = "\
Environment:
  OUTLAST_HOME      where state is kept (root: /var/lib/outlast, others: ~/.local/state/outlast)
  OUTLAST_LIBRARY   where images and templates are kept, and behind colons libraries of images that are only
                    read (default: library in that home, then root's)
  OUTLAST_LIBEXEC   where outlast-runner and outlast-agent are (default: beside outlast)
  OUTLAST_MIRROR    where packages of images come from
  OUTLAST_KEEP_TEMPLATES  disk that templates may take (10G)
  OUTLAST_KEEP_RUNS       runs that are over whose evidence is kept (1000)
  OUTLAST_KEEP_FOR        how long evidence is kept (30d)
  OUTLAST_LOG       what is logged to standard error, for example debug
  NO_COLOR          no colours";

/// Runs code in fresh microVMs, and keeps long-lived ones.
#[derive(Debug, Parser)]
#[command(name = "outlast", version, about, after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{ENVIRONMENT}"))]
#[command(disable_help_subcommand = true, propagate_version = true)]
pub(crate) struct Cli {
    /// Print facts as JSON, failures too
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a program once, in a microVM of its own
    Run(Box<RunArgs>),
    /// List workloads, newest first
    Ps(PsArgs),
    /// Show everything about one workload
    Show(IdArgs),
    /// Print what a workload wrote
    Logs(LogsArgs),
    /// Kill a workload and wait for its end
    Kill(IdArgs),
    /// Keep VMs: long-lived machines with a name and a disk
    Vm(Box<VmArgs>),
    /// Tell what this host can do, and what belongs to nobody
    Doctor(DoctorArgs),
    /// Build, list, verify and remove images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Remove what is of no more use: old templates, superseded images, evidence of old runs
    Prune(PruneArgs),
    /// List, remove and prune templates
    #[command(subcommand)]
    Template(TemplateCommand),
    /// Verify the audit log
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Print the audit log's events
    Events(EventsArgs),
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Write man pages into a directory
    Man(ManArgs),

    // Of later versions: known by name, so that they are refused by name.
    #[command(hide = true)]
    Serve(LaterArgs),
    #[command(hide = true)]
    Token(LaterArgs),
    #[command(hide = true)]
    Network(LaterArgs),
    #[command(hide = true)]
    Prove(LaterArgs),
}

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct LaterArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub(crate) _words: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Those that are over, too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// At most so many
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) limit: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct IdArgs {
    /// The workload's id, or the beginning of it
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The workload's id, or the beginning of it
    pub(crate) id: String,
    /// Go on until the workload is over
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// What the guest's console said: the boot messages
    #[arg(long)]
    pub(crate) console: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Remove what belongs to nobody
    #[arg(long)]
    pub(crate) fix: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Build images: python, node, go, base; vmm for QEMU; kernel for the lean guest kernel
    Build(BuildArgs),
    /// List images
    Ls,
    /// Remove an image, the VMM root (vmm) or the lean kernel (kernel) that nobody uses
    Rm(NamesArgs),
    /// Read every byte of images and compare it with their manifests (all images when none is named)
    Verify(VerifyArgs),
    /// Remove superseded versions of images, and old boot files
    Prune(AgeArgs),
    #[command(hide = true)]
    Import(LaterArgs),
    /// Make an image of a kernel and a root file system of your own
    Add(AddArgs),
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// The image's name
    pub(crate) name: String,
    /// The kernel: an ELF (vmlinux) with a PVH entry, or a bzImage
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: PathBuf,
    /// The root file system: squashfs or ext4, never written to
    #[arg(long, value_name = "FILE")]
    pub(crate) rootfs: PathBuf,
    /// Modules, when the kernel has not everything built in: a cpio archive
    #[arg(long, value_name = "FILE")]
    pub(crate) modules: Option<PathBuf>,
    /// The smallest machine that boots it
    #[arg(long, value_name = "SIZE", default_value = "128M")]
    pub(crate) min_memory: String,
    /// Replace an image of this name
    #[arg(long)]
    pub(crate) replace: bool,
    /// Do not try whether it boots
    #[arg(long)]
    pub(crate) no_boot: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NamesArgs {
    /// Names of images
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// Names of images
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
    /// These and nothing else: it was settled before the namespace was made
    #[arg(long, hide = true)]
    pub(crate) in_namespace: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Names of images
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TemplateCommand {
    /// List templates
    Ls,
    /// Remove a template
    Rm(KeyArgs),
    /// Remove templates that were not used for long, or that nobody can use
    Prune(PruneArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    #[command(flatten)]
    pub(crate) age: AgeArgs,
    /// Templates may take so much disk; those unused for longest go first [default: 10G]
    #[arg(long, value_name = "SIZE")]
    pub(crate) keep_size: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct AgeArgs {
    /// What was not used for so long goes: 12h, 30d [default: 30d]
    #[arg(long, value_name = "AGE")]
    pub(crate) older_than: Option<String>,
    /// Only tell what would be removed
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    /// The template's key, or the beginning of it
    pub(crate) key: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Check every event's hash and its link to the one before
    Verify(AuditVerifyArgs),
}

#[derive(Debug, Args)]
pub(crate) struct AuditVerifyArgs {
    /// What an earlier verification printed and was kept elsewhere: shows a log that was rewritten as a whole
    #[arg(long, value_name = "COUNT:HEAD")]
    pub(crate) since: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Go on with events as they come
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only events after this number
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) after: u64,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The directory
    pub(crate) directory: PathBuf,
}

#[cfg(test)]
mod tests;
