//! The intent of an incarnation: everything its runner needs to know, resolved, in one JSON object.
//!
//! Written by whoever asked, read once by the runner at claim. Nothing else reaches the runner: no setting
//! and no environment variable is read later.

use crate::template::TemplateIngredients;
use outlast_model::Walker;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// The version of this format that is written.
pub const VERSION: u32 = 1;

/// What one incarnation is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Format version ([`VERSION`]).
    pub version: u32,
    /// What it is for.
    pub purpose: Purpose,
    /// The machine.
    pub machine: Machine,
    /// How it comes to life.
    pub start: Start,
    /// From claim to published, in milliseconds.
    pub boot_timeout_ms: u64,
    /// The fault point to stand still at, `STEP:before` or `STEP:after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    /// Why it boots cold although a template was wanted; the runner publishes it with what it started from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fell_back: Option<String>,
    /// What the machine is made of: what must be equal for its memory to mean the same in another one. Of VMs only, and
    /// absent in intents of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingredients: Option<Box<TemplateIngredients>>,
    /// Wall clock when the request was accepted, in nanoseconds since the Unix epoch.
    pub requested_unix_ns: u64,
    /// The boot of the host in which it was accepted; absent in intents of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_boot_id: Option<String>,
    /// CLOCK_BOOTTIME when it was accepted, in nanoseconds: good for durations within that boot only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_monotonic_ns: Option<u64>,
}

/// What an incarnation is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Purpose {
    /// Runs one program once.
    Workload {
        /// The workload's id.
        workload: String,
        /// The program.
        program: Program,
        /// Whether files left in the guest's output directory are handed back.
        outputs: bool,
    },
    /// Becomes a template: boots, warms up, is saved.
    Template {
        /// The template's key.
        key: String,
        /// The directory in which memory and device state are written; the runner neither makes nor publishes it.
        directory: PathBuf,
        /// The program that warms the guest, if any.
        warm_up: Option<Program>,
    },
    /// Only boots until its agent answers: is this accelerator usable?
    Canary,
    /// Is a long-lived VM for as long as nobody wants it stopped.
    Vm {
        /// The VM's id.
        vm: String,
        /// Its name, which is the guest's host name.
        name: String,
        /// `memory.max` of each program that is run in it, in bytes.
        memory_max: u64,
        /// `pids.max` of each program that is run in it.
        pids_max: u32,
    },
}

impl Purpose {
    /// Which of the boot steps it walks.
    pub const fn walker(&self) -> Walker {
        match self {
            Self::Workload { .. } => Walker::Workload,
            Self::Vm { .. } => Walker::Vm,
            Self::Template { .. } | Self::Canary => Walker::Bare,
        }
    }
}

/// A program in the guest. Values of its environment may be secrets and are not in its debug output.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole environment, `KEY=VALUE`.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// `memory.max` of its cgroup in the guest, in bytes.
    pub memory_max: u64,
    /// `pids.max` of its cgroup in the guest.
    pub pids_max: u32,
    /// How long it may run, in milliseconds.
    pub timeout_ms: u64,
    /// How much of its output is kept, in bytes.
    pub output_limit: u64,
    /// Whether `input/stdin` is its standard input; otherwise /dev/null is.
    pub stdin: bool,
}

impl fmt::Debug for Program {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |assignment: &String| format!("{}=…", assignment.split('=').next().unwrap_or_default());
        let Self { argv, env, cwd, uid, gid, memory_max, pids_max, timeout_ms, output_limit, stdin } = self;
        out.debug_struct("Program")
            .field("argv", argv)
            .field("env", &env.iter().map(name).collect::<Vec<_>>())
            .field("cwd", cwd)
            .field("uid", uid)
            .field("gid", gid)
            .field("memory_max", memory_max)
            .field("pids_max", pids_max)
            .field("timeout_ms", timeout_ms)
            .field("output_limit", output_limit)
            .field("stdin", stdin)
            .finish()
    }
}

/// The machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The backend's name: `qemu`.
    pub backend: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// The CPU model given to the VMM.
    pub cpu_model: String,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// The guest kernel.
    pub kernel: PathBuf,
    /// Its initial RAM file system.
    pub initramfs: PathBuf,
    /// The guest's root file system; absent for a canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<PathBuf>,
    /// The guest kernel's command line.
    pub command_line: String,
    /// The VMM root's directory.
    pub vmm_root: PathBuf,
    /// The VMM's path inside that root.
    pub vmm_binary: PathBuf,
    /// The VMM's version.
    pub vmm_version: String,
    /// The image's name; absent for a canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The image's digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// The machine's second disk, which it may write; absent in intents of older versions and of machines without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch: Option<Scratch>,
}

/// A disk that the guest may write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scratch {
    /// The file on the host.
    pub path: PathBuf,
    /// `raw` or `qcow2`.
    pub format: String,
    /// Its size as the guest sees it, in bytes.
    pub bytes: u64,
}

/// How an incarnation comes to life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "from")]
pub enum Start {
    /// A cold boot.
    Boot,
    /// A clone of a template; a restore that fails falls back to a cold boot, and that is recorded.
    Clone {
        /// The template's directory.
        template: PathBuf,
        /// Its key.
        key: String,
    },
    /// A VM goes on from one of its snapshots: devices, memory and disk. One that fails is no boot, but a failed start.
    Restore {
        /// The snapshot's id.
        snapshot: String,
        /// Its name.
        name: String,
        /// Its directory ([`crate::paths::SnapshotDirectory`]). Its disk is copied to the machine's, which does not exist
        /// yet.
        directory: PathBuf,
    },
}

impl Start {
    /// The name of the snapshot that is restored.
    pub fn restored_from(&self) -> Option<&str> {
        match self {
            Self::Restore { name, .. } => Some(name),
            Self::Boot | Self::Clone { .. } => None,
        }
    }
}
