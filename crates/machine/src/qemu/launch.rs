//! Bringing a QEMU process to the point where its monitor answers and no vCPU runs.
//!
//! Whatever fails on the way, the process is killed and its death waited for: whoever is told of a failed launch
//! may take its files away. Descriptors close with the values that own them; the sockets' files are left to
//! whoever owns the run directory.

use super::Qemu;
use super::arguments::{self, Channels};
use super::limits;
use super::monitor::{Monitor, REQUESTS};
use super::state::{Incoming, Restoring};
use super::watch::{EVENTS, Watch, keep_log};
use crate::backend::{BackendError, LaunchError, LaunchPlan, MemoryBacking, VmmEvent, VmmEvents};
use crate::console::ConsoleKeys;
use crate::jail::{self, JailSpec};
use crate::process::Process;
use crate::{console, disk, sys};
use outlast_model::{limit, timeout};
use qapi::qmp;
use rustix::fd::{OwnedFd, RawFd};
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream as StdUnixStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Starts QEMU in its jail and waits for its monitor.
pub(super) async fn launch(plan: &LaunchPlan) -> Result<(Qemu, VmmEvents), LaunchError> {
    let channels = make_channels(plan)?;
    make_memory_file(&plan.memory, plan.machine.memory)?;
    // Order matters: connected before there is anybody to answer, a VMM that dies at once is a hang-up, which is
    // explained with its last words, and never a connection refused.
    let stream = connect(&plan.run_directory.monitor_socket()).await?;
    let agent = connect(&plan.run_directory.agent_socket()).await?;
    let child = spawn(plan, channels.theirs, &channels.numbers, channels.disk_bytes)?;
    let process = match identify(&child) {
        Ok(process) => Arc::new(process),
        Err(error) => return Err(end_nameless(child, error).await),
    };
    match attend(plan, child, stream, channels.console) {
        Ok(attended) => {
            let found = (channels.disk_bytes, channels.incoming);
            negotiated(plan, process, agent, (attended, found)).await
        }
        Err(error) => Err(end(&process, error).await),
    }
}

/// The process with somebody who listens to it.
struct Attended {
    watch: JoinHandle<()>,
    monitor: Monitor,
    events: VmmEvents,
    console: JoinHandle<()>,
    keys: ConsoleKeys,
}

/// Keeps what the process says and starts the task that owns the process from here on.
fn attend(
    plan: &LaunchPlan,
    mut child: Child,
    stream: UnixStream,
    console: StdUnixStream,
) -> Result<Attended, LaunchError> {
    let (console, keys) = keep_console(console, plan)?;
    let (request_sender, requests) = mpsc::channel(REQUESTS);
    let (migration, migration_news) = watch::channel(None);
    let (event_sender, events) = mpsc::channel(EVENTS);
    let stderr = child.stderr.take().map(|stderr| keep_log(stderr, plan.evidence.vmm_log()));
    let watch = Watch { child, stream, requests, migration, events: event_sender, stderr };
    let monitor = Monitor::new(request_sender, migration_news);
    Ok(Attended { watch: tokio::spawn(watch.run()), monitor, events, console, keys })
}

async fn negotiated(
    plan: &LaunchPlan,
    process: Arc<Process>,
    agent: UnixStream,
    (attended, (disk_bytes, incoming)): (Attended, (Option<u64>, Option<Incoming>)),
) -> Result<(Qemu, VmmEvents), LaunchError> {
    let Attended { watch, monitor, mut events, console, keys } = attended;
    let confined = confine(plan, process.identity().pid);
    let mut qemu = Qemu {
        process,
        monitor,
        agent: Some(agent),
        agent_socket: plan.run_directory.agent_socket(),
        incoming,
        memory: plan.machine.memory,
        disk_bytes,
        saveable: matches!(plan.memory, MemoryBacking::SharedFile(_)),
        restoring: None,
        confined,
        console: Some(console),
        keys,
        watch,
    };
    match negotiate(&mut qemu).await {
        Ok(()) => Ok((qemu, events)),
        Err(error) => {
            let error = explained(error, &mut events, &plan.evidence.vmm_log()).await;
            // Order matters: `qemu` lives until after this, and with it the task that reaps the process.
            Err(end(&qemu.process, error).await)
        }
    }
}

