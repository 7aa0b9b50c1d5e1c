//! Starts a runner: its launcher is spawned, waited for, and that is all. Runners are never children of ours.
//!
//! ```text
//!   we ──spawn──► launcher ──spawn──► runner          we ◄══ lease (a socket pair) ══► runner
//!      ◄──exit───┘
//! ```
//!
//! Under systemd the launcher begins in a scope of the incarnation's. Without an answer of systemd's in time it is
//! started again without one: what the incarnation lives in then is found and told by the runner.
//!
//! The launcher opens a session of its own, so a runner survives the terminal. What the runner is to do stands
//! in the store; nothing but the lease, the locks on what it uses, and its name is handed over.

use crate::site::{Site, SiteError};
use outlast_machine::cgroup::Hierarchy;
use outlast_machine::image::Lease as Lock;
use outlast_machine::process::{Process, ProcessError};
use outlast_machine::sys;
use outlast_model::{Hold, IncarnationId, StoreId, timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use thiserror::Error;

/// Of a runner's log, so many bytes from its end are shown in an error.
const LAST_WORDS: u64 = 2048;

/// No runner was started, or it is not known that one was.
#[derive(Debug, Error)]
pub enum LaunchError {
    /// A place or a program.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// The runner's log cannot be made.
    #[error("cannot make {}", .path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What the runner is to inherit cannot be made.
    #[error("cannot make what a runner inherits")]
    Inheritance(#[source] io::Error),
    /// The launcher cannot be started.
    #[error("cannot start {}", .program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The launcher cannot be waited for.
    #[error("cannot wait for the launcher of incarnation {incarnation}")]
    Wait {
        /// The incarnation.
        incarnation: IncarnationId,
        /// Why.
        source: ProcessError,
    },
    /// The launcher's status cannot be read.
    #[error("cannot read how the launcher of incarnation {incarnation} ended")]
    Status {
        /// The incarnation.
        incarnation: IncarnationId,
        /// Why.
        source: io::Error,
    },
    /// The launcher failed.
    #[error("the launcher ended with {status}: {last_words}")]
    Failed {
        /// Exit code or signal, in words.
        status: ExitStatus,
        /// The end of what it said.
        last_words: String,
    },
    /// The launcher did not end in time and was killed.
    #[error("the launcher did not end within {} s and was killed", timeout::CLAIM.as_secs())]
    TooSlow,
}

/// The client's end of a lease. While it is open the runner knows that somebody waits; dropped, the runner
/// kills its workload. Its end of file means that the runner is gone.
#[derive(Debug)]
pub(crate) struct Lease(OwnedFd);

impl Lease {
    /// Tells the runner that nobody waits any more, and goes on seeing when it is gone.
    pub(crate) fn give_up(&self) {
        // An error means that there is no other end: then it is told already.
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Write);
    }
}

impl AsFd for Lease {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Tells when nobody of a launch is left, neither launcher nor runner: both hold the other end of this pipe, into
/// which nothing is ever written. Unlike a lease every launch has one, and no runner takes note of it.
#[derive(Debug)]
pub(crate) struct Presence(OwnedFd);

impl AsFd for Presence {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What is launched.
#[derive(Debug)]
pub(crate) struct Order<'a> {
    /// The store its row is in.
    pub(crate) store: StoreId,
    /// The incarnation.
    pub(crate) incarnation: IncarnationId,
    /// Whether its end follows ours.
    pub(crate) leased: bool,
    /// Locks on what it uses; they live as long as the runner does.
    pub(crate) locks: &'a [Lock],
    /// Where the launcher is to stand still.
    pub(crate) hold: Option<Hold>,
}

/// A launcher's end.
#[derive(Debug)]
pub(crate) struct Launched {
    /// Our end of the lease, if there is one. Of a runner that came to life although its launcher failed it is as
    /// good as of any other.
    pub(crate) lease: Option<Lease>,
    /// Tells when nobody is left who could claim the row.
    pub(crate) presence: Presence,
    /// What became of the launcher itself.
    pub(crate) launcher: Result<(), LaunchError>,
}

/// Starts the runner of an incarnation whose intent is in the store, and returns when it knows who it is.
///
/// # Errors
/// [`LaunchError`] when there was no launcher. When there was one that failed, whether a runner came to life
/// nevertheless is told by the store alone.
pub(crate) fn launch(site: &Site, order: &Order<'_>) -> Result<Launched, LaunchError> {
    let program = site.runner()?;
    let log = site.places().evidence(order.incarnation).runner_log();
    let Started { child, lease, presence } =
        if let Some(started) = start_in_scope(site, order, &program, &log)? {
            started
        } else {
            let mut command = Command::new(&program);
            command.env_clear();
            start(site, order, command, (&program, &log), None)?
        };
    Ok(Launched { lease, presence, launcher: await_exit(child, order.incarnation, &log) })
}

/// A launcher that was started, and our ends of what it inherited.
struct Started {
    child: Child,
    lease: Option<Lease>,
    presence: Presence,
}

/// Starts the launcher in a scope, where systemd gives one in time.
///
/// The launcher says that it is in there before it does anything, so one that has not said it can be killed and
/// forgotten: a scope that comes too late is empty, and systemd removes it.
fn start_in_scope(
    site: &Site,
    order: &Order<'_>,
    program: &Path,
    log: &Path,
) -> Result<Option<Started>, LaunchError> {
    let hierarchy = Hierarchy::detect_or_do_without();
    let Some(scopes) = hierarchy.as_ref().ok().and_then(Hierarchy::scopes) else { return Ok(None) };
    let mut command = scopes.command(order.store, order.incarnation);
    command.arg(program);
    let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let (settled, says) = pipe.map_err(|errno| LaunchError::Inheritance(errno.into()))?;
    let mut started = match start(site, order, command, (program, log), Some(says)) {
        Ok(started) => started,
        Err(LaunchError::Spawn { source, .. }) => {
            tracing::warn!(error = %source, "systemd cannot be asked for a scope");
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    if has_settled(settled) {
        return Ok(Some(started));
    }
    // It is our child and not waited for: its pid is its own.
    let _ = started.child.kill();
    let _ = started.child.wait();
    tracing::warn!(said = last_words(log), "systemd gave no scope: going on without");
    Ok(None)
}

/// Whether the launcher said it in time, and not that it is gone.
fn has_settled(pipe: OwnedFd) -> bool {
    let said = crate::wait::readable(&[pipe.as_fd()], timeout::SCOPE);
    matches!(said, Ok(Some(_))) && matches!(File::from(pipe).read(&mut [0]), Ok(1))
}

/// Starts the launcher by a command that ends with the program.
fn start(
    site: &Site,
    order: &Order<'_>,
    mut command: Command,
    (program, log): (&Path, &Path),
    says_scope: Option<OwnedFd>,
) -> Result<Started, LaunchError> {
    add_arguments(&mut command, site, order);
    command.stderr(open_log(log)?);
    let mut inherited = locks_of(order)?;
    let (presence, theirs) = presence().map_err(LaunchError::Inheritance)?;
    inherited.push(theirs);
    if let Some(says) = says_scope {
        command.arg("--scope-fd").arg(says.as_raw_fd().to_string());
        inherited.push(says);
    }
    let mut lease = None;
    if order.leased {
        let (ours, theirs) = pair().map_err(LaunchError::Inheritance)?;
        command.arg("--lease-fd").arg(theirs.as_raw_fd().to_string());
        inherited.push(theirs);
        lease = Some(Lease(ours));
    }
    // A caller's own descriptors (a lock around a command, a pipe to a pager) are not to live as long as a VM.
    sys::inherit_only(&mut command, inherited);
    let spawned = command.spawn();
    // Order matters: the command owns the runner's ends of lease and presence here. Until it is dropped no end of
    // file can be seen.
    drop(command);
    let child = spawned.map_err(|source| LaunchError::Spawn { program: program.to_owned(), source })?;
    Ok(Started { child, lease, presence })
}

fn add_arguments(command: &mut Command, site: &Site, order: &Order<'_>) {
    let places = site.places();
    command
        .arg("launch")
        .arg("--home")
        .arg(places.home())
        .arg("--run")
        .arg(places.run())
        .arg("--library")
        .arg(places.library().path())
        .args(["--store", &order.store.to_string()])
        .args(["--incarnation", &order.incarnation.to_string()])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if let Some(hold) = order.hold {
        command.args(["--hold", &hold.to_string()]);
    }
}

fn open_log(path: &Path) -> Result<File, LaunchError> {
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    log.map_err(|source| LaunchError::Log { path: path.to_owned(), source })
}

fn locks_of(order: &Order<'_>) -> Result<Vec<OwnedFd>, LaunchError> {
    let duplicate = |lock: &Lock| lock.file().try_clone().map(OwnedFd::from);
    order.locks.iter().map(duplicate).collect::<Result<_, _>>().map_err(LaunchError::Inheritance)
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

fn presence() -> io::Result<(Presence, OwnedFd)> {
    let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    Ok((Presence(ours), theirs))
}

fn await_exit(mut child: Child, incarnation: IncarnationId, log: &Path) -> Result<(), LaunchError> {
    let wait = |source| LaunchError::Wait { incarnation, source };
    let process = Process::of_child(child.id()).map_err(wait)?;
    if !process.wait_dead(timeout::CLAIM).map_err(wait)? {
        // It is our child and not waited for: its pid is its own.
        let _ = child.kill();
        let _ = child.wait();
        return Err(LaunchError::TooSlow);
    }
    let status = child.wait().map_err(|source| LaunchError::Status { incarnation, source })?;
    if status.success() {
        return Ok(());
    }
    Err(LaunchError::Failed { status, last_words: last_words(log) })
}

/// The end of a log, on one line, fit to be shown.
pub(crate) fn last_words(log: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS)))?;
        let mut bytes = Vec::new();
        file.take(LAST_WORDS).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    line.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A lease, and the end of it that a runner would hold.
    pub(crate) fn lease() -> (Lease, OwnedFd) {
        let (ours, theirs) = pair().unwrap();
        (Lease(ours), theirs)
    }

    /// The same for a presence.
    pub(crate) fn presence() -> (Presence, OwnedFd) {
        super::presence().unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait;
    use outlast_wire::paths::Places;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    /// A site whose runner is a shell script: a real program, though not a real runner.
    fn site_with(script: &str) -> (tempfile::TempDir, Site, IncarnationId) {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        let program = at("outlast-runner");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let site = Site::new(Places::new(at("home"), at("run"), at("library")), top.path().to_owned());
        let incarnation = IncarnationId::from_parts(1, 2);
        std::fs::create_dir_all(site.places().evidence(incarnation).path()).unwrap();
        (top, site, incarnation)
    }

    fn order(incarnation: IncarnationId) -> Order<'static> {
        Order { store: StoreId::from_parts(3, 4), incarnation, leased: true, locks: &[], hold: None }
    }

    #[test]
    fn a_lease_lives_as_long_as_whoever_inherited_it_does() {
        let script = r#"while [ "$1" != --lease-fd ]; do shift; done
            echo started >&2
            # The "runner" stays until its lease ends, as the real one would.
            ( eval "cat <&$2" ) >/dev/null 2>&1 &"#;
        let (_top, site, incarnation) = site_with(script);
        let Launched { lease, presence, launcher } = launch(&site, &order(incarnation)).unwrap();
        launcher.unwrap();
        let lease = lease.unwrap();
        let hung_up = |end: BorrowedFd<'_>, within| wait::readable(&[end], within).unwrap().is_some();
        assert!(!hung_up(lease.as_fd(), Duration::ZERO), "the launcher is gone, the runner is not");
        assert!(!hung_up(presence.as_fd(), Duration::ZERO), "and it is present");
        lease.give_up();
        assert!(hung_up(lease.as_fd(), Duration::from_secs(20)));
        assert!(hung_up(presence.as_fd(), Duration::from_secs(20)));
        let log = site.places().evidence(incarnation).runner_log();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "started\n");
        assert_eq!(log.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_launcher_that_fails_is_quoted() {
        let (_top, site, incarnation) = site_with("echo 'first'; echo 'no cgroups here' >&2; exit 7");
        let error = launch(&site, &order(incarnation)).unwrap().launcher.unwrap_err();
        assert!(error.to_string().contains("no cgroups here"), "{error}");
        assert!(matches!(error, LaunchError::Failed { .. }));
    }

    #[test]
    fn a_missing_runner_is_named() {
        let (top, site, incarnation) = site_with("");
        std::fs::remove_file(top.path().join("outlast-runner")).unwrap();
        let error = launch(&site, &order(incarnation)).unwrap_err();
        assert!(error.to_string().contains("outlast-runner"), "{error}");
    }
}
