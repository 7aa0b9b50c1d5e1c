//! What a VMM driver is: the few verbs that QEMU, Firecracker and Cloud Hypervisor have in common.
//!
//! ```text
//!   launch ──► (confined, monitor answers, no vCPU runs)
//!      ├─ boot ────► runs from the kernel's entry
//!      └─ restore ─► runs from where the template, or the whole machine, was saved
//!   pause ⇄ resume      pause → save → power_off        pause → save_whole → resume        kill at any time
//! ```
//!
//! A driver owns its VMM's process and monitor. It does not know the guest protocol, workloads, the store, or
//! what an event means for an outcome: events go up, the runner's loop decides.

use crate::cgroup::{CgroupError, VmmCgroup};
use crate::console::ConsoleKeys;
use crate::disk::DiskError;
use crate::jail::{Identity, JailError};
use crate::process::{Process, ProcessError};
use outlast_wire::intent::Machine;
use outlast_wire::paths::{Evidence, RunDirectory};
use serde_json::Value;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// Everything a driver needs to start one VMM.
#[derive(Debug, Clone)]
pub struct LaunchPlan {
    /// The machine.
    pub machine: Machine,
    /// Where its memory comes from.
    pub memory: MemoryBacking,
    /// The state to restore; without it the machine boots from its kernel. It holds the devices, and, when the memory is
    /// to be anonymous, the memory as well.
    pub incoming: Option<PathBuf>,
    /// Where the sockets are made. It exists, 0700.
    pub run_directory: RunDirectory,
    /// Where console and messages of the VMM are kept. It exists.
    pub evidence: Evidence,
    /// The control group the VMM is put into before any vCPU runs.
    pub vmm_cgroup: VmmCgroup,
    /// The user ids the VMM may have; without any it is whoever the runner is.
    pub identity: Option<Identity>,
    /// The program with the `jail` subcommand: the runner's own executable.
    pub jail_program: PathBuf,
}

/// Where a machine's memory comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryBacking {
    /// Anonymous memory of the VMM.
    Anonymous,
    /// A file of the machine's size, written through: a template being made. Made when it is not there.
    SharedFile(PathBuf),
    /// A template's file, opened read-only and mapped privately: a clone.
    PrivateFile(PathBuf),
}

impl LaunchPlan {
    /// Whether what is restored has the machine's memory in it.
    pub fn restores_memory(&self) -> bool {
        self.incoming.is_some() && self.memory == MemoryBacking::Anonymous
    }
}

/// What a driver can do, so that a plan it cannot carry out is refused before anything exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// It can save and restore machines, so templates make sense.
    pub snapshots: bool,
    /// It runs without hardware virtualisation.
    pub emulation: bool,
    /// It needs /dev/kvm in its jail when it does not emulate.
    pub hardware: bool,
    /// How the agent is reached.
    pub guest_link: GuestLink,
}

/// How the host reaches the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestLink {
    /// A virtio-serial port behind a Unix socket: the connection is the port.
    VirtioSerial,
    /// Vsock behind a Unix socket, with a `CONNECT port` line first.
    VsockOverUnix,
}

/// Something happened to a VMM or its guest that nobody asked for at that moment.
///
/// Each kind is sent at most once per VMM, and `Exited` is always the last: what the monitor still had to say
/// when the process ended comes before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmmEvent {
    /// The guest's kernel panicked; its vCPUs stand still.
    GuestPanicked,
    /// The guest powered itself off; the VMM exits.
    GuestShutdown,
    /// The guest asked for a reset; the VMM exits instead.
    GuestReset,
    /// The monitor hung up, and the VMM has not exited soon after.
    MonitorLost,
    /// The VMM's process is over.
    Exited(VmmExit),
}

/// How a VMM's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmmExit {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// Its status could not be read; that is never taken for a good end.
    Unknown,
}

impl VmmExit {
    /// From a wait status.
    pub fn of(status: std::process::ExitStatus) -> Self {
        use std::os::unix::process::ExitStatusExt;
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Unknown,
        }
    }
}

