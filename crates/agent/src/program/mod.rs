//! One program from its request to its end: a cgroup of its own, a process, its three streams, its exit.
//!
//! ```text
//!   start (no waiting)                    run (a future of its own)
//!   check → cgroup → pipes → spawn  ──►   Started, Credit ─┬─ pump stdout, stderr ─┐
//!          │                              or Refused       ├─ feed stdin           ├─► program ended
//!          └─► Refused                                     └─ deadline: kill       ┘        │
//!                        Exited ◄── drain what the pipes still hold ◄── kill what is left in the cgroup
//! ```
//!
//! Not known here: connections and frames (a program talks to an outlet), and who collects exit statuses.

mod account;
mod cgroup;
mod lookup;
mod reaper;
mod running;
mod seat;
mod streams;
mod terminal;

pub(crate) use cgroup::{Groups, TREE as CGROUP_TREE, kill_all_programs, prepare_cgroups};
pub(crate) use reaper::{Reaper, Scope};
pub(crate) use running::Running;
pub(crate) use seat::{attend as offer_console, console_device};

use crate::refusal::Reason;
use crate::sys::spawn::{self, Plan, Stage};
use account::{Account, AccountError};
use cgroup::{CgroupError, Group, Limits};
use lookup::BadRequest;
use outlast_wire::guest::{Exec, INITIAL_CREDIT, Resize, StdinData};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Signal;
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};
use streams::{Intake, Streams};
use terminal::{Terminal, WindowSize};
use thiserror::Error;
use tokio::sync::mpsc;