/// Kills the process of a failed launch and waits until it is dead; says so when that is not proven.
async fn end(process: &Arc<Process>, error: LaunchError) -> LaunchError {
    let killed = process.signal(Signal::KILL);
    // On a thread of its own: the task that reaps the process and the runner's heart go on meanwhile.
    let waiting = tokio::task::spawn_blocking({
        let process = Arc::clone(process);
        move || process.wait_dead(timeout::RUNG_KILL)
    });
    match waiting.await {
        Ok(Ok(true)) => error,
        dead => {
            tracing::error!(?killed, ?dead, "the process of a failed launch is not proven dead");
            LaunchError::Undead { pid: process.identity().pid, source: Box::new(error) }
        }
    }
}

/// As [`end`], for a child of which no pidfd is to be had: that it is ours makes its pid its own.
async fn end_nameless(mut child: Child, error: LaunchError) -> LaunchError {
    let pid = child.id().unwrap_or_default();
    match tokio::time::timeout(timeout::RUNG_KILL, child.kill()).await {
        Ok(Ok(())) => error,
        unproven => {
            tracing::error!(?unproven, "the process of a failed launch is not proven dead");
            LaunchError::Undead { pid, source: Box::new(error) }
        }
    }
}

/// Waits until the monitor answers. What a restore begins with is sent without waiting for that.
async fn negotiate(qemu: &mut Qemu) -> Result<(), BackendError> {
    let greeted = qemu.monitor.submit(qmp::qmp_capabilities { enable: None })?;
    if let Some(incoming) = qemu.incoming {
        qemu.restoring = Some(Restoring::begin(&qemu.monitor, incoming)?);
    }
    greeted.answer().await.map(drop)
}

/// A monitor that hung up is a VMM that ended: says how, and with which words.
async fn explained(error: BackendError, events: &mut VmmEvents, log: &Path) -> LaunchError {
    let BackendError::HungUp { .. } = error else { return LaunchError::Monitor(error) };
    let exit = async {
        while let Some(event) = events.recv().await {
            if let VmmEvent::Exited(exit) = event {
                return Some(exit);
            }
        }
        None
    };
    match tokio::time::timeout(timeout::DEATH, exit).await {
        Ok(Some(exit)) => LaunchError::Exited { exit, last_words: console::last_words(log) },
        Ok(None) | Err(_) => LaunchError::Monitor(error),
    }
}

/// Our ends and theirs of everything between the runner and QEMU.
struct OpenChannels {
    theirs: Vec<OwnedFd>,
    numbers: Channels,
    console: StdUnixStream,
    /// The size of the machine's own disk.
    disk_bytes: Option<u64>,
    /// What is restored.
    incoming: Option<Incoming>,
}

fn make_channels(plan: &LaunchPlan) -> Result<OpenChannels, LaunchError> {
    let channel = |what| move |source| LaunchError::Channel { what, source };
    let monitor = listen(&plan.run_directory.monitor_socket()).map_err(channel("monitor socket"))?;
    let agent = listen(&plan.run_directory.agent_socket()).map_err(channel("agent socket"))?;
    let (console, their_console) = StdUnixStream::pair().map_err(channel("console"))?;
    let their_console = OwnedFd::from(their_console);
    let incoming = plan.incoming.as_deref().map(open_state).transpose()?;
    let scratch = plan.machine.scratch.as_ref().map(disk::open).transpose().map_err(LaunchError::Disk)?;
    let numbers = Channels {
        monitor: sys::number_of(&monitor),
        agent: sys::number_of(&agent),
        console: sys::number_of(&their_console),
        incoming: incoming.as_ref().map(sys::number_of),
        scratch: scratch.as_ref().map(|disk| sys::number_of(&disk.file)),
    };
    let disk_bytes = scratch.as_ref().map(|disk| disk.bytes);
    let restored = incoming.as_ref().map(|state| Incoming::of(plan, length_of(state)));
    let mut theirs = vec![monitor, agent, their_console];
    theirs.extend(incoming);
    theirs.extend(scratch.map(|disk| disk.file));
    Ok(OpenChannels { theirs, numbers, console, disk_bytes, incoming: restored })
}

