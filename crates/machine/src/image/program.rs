//! Runs the programs that build: mmdebstrap, mksquashfs, ldconfig, and what is inside a fresh tree.
//!
//! ```text
//!   build --- setpriv --pdeathsig KILL = unshare --mount --pid --kill-child --- the program (PID 1) --- its children
//! ```
//!
//! Each is PID 1 of a PID namespace of its own and has its own mounts, so whatever it mounts or leaves running is
//! gone with it, and it dies when we do, however we die: the kernel kills `unshare` when the thread that started it
//! is gone (PR_SET_PDEATHSIG), and the namespace when `unshare` is. Between fork and the setting of that
//! signal lies a gap; a program that slips through it holds the build lock as its standard input, so nobody
//! takes its scratch directory away under it, and it ends by itself.
//!
//! A caller that wants to cancel a build ends its own thread or process. Ctrl-C on a terminal does not reach the programs:
//! they are a process group of their own.

use super::error::LibraryError;
use super::shelf::BuildLock;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The longest that one program may take: a slow network, a slow disk, a kernel compiled on a busy host, but not for
/// ever.
pub(crate) const TOTAL_LIMIT: Duration = Duration::from_secs(2 * 3600);
/// The longest that a program may say nothing.
const SILENCE_LIMIT: Duration = Duration::from_secs(900);
/// From the end of its output to its end.
const EXIT_LIMIT: Duration = Duration::from_secs(30);
/// Lines of output kept for an error.
const TAIL_LINES: usize = 25;
/// Where programs are looked for, whatever the caller's environment says.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The caller's variables that are passed on: without them some networks cannot be left.
const PROXIES: [&str; 6] = ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];

/// One program to run in namespaces of its own.
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    args: Vec<OsString>,
    scratch: PathBuf,
}

impl Program {
    /// `name` is looked for in the usual directories; its temporary files go to `scratch`.
    pub(crate) fn new(name: &str, scratch: &Path) -> Self {
        Self { name: name.to_owned(), args: Vec::new(), scratch: scratch.to_owned() }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Runs it to its end; `line` gets every line of its output and errors as they come.
    pub(crate) fn run(self, lock: &BuildLock, line: &mut dyn FnMut(&str)) -> Result<(), LibraryError> {
        let (mut running, output) = self.spawn(lock)?;
        let mut tail = Tail::default();
        let drained = running.drain(output, &mut |text| {
            tail.push(text);
            line(text);
        });
        drained.map_err(|stop| stop.into_error(&self.name, &tail))?;
        let status = running.wait().map_err(|stop| stop.into_error(&self.name, &tail))?;
        if status.success() { Ok(()) } else { Err(self.failure(status, &tail)) }
    }

    /// Runs it to its end and gives back what it said, line by line.
    pub(crate) fn lines(self, lock: &BuildLock) -> Result<Vec<String>, LibraryError> {
        let mut lines = Vec::new();
        self.run(lock, &mut |line| lines.push(line.to_owned()))?;
        Ok(lines)
    }

    fn spawn(&self, lock: &BuildLock) -> Result<(Running, File), LibraryError> {
        let failed = |source| LibraryError::Spawn { program: self.name.clone(), source };
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
        let mut command = Command::new("setpriv");
        command.args([
            "--pdeathsig",
            "KILL",
            "--",
            "unshare",
            "--mount",
            "--pid",
            "--mount-proc",
            "--kill-child",
            "--",
        ]);
        command.arg(&self.name).args(&self.args);
        set_environment(&mut command, &self.scratch);
        command.process_group(0);
        command.stdin(lock.lend().map_err(failed)?);
        command.stdout(Stdio::from(writer.try_clone().map_err(failed)?)).stderr(Stdio::from(writer));
        let child = command.spawn().map_err(failed)?;
        // `command` holds the writing ends; they go with it at the end of this function, so that the pipe can end.
        Ok((Running { child: Some(child), deadline: Instant::now() + TOTAL_LIMIT }, File::from(reader)))
    }

    fn failure(&self, status: ExitStatus, tail: &Tail) -> LibraryError {
        // The one failure that deserves its own name arrives here as words of a program.
        if tail.0.iter().any(|line| line.contains("No space left on device")) {
            return LibraryError::DiskFull { operation: "build", path: self.scratch.clone() };
        }
        LibraryError::Program { program: self.name.clone(), status: status.to_string(), tail: tail.text() }
    }
}

/// The programs see what they need and nothing else of the caller's environment: it may hold secrets, which
/// scripts of packages have no business with, and settings (`APT_CONFIG`, `PERL5LIB`, `SOURCE_DATE_EPOCH`) that would
/// make another image out of the same recipe.
fn set_environment(command: &mut Command, scratch: &Path) {
    command.env_clear().env("PATH", PATH).env("LANG", "C.UTF-8").env("LC_ALL", "C.UTF-8");
    command.env("TMPDIR", scratch).env("DEBIAN_FRONTEND", "noninteractive");
    for name in PROXIES {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
}

/// Whether a program is where programs are looked for.
pub(crate) fn is_installed(name: &str) -> bool {
    PATH.split(':').any(|directory| Path::new(directory).join(name).exists())
}

/// A program that is killed, with its namespace, when this is dropped before its end was seen.
#[derive(Debug)]
struct Running {
    child: Option<Child>,
    deadline: Instant,
}

/// Why waiting ended early.
enum Stop {
    Silent,
    Late,
    Lingers,
    Io(std::io::Error),
}

impl Stop {
    fn into_error(self, program: &str, tail: &Tail) -> LibraryError {
        let (why, limit) = match self {
            Self::Silent => ("it said nothing for too long", SILENCE_LIMIT),
            Self::Late => ("it took too long", TOTAL_LIMIT),
            Self::Lingers => ("it did not end after its last word", EXIT_LIMIT),
            Self::Io(source) => return LibraryError::Spawn { program: program.to_owned(), source },
        };
        let last = tail.0.back().cloned().unwrap_or_default();
        LibraryError::TooSlow { program: program.to_owned(), why, seconds: limit.as_secs(), tail: last }
    }
}

impl Running {
    /// Reads until the last holder of the pipe is gone, which the end of its PID namespace brings about.
    fn drain(&mut self, mut output: File, line: &mut dyn FnMut(&str)) -> Result<(), Stop> {
        let mut splitter = Lines::default();
        let mut buffer = [0; 8192];
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Stop::Late);
            }
            if !readable(&output, left.min(SILENCE_LIMIT)).map_err(Stop::Io)? {
                return Err(if left <= SILENCE_LIMIT { Stop::Late } else { Stop::Silent });
            }
            match output.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => splitter.push(&buffer[..n], line),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Stop::Io(error)),
            }
        }
        splitter.end(line);
        Ok(())
    }

    fn wait(&mut self) -> Result<ExitStatus, Stop> {
        let Some(mut child) = self.child.take() else { return Err(Stop::Lingers) };
        let pid = rustix::process::Pid::from_child(&child);
        // The child is ours and not yet reaped, so its pid is its own.
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
        let ended = match pidfd {
            Ok(pidfd) => readable(&pidfd, EXIT_LIMIT).map_err(Stop::Io)?,
            Err(errno) => return Err(Stop::Io(errno.into())),
        };
        if !ended {
            self.child = Some(child);
            return Err(Stop::Lingers);
        }
        child.wait().map_err(Stop::Io)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Killing `unshare` kills its namespace; both calls fail only when there is nothing left to do.
            _ = child.kill();
            _ = child.wait();
        }
    }
}