impl fmt::Display for VmmExit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(out, "exit code {code}"),
            Self::Signal(signal) => write!(out, "signal {signal}"),
            Self::Unknown => out.pad("an unreadable exit status"),
        }
    }
}

/// The events of one VMM, in order. Bounded: a kind comes once. Ends when the driver is dropped.
pub type VmmEvents = mpsc::Receiver<VmmEvent>;

/// A VMM could not be brought to the point where its monitor answers.
#[derive(Debug, Error)]
pub enum LaunchError {
    /// The plan asks for what this driver refuses.
    #[error("the {backend} driver cannot do this: {reason}")]
    Refused {
        /// The driver.
        backend: &'static str,
        /// What it cannot do.
        reason: String,
    },
    /// A file of the plan cannot be opened.
    #[error("cannot open {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A socket or pipe for the VMM could not be made.
    #[error("cannot make the VMM's {what}")]
    Channel {
        /// Which one.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The machine's own disk cannot be used.
    #[error("cannot use the machine's disk")]
    Disk(#[source] DiskError),
    /// The jail's specification could not be handed over.
    #[error("cannot describe the jail")]
    Jail(#[source] JailError),
    /// The process could not be started.
    #[error("cannot start {program}")]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The process could not be identified.
    #[error("cannot identify the VMM's process")]
    Identify(#[source] ProcessError),
    /// The process ended before its monitor answered.
    #[error("the VMM ended with {exit} before its monitor answered{}", said(last_words.as_deref()))]
    Exited {
        /// How.
        exit: VmmExit,
        /// The last line it wrote, if any.
        last_words: Option<String>,
    },
    /// The monitor did not become usable.
    #[error("the VMM's monitor is not usable")]
    Monitor(#[source] BackendError),
    /// The launch failed, and what was started may still run, with its files open.
    #[error("process {pid} was killed because the launch failed, and is not proven dead")]
    Undead {
        /// Its pid in the runner's namespace.
        pid: u32,
        /// Why the launch failed.
        #[source]
        source: Box<LaunchError>,
    },
}

/// A running VMM did not do what it was asked.
#[derive(Debug, Error)]
pub enum BackendError {
    /// The monitor did not answer in time.
    #[error("the monitor did not answer '{command}' within {} ms", within.as_millis())]
    Timeout {
        /// The command.
        command: &'static str,
        /// The deadline.
        within: Duration,
    },
    /// The monitor is gone: the VMM has died or closed it.
    #[error("the monitor hung up before it answered '{command}'")]
    HungUp {
        /// The command.
        command: &'static str,
    },
    /// The monitor refused a command.
    #[error("the monitor refused '{command}': {message}")]
    Refused {
        /// The command.
        command: &'static str,
        /// What it said, shortened.
        message: String,
    },
    /// The monitor said something that is not its protocol.
    #[error("the monitor's answer to '{command}' makes no sense: {detail}")]
    Nonsense {
        /// The command.
        command: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// A file cannot be handed to the VMM.
    #[error("cannot open {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What was to be passed on to the monitor is no command.
    #[error("that is no command for the monitor: {detail}")]
    NotACommand {
        /// What is wrong with it.
        detail: String,
    },
    /// Saving or restoring ended in another state than `completed`.
    #[error("the machine's state was not {verb}: {detail}")]
    Migration {
        /// `saved` or `restored`.
        verb: &'static str,
        /// What the VMM says about it.
        detail: String,
    },
    /// The VMM is not in its control group, so its vCPUs stay where they are.
    #[error("the VMM could not be put into its control group")]
    Cgroup(#[source] CgroupError),
    /// The agent's socket cannot be connected to.
    #[error("cannot connect to the agent's socket {path}")]
    Agent {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What the VMM writes could not be kept.
    #[error("cannot keep the machine's state")]
    Keep(#[source] io::Error),
    /// No machine of this size has so much state.
    #[error("the VMM wrote more than {limit} bytes of state")]
    TooMuch {
        /// What is kept at most.
        limit: u64,
    },
    /// Only memory that is in a file of its own stays behind when device state is saved.
    #[error("this machine's memory is not in a file of its own, so its state cannot be saved")]
    NotSaveable,
    /// The plan had no device state to restore.
    #[error("there is no device state to restore: the machine was launched to boot")]
    NothingToRestore,
    /// The plan was to restore, so there is no kernel to boot.
    #[error("there is no kernel to boot: the machine was launched to be restored")]
    NothingToBoot,
    /// Its process could not be signalled or waited for.
    #[error(transparent)]
    Process(#[from] ProcessError),
}

fn said(last_words: Option<&str>) -> String {
    last_words.map(|words| format!(": {words}")).unwrap_or_default()
}

/// One VMM, driven. All verbs have deadlines of their own ([`outlast_model::timeout`]); a verb whose future
/// is dropped may or may not have had its effect, and the VMM is then only good for being killed.
#[expect(
    async_fn_in_trait,
    reason = "the runner's loop is one thread; nobody needs these futures to be Send"
)]
pub trait Backend: Sized {
    /// The name used in intents and shown to people.
    const NAME: &'static str;

    /// What this driver can do.
    fn capabilities() -> Capabilities;

    /// The devices of this machine, in words that change when they change: part of every template's key. What files lie
    /// behind its disks is not in it.
    fn topology(machine: &Machine) -> String;

    /// Starts the VMM, confined. When this returns the process exists in its jail, its monitor answers, and
    /// no vCPU runs. When it fails the process is dead, or the error is [`LaunchError::Undead`].
    async fn launch(plan: &LaunchPlan) -> Result<(Self, VmmEvents), LaunchError>;

    /// Lets the machine run from its kernel's entry.
    async fn boot(&mut self) -> Result<(), BackendError>;

    /// Loads the plan's device state and lets the machine run from there. A disk of the machine's own need not have the
    /// size it had when that was saved: the guest is told, and notices a moment later.
    async fn restore(&mut self) -> Result<(), BackendError>;

    /// A connection to the agent's port. The guest may not have opened its end yet.
    async fn connect_agent(&mut self) -> Result<UnixStream, BackendError>;

    /// Stops the vCPUs. When this returns, everything that the guest was told it had written is in the files of its
    /// disks, and synced.
    async fn pause(&mut self) -> Result<(), BackendError>;

    /// Lets the vCPUs run again.
    async fn resume(&mut self) -> Result<(), BackendError>;

    /// Writes the device state of the paused machine to a file that this makes or replaces. Memory is not in
    /// it: it is in the plan's shared file.
    async fn save(&mut self, state_file: &Path) -> Result<(), BackendError>;

    /// Writes the paused machine, devices and memory, to `file`, wherever its memory is kept, and waits at most `within`.
    /// The VMM gets nothing of the file: it writes into a pipe, and this side keeps no more than a machine can have. The
    /// machine stays paused. The file's length in bytes is returned; nothing is synced. Cancelled, it goes on
    /// until [`Self::abandon_save`], and no vCPU can run before that.
    async fn save_whole(&mut self, file: File, within: Duration) -> Result<u64, BackendError>;

    /// Ends a [`Self::save_whole`] that was cancelled: the machine is paused as it was before, as far as that can be had.
    async fn abandon_save(&mut self);

    /// Passes a command on that a person wrote in the language of this VMM's monitor. The answer comes within
    /// [`outlast_model::timeout::MONITOR`], and is waited for without holding the driver.
    fn monitor(
        &self,
        command: &str,
    ) -> Result<impl Future<Output = Result<Value, BackendError>> + use<Self> + 'static, BackendError>;

    /// What is typed on the guest's serial console goes in here.
    fn keys(&self) -> ConsoleKeys;

    /// Asks the VMM to exit. That it has is told by [`VmmEvent::Exited`].
    async fn power_off(&mut self) -> Result<(), BackendError>;

    /// The VMM's process.
    fn process(&self) -> &Process;

    /// Waits until everything that the guest's console said is in its log, but no longer than
    /// [`outlast_model::timeout::LAST_WORDS`]. Only a dead VMM says nothing more.
    async fn console_kept(&mut self);

    /// Kills the VMM's process. That it is dead is told by [`VmmEvent::Exited`].
    fn kill(&self) -> Result<(), BackendError>;
}