/// What cannot be measured is taken for short: then it is not waited for long.
fn length_of(file: &OwnedFd) -> u64 {
    rustix::fs::fstat(file).ok().and_then(|status| u64::try_from(status.st_size).ok()).unwrap_or(0)
}

/// A listening socket, 0600. One that an earlier attempt of this incarnation left is replaced.
fn listen(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener.into())
}

fn open_state(path: &Path) -> Result<OwnedFd, LaunchError> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| LaunchError::Open { path: path.to_owned(), source: errno.into() })
}

/// QEMU would make the file of a template's memory itself, but in its jail there is nowhere to make one.
fn make_memory_file(memory: &MemoryBacking, bytes: u64) -> Result<(), LaunchError> {
    let MemoryBacking::SharedFile(path) = memory else { return Ok(()) };
    let failed = |source| LaunchError::Open { path: path.clone(), source };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map_err(|e| failed(e.into()))?;
    rustix::fs::ftruncate(&file, bytes).map_err(|errno| failed(errno.into()))
}

fn spawn(
    plan: &LaunchPlan,
    theirs: Vec<OwnedFd>,
    numbers: &Channels,
    disk_bytes: Option<u64>,
) -> Result<Child, LaunchError> {
    let mut descriptors: Vec<RawFd> = vec![numbers.monitor, numbers.agent, numbers.console];
    descriptors.extend(numbers.incoming);
    descriptors.extend(numbers.scratch);
    let spec = JailSpec {
        root: plan.machine.vmm_root.clone(),
        stage: plan.run_directory.path().to_owned(),
        files: arguments::files(plan),
        devices: arguments::host_devices(plan),
        descriptors,
        program: plan.machine.vmm_binary.clone(),
        arguments: arguments::arguments(plan, numbers)?,
        identity: plan.identity,
        limits: limits::of_process(plan, plan.vmm_cgroup.limits_memory(), disk_bytes),
    };
    let mut command = jail::command(&plan.jail_program, &spec, theirs).map_err(LaunchError::Jail)?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // Order matters: the command owns their ends of the channels and is dropped here, right after the spawn,
    // so that a child that dies is a hang-up and not a socket on which nobody ever answers.
    Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| LaunchError::Spawn { program: plan.jail_program.clone(), source })
}

fn identify(child: &Child) -> Result<Process, LaunchError> {
    // A child that nobody has waited for keeps its pid, dead or alive.
    let pid = child.id().unwrap_or_default();
    Process::of_child(pid).map_err(LaunchError::Identify)
}

fn confine(plan: &LaunchPlan, pid: u32) -> Option<JoinHandle<Result<(), crate::cgroup::CgroupError>>> {
    let (cgroup, limits) = (plan.vmm_cgroup.clone(), limits::limits(plan));
    let put_in = move || {
        // Order matters: there is no moment in which the VMM is in there without its limits.
        let limited = cgroup.limit(&limits)?;
        tracing::debug!(?limits, ?limited, "the VMM's limits");
        cgroup.add(pid)
    };
    (!plan.vmm_cgroup.is_none()).then(|| tokio::task::spawn_blocking(put_in))
}

/// The console is drained for as long as QEMU holds its end, whatever becomes of the driver.
fn keep_console(
    console: StdUnixStream,
    plan: &LaunchPlan,
) -> Result<(JoinHandle<()>, ConsoleKeys), LaunchError> {
    let failed = |source| LaunchError::Channel { what: "console", source };
    console.set_nonblocking(true).map_err(failed)?;
    let (words, keys) = UnixStream::from_std(console).map_err(failed)?.into_split();
    let path = plan.evidence.console_log();
    // Only a long-lived VM has a disk of its own, and somebody at its console.
    let most = if plan.machine.scratch.is_some() { limit::VM_CONSOLE_BYTES } else { limit::CONSOLE_BYTES };
    let keeping = tokio::spawn(async move {
        let kept = console::record(words, &path, most, "the guest wrote more than is kept");
        if let Err(error) = kept.await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the console is not kept");
        }
    });
    Ok((keeping, ConsoleKeys::new(keys)))
}

async fn connect(path: &Path) -> Result<UnixStream, LaunchError> {
    UnixStream::connect(path)
        .await
        .map_err(|source| LaunchError::Channel { what: "connection to its monitor", source })
}
