//! The launcher: makes the cgroup and the namespaces, puts the runner into them, tells it who it is, leaves.
//!
//! It exists because only a process outside a PID namespace can see what its PID 1 is called out there. The
//! runner has no effect before it has read its identity, so a launcher that dies anywhere leaves nothing but
//! (perhaps) an empty cgroup, which is found by its name.
//!
//! Under systemd it begins in a scope of the incarnation's, and so does all that it starts. It says so before it does
//! anything: whoever started it does so again without a scope when it does not.

use crate::arguments::Order;
use crate::hold::FaultPoint;
use outlast_machine::cgroup::{CgroupError, Hierarchy, IncarnationCgroup};
use outlast_machine::namespace::{self, NamespaceError};
use outlast_machine::process::{self, ProcessError};
use outlast_machine::sys;
use outlast_model::{Edge, LauncherStep, timeout};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use thiserror::Error;

/// Why no runner could be launched. Whatever was made until then is gone or empty.
#[derive(Debug, Error)]
pub(crate) enum LaunchError {
    /// The cgroup.
    #[error("cannot make the incarnation's cgroup")]
    Cgroup(#[source] CgroupError),
    /// The namespaces.
    #[error("cannot make namespaces")]
    Namespace(#[source] NamespaceError),
    /// The pipe to the runner.
    #[error("cannot make a pipe to the runner")]
    Pipe(#[source] io::Error),
    /// Starting the runner.
    #[error("cannot start the runner")]
    Spawn(#[source] io::Error),
    /// Reading who the runner is.
    #[error("cannot tell who the runner is")]
    Identity(#[source] ProcessError),
    /// What a runner begins with does not work.
    #[error("{0}")]
    Attempt(String),
    /// The scope.
    #[error("cannot say that this is the scope that was asked for")]
    Scope(#[source] io::Error),
    /// Telling it.
    #[error("cannot tell the runner who it is")]
    Tell(#[source] io::Error),
    /// Standing still.
    #[error("the fault point")]
    Hold(#[source] io::Error),
}

/// Launches the runner of an incarnation and returns as soon as it knows who it is.
pub(crate) fn launch(order: &Order) -> Result<(), LaunchError> {
    // Already the leader of a session when the caller saw to it; that is as good.
    let _ = rustix::process::setsid();
    let fault_point = FaultPoint::new(order.hold, order.places.evidence(order.incarnation).hold());
    let hierarchy = Hierarchy::detect_or_do_without().map_err(LaunchError::Cgroup)?;
    let scope = order.scope.map(|number| settle(order, &hierarchy, number)).transpose()?;
    let cgroup = held(&fault_point, LauncherStep::Cgroup, || make_cgroup(order, &hierarchy, scope))?;
    let launched = start_runner(order, &fault_point)
        .and_then(|runner| held(&fault_point, LauncherStep::Adopt, || adopt(&cgroup, runner)));
    if launched.is_err() {
        // What cannot be removed now is found by its name later.
        let _ = cgroup.remove_from_inside(timeout::DEATH);
    }
    launched
}

/// Makes sure that this process is in the scope it is to be in, and says so.
fn settle(order: &Order, hierarchy: &Hierarchy, number: RawFd) -> Result<IncarnationCgroup, LaunchError> {
    let pipe = sys::take_inherited(number).map_err(LaunchError::Scope)?;
    let scope = IncarnationCgroup::of_own_scope(hierarchy, order.store, order.incarnation);
    let scope = scope.map_err(LaunchError::Cgroup)?;
    File::from(pipe).write_all(b"\n").map_err(LaunchError::Scope)?;
    Ok(scope)
}

fn make_cgroup(
    order: &Order,
    hierarchy: &Hierarchy,
    scope: Option<IncarnationCgroup>,
) -> Result<IncarnationCgroup, LaunchError> {
    let made = match scope {
        Some(scope) => scope.furnish().map(|()| scope),
        None => IncarnationCgroup::create(hierarchy, order.store, order.incarnation),
    };
    made.map_err(LaunchError::Cgroup)
}

/// Moves the runner out of the cgroup of whoever asked for it, whose end must not take it along. Moving takes
/// the kernel several milliseconds, so it happens while the runner works.
fn adopt(cgroup: &IncarnationCgroup, mut runner: Child) -> Result<(), LaunchError> {
    let adopted = cgroup.adopt_runner(runner.id()).map_err(LaunchError::Cgroup);
    if adopted.is_err() {
        // Our own child, not waited for: its pid is still its own.
        let _ = runner.kill();
        let _ = runner.wait();
    }
    adopted
}

/// Does a step, standing still on either side of it where asked to.
fn held<T>(
    fault_point: &FaultPoint,
    step: LauncherStep,
    act: impl FnOnce() -> Result<T, LaunchError>,
) -> Result<T, LaunchError> {
    fault_point.pass_blocking(step, Edge::Before).map_err(LaunchError::Hold)?;
    let made = act()?;
    fault_point.pass_blocking(step, Edge::After).map_err(LaunchError::Hold)?;
    Ok(made)
}

/// Tries whether namespaces can be had: makes them, and in them a process that does what a runner begins with.
pub(crate) fn attempt() -> Result<(), LaunchError> {
    namespace::unshare_for_runner().map_err(LaunchError::Namespace)?;
    let mut inside = Command::new("/proc/self/exe");
    inside.arg("try-inside").env_clear();
    let tried = process::attempt(&mut inside, timeout::ATTEMPT_INSIDE).map_err(LaunchError::Spawn)?;
    match tried {
        Some(ended) if ended.status.success() => Ok(()),
        Some(ended) => Err(LaunchError::Attempt(ended.said)),
        None => {
            let seconds = timeout::ATTEMPT_INSIDE.as_secs();
            Err(LaunchError::Attempt(format!("it did not come up in them within {seconds} s")))
        }
    }
}

/// What is done inside: nothing stays of it when whoever tries is gone.
pub(crate) fn attempt_inside() -> Result<(), NamespaceError> {
    // Without it this ends by itself a moment later.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    namespace::become_init()
}

fn start_runner(order: &Order, fault_point: &FaultPoint) -> Result<Child, LaunchError> {
    let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let (read, write) = pipe.map_err(|errno| LaunchError::Pipe(errno.into()))?;
    let child = held(fault_point, LauncherStep::Runner, || {
        namespace::unshare_for_runner().map_err(LaunchError::Namespace)?;
        spawn(order, read).map_err(LaunchError::Spawn)
    })?;
    held(fault_point, LauncherStep::Identity, || tell(child.id(), write))?;
    Ok(child)
}

fn tell(runner: u32, pipe: OwnedFd) -> Result<(), LaunchError> {
    // A child that died already gives an error here, and end of file to nobody.
    let identity = process::identity_of(runner).map_err(LaunchError::Identity)?;
    let mut line = serde_json::to_vec(&identity).expect("an identity is plain data");
    line.push(b'\n');
    File::from(pipe).write_all(&line).map_err(LaunchError::Tell)
}

fn spawn(order: &Order, identity: OwnedFd) -> io::Result<Child> {
    // The very file this is, even if an upgrade has replaced it meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("outlast-runner")
        .arg("run")
        .arg("--home")
        .arg(order.places.home())
        .arg("--run")
        .arg(order.places.run())
        .arg("--library")
        .arg(order.places.library().path())
        .args(["--store", &order.store.to_string()])
        .args(["--incarnation", &order.incarnation.to_string()])
        .args(["--identity-fd", &identity.as_raw_fd().to_string()])
        // The runner needs nothing of anyone's environment; what it needs is in the intent.
        .env_clear()
        .current_dir("/");
    if let Some(lease) = order.lease {
        command.args(["--lease-fd", &lease.to_string()]);
    }
    if let Some(backtrace) = std::env::var_os("RUST_BACKTRACE") {
        command.env("RUST_BACKTRACE", backtrace);
    }
    sys::inherit(&mut command, vec![identity]);
    command.spawn()
}
