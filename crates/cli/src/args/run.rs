//! What can be typed after `outlast run`.

use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;

const RUN_HELP: &str = "\
The exit code is the program's own; 128 + n when signal n killed it; 124 when its time was over; 137 when it was
killed or ran out of memory; 125 when it did not run, or outlast failed (--json says which).";

#[derive(Debug, Args)]
#[command(after_help = RUN_HELP)]
pub(crate) struct RunArgs {
    /// A file of source code, or - for standard input; its name tells the runtime
    pub(crate) file: Option<PathBuf>,
    /// After --: arguments of the program, or with --image the command
    #[arg(last = true, value_name = "ARGS")]
    pub(crate) rest: Vec<OsString>,

    /// The runtime: python, node, go
    #[arg(long, value_name = "R")]
    pub(crate) runtime: Option<String>,
    /// Run a command of this image
    #[arg(long, value_name = "I")]
    pub(crate) image: Option<String>,
    /// A tar.gz of source code, at most 10 MiB
    #[arg(long, value_name = "T.tar.gz")]
    pub(crate) archive: Option<PathBuf>,
    /// The file in the archive to start
    #[arg(long, value_name = "FILE")]
    pub(crate) entry: Option<String>,

    /// vCPUs of the machine [default: 1]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(crate) vcpus: Option<String>,
    /// Memory limit of the program [default: 256M, or the image's least]
    #[arg(long, value_name = "256M", allow_hyphen_values = true)]
    pub(crate) memory: Option<String>,
    /// How long it may run, from the moment the code starts [default: 30s]
    #[arg(long, value_name = "30s", allow_hyphen_values = true)]
    pub(crate) timeout: Option<String>,
    /// How much output is kept [default: 16M]
    #[arg(long, value_name = "16M", allow_hyphen_values = true)]
    pub(crate) output_limit: Option<String>,

    /// An environment variable (repeatable)
    #[arg(long, value_name = "K=V")]
    pub(crate) env: Vec<OsString>,
    /// A file for the program's standard input, or - for ours
    #[arg(long, value_name = "FILE")]
    pub(crate) stdin: Option<PathBuf>,
    /// Where files that the program leaves in /outlast/out go; must be empty or not be there yet
    #[arg(long, value_name = "DIR")]
    pub(crate) output_dir: Option<PathBuf>,

    /// auto, kvm or tcg (emulation)
    #[arg(long, value_name = "A", default_value = "auto")]
    pub(crate) accel: String,
    /// Boot, even if there is a template
    #[arg(long)]
    pub(crate) cold: bool,
    /// Print the id and return; the workload goes on
    #[arg(long)]
    pub(crate) detach: bool,
    /// A repeated request with the same key is the first one again
    #[arg(long, value_name = "K")]
    pub(crate) idempotency_key: Option<String>,
    /// The VMM: qemu
    #[arg(long, value_name = "B", default_value = "qemu")]
    pub(crate) backend: String,
    /// microvm or auto, which is the same
    #[arg(long, value_name = "ISO", default_value = "auto")]
    pub(crate) isolation: String,
    /// The network: none
    #[arg(long, value_name = "NET", default_value = "none")]
    pub(crate) network: String,

    // Of later versions: known by name, so that they are refused by name.
    #[arg(long, hide = true)]
    pub(crate) network_policy: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) allow: Vec<String>,
    #[arg(long, hide = true)]
    pub(crate) volume: Vec<String>,
}