fn readable(fd: &impl std::os::fd::AsFd, limit: Duration) -> std::io::Result<bool> {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left =
            Timespec::try_from(left).map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidInput))?;
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(ready) => return Ok(ready > 0),
        }
    }
}

/// Cuts bytes into lines; a carriage return ends one too, because programs draw progress with it.
#[derive(Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// A line longer than this is cut: it is shown, never interpreted.
    const LONGEST: usize = 16 * 1024;

    fn push(&mut self, bytes: &[u8], line: &mut dyn FnMut(&str)) {
        for byte in bytes {
            if matches!(byte, b'\n' | b'\r') || self.begun.len() >= Self::LONGEST {
                self.end(line);
            }
            if !matches!(byte, b'\n' | b'\r') {
                self.begun.push(*byte);
            }
        }
    }

    fn end(&mut self, line: &mut dyn FnMut(&str)) {
        let text = String::from_utf8_lossy(&self.begun);
        if !text.trim().is_empty() {
            line(text.trim_end());
        }
        self.begun.clear();
    }
}

/// The last lines, for an error.
#[derive(Default)]
struct Tail(VecDeque<String>);

impl Tail {
    fn push(&mut self, line: &str) {
        if self.0.len() == TAIL_LINES {
            self.0.pop_front();
        }
        self.0.push_back(line.to_owned());
    }

    /// The lines that call themselves errors, as apt, dpkg and mmdebstrap mark them; all of them when none does.
    fn text(&self) -> String {
        let marked = |line: &&String| {
            ["E: ", "Err:", "FATAL", "dpkg: error"].iter().any(|mark| line.starts_with(mark))
        };
        let errors: Vec<_> = self.0.iter().filter(marked).collect();
        let lines = if errors.is_empty() { self.0.iter().collect() } else { errors };
        lines.into_iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_end_at_both_kinds_of_return_and_empty_ones_are_dropped() {
        let (mut lines, mut seen) = (Lines::default(), Vec::new());
        for bytes in [&b"one\ntw"[..], b"o\r\n\r\n50%\r", b"last"] {
            lines.push(bytes, &mut |line| seen.push(line.to_owned()));
        }
        lines.end(&mut |line| seen.push(line.to_owned()));
        assert_eq!(seen, ["one", "two", "50%", "last"]);
    }

    #[test]
    fn an_error_shows_the_lines_that_are_errors() {
        let mut tail = Tail::default();
        tail.push("I: fetching");
        assert_eq!(tail.text(), "  I: fetching");
        tail.push("E: no network");
        tail.push("I: cleaning up");
        assert_eq!(tail.text(), "  E: no network");
    }

    #[test]
    fn programs_see_nothing_of_the_callers_environment_but_proxies() {
        let mut command = Command::new("/usr/bin/env");
        set_environment(&mut command, Path::new("/scratch"));
        let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let ours = ["PATH", "LANG", "LC_ALL", "TMPDIR", "DEBIAN_FRONTEND"];
        for line in output.lines() {
            let name = line.split('=').next().unwrap();
            assert!(ours.contains(&name) || PROXIES.contains(&name), "{line}");
        }
        assert!(output.contains("TMPDIR=/scratch\n") && output.contains(PATH));
    }

    proptest! {
        #[test]
        fn how_output_is_cut_does_not_matter(bytes: Vec<u8>, cut in 0usize..100) {
            let collect = |chunks: &[&[u8]]| {
                let (mut lines, mut seen) = (Lines::default(), Vec::new());
                for chunk in chunks {
                    lines.push(chunk, &mut |line| seen.push(line.to_owned()));
                }
                lines.end(&mut |line| seen.push(line.to_owned()));
                seen
            };
            let cut = cut.min(bytes.len());
            prop_assert_eq!(collect(&[&bytes]), collect(&[&bytes[..cut], &bytes[cut..]]));
        }
    }
}