/// Why a program was not started. It never ran.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum StartError {
    /// The request cannot be carried out as it stands.
    #[error("request")]
    Request(#[from] BadRequest),
    /// The guest knows no such user.
    #[error(transparent)]
    User(#[from] AccountError),
    /// Its cgroup could not be made.
    #[error("cgroup")]
    Cgroup(#[from] CgroupError),
    /// No pipes, no terminal or no /dev/null, for its streams.
    #[error("streams")]
    Streams(#[source] Errno),
    /// clone3 failed.
    #[error("clone")]
    Clone(#[source] Errno),
    /// The child could not become the program.
    #[error("{}", stage_text(*stage))]
    Child {
        /// How far it came.
        stage: Stage,
        /// What the kernel answered there.
        source: Errno,
    },
}

fn stage_text(stage: Stage) -> &'static str {
    match stage {
        Stage::Session => "new session",
        Stage::Descriptors => "standard streams",
        Stage::Terminal => "controlling terminal",
        Stage::Privileges => "become the user",
        Stage::Directory => "working directory",
        Stage::Program => "execute",
    }
}

impl Reason for StartError {
    fn errno(&self) -> i32 {
        match self {
            Self::Request(_) | Self::User(AccountError::Unknown(_)) => Errno::INVAL.raw_os_error(),
            Self::User(AccountError::Read(_, source)) => source.raw_os_error().unwrap_or(0),
            Self::Cgroup(error) => error.errno(),
            Self::Streams(source) | Self::Clone(source) | Self::Child { source, .. } => source.raw_os_error(),
        }
    }
}

/// Programs do not stand still, or do not go on.
#[derive(Debug, Error)]
#[error("freeze or thaw programs")]
pub(crate) struct FreezeError(#[source] CgroupError);

impl Reason for FreezeError {
    fn errno(&self) -> i32 {
        self.0.errno()
    }
}

/// What starting a program needs besides its request.
pub(crate) struct Site {
    /// Collects exit statuses.
    reaper: Rc<Reaper>,
    /// Makes the groups that keep programs together.
    groups: Rc<Groups>,
    /// /dev/null, for programs whose standard input is not fed.
    null: OwnedFd,
}

impl Site {
    /// Opens what every start needs.
    pub(crate) fn new(reaper: Rc<Reaper>, groups: Rc<Groups>) -> Result<Self, Errno> {
        let null = rustix::fs::open(c"/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { reaper, groups, null })
    }

    /// Lets all programs of the guest stand still, or go on.
    ///
    /// # Errors
    /// Its reason is ETIMEDOUT when one did not stand still in time: then all go on.
    pub(crate) fn freeze(&self, frozen: bool) -> Result<(), FreezeError> {
        self.groups.freeze(frozen).map_err(FreezeError)
    }

    /// Makes ready what the next start will need, if it is not.
    pub(crate) fn prepare(&self) {
        self.groups.prepare_one();
    }
}

/// A session's hold on a program that was started. Dropping it does not end the program; [`Self::kill`] does.
pub(crate) struct Handle {
    group: Rc<Group>,
    pidfd: OwnedFd,
    stdin: Option<Gate>,
    terminal: Option<Rc<Terminal>>,
    over: Rc<Cell<bool>>,
}

/// The credit side of standard input: what the host may still send.
struct Gate {
    left: Rc<Cell<u64>>,
    intake: mpsc::UnboundedSender<StdinData>,
}

/// The host sent more than it was given credit for, or to a stream that takes nothing.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("data without credit")]
pub(crate) struct OverCredit;

impl Handle {
    /// Takes bytes for standard input. After the program's end they are dropped.
    pub(crate) fn feed(&self, data: StdinData) -> Result<(), OverCredit> {
        let gate = self.stdin.as_ref().ok_or(OverCredit)?;
        let length = u64::try_from(data.data.len()).unwrap_or(u64::MAX);
        gate.left.set(gate.left.get().checked_sub(length).ok_or(OverCredit)?);
        // The receiver is gone only when the program is: nobody is left to read these bytes.
        let _ = gate.intake.send(data);
        Ok(())
    }

    /// Sends one signal to the program itself; KILL goes to its whole group.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Errno> {
        if signal == Signal::KILL {
            return self.group.kill().map_err(|error| Errno::from_raw_os_error(error.errno()));
        }
        rustix::process::pidfd_send_signal(&self.pidfd, signal)
    }

    /// Gives its terminal another size.
    ///
    /// # Errors
    /// `ENOTTY` when it has none, `EINVAL` when no terminal has that size.
    pub(crate) fn resize(&self, request: Resize) -> Result<(), Errno> {
        let size = WindowSize::new(request.rows, request.columns).ok_or(Errno::INVAL)?;
        self.terminal.as_ref().ok_or(Errno::NOTTY)?.resize(size)
    }

    /// Whether nothing of it lives any more; its end may still be on its way to the host.
    pub(crate) fn is_over(&self) -> bool {
        self.over.get()
    }

    /// Asks the program and everything it started to end (SIGTERM).
    pub(crate) fn ask_to_end(&self) {
        if let Err(error) = self.group.ask_to_end() {
            crate::console::say_error("ask a program to end", &error);
        }
    }

    /// Kills the program and everything it started. Its future then ends by itself.
    pub(crate) fn kill(&self) {
        if let Err(error) = self.group.kill() {
            crate::console::say_error("kill a program", &error);
        }
    }
}

/// Starts the program of `request`: everything up to and including clone3, without waiting for anything.
/// The caller runs the future of [`Running::run`].
///
/// # Errors
/// [`StartError`]; nothing is left of the attempt then.
pub(crate) fn start(request: &Exec, site: &Site) -> Result<(Handle, Running), StartError> {
    let account = (!request.user.is_empty()).then(|| Account::find(&request.user)).transpose()?;
    let plan = lookup::check(request, account)?;
    let limits = Limits { memory_max: request.memory_max, pids_max: request.pids_max };
    let group = Rc::new(site.groups.make(&limits)?);
    let started = start_in(request, plan, &group, site);
    if started.is_err() {
        group.remove();
    }
    started
}

fn start_in(
    request: &Exec,
    plan: Plan,
    group: &Rc<Group>,
    site: &Site,
) -> Result<(Handle, Running), StartError> {
    let (streams, ends) = streams_of(request, &plan, site).map_err(StartError::Streams)?;
    let started = Instant::now();
    let child = spawn::spawn(plan, ends, group.directory()).map_err(StartError::Clone)?;
    group.has_leader(child.pid);
    let left = Rc::new(Cell::new(u64::from(INITIAL_CREDIT)));
    let (intake, arriving) = mpsc::unbounded_channel();
    let stdin = streams.stdin.is_some().then(|| Gate { left: Rc::clone(&left), intake });
    let running = Running {
        pid: child.pid,
        status: site.reaper.expect(child.pid),
        beginning: Some(child.beginning),
        deadline: (request.deadline_ms > 0).then(|| started + Duration::from_millis(request.deadline_ms)),
        intake: Intake::new(streams.stdin, arriving, left),
        stdout: streams.stdout,
        stderr: streams.stderr,
        group: Rc::clone(group),
        groups: Rc::clone(&site.groups),
        started,
        over: Rc::default(),
    };
    let (terminal, over) = (streams.terminal, Rc::clone(&running.over));
    Ok((Handle { group: Rc::clone(group), pidfd: child.pidfd, stdin, terminal, over }, running))
}

fn streams_of(request: &Exec, plan: &Plan, site: &Site) -> Result<(Streams, [OwnedFd; 3]), Errno> {
    if !request.pty {
        return Streams::pipes(request.stdin, &site.null);
    }
    let window = WindowSize::new(request.rows, request.columns).ok_or(Errno::INVAL)?;
    Streams::terminal(request.stdin, window, plan.user.as_ref().map(|user| user.uid))
}
