//! One call of the `outlast` binary: how it is started, what it says while it runs, how it ended.
//!
//! Every call has a hard deadline. What it writes is read at once by threads of its own, with the time at
//! which each piece came, so that a test can ask when a line reached its reader.

use crate::deadline::{until, within};
use crate::lab::Lab;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::io::{Read, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// Long enough for a template of the slowest runtime to be made on a loaded machine.
const LIMIT: Duration = Duration::from_secs(300);
/// When a call is over its output must be, too: nobody else may hold its pipes.
const PIPES_CLOSED: Duration = Duration::from_secs(2);

/// A call that has not been made yet.
#[derive(Debug)]
pub struct Call<'lab> {
    lab: &'lab Lab,
    command: Command,
    what: String,
    stdin: Option<Vec<u8>>,
    limit: Duration,
}

/// A call that is under way.
pub struct Running {
    what: String,
    child: Child,
    stdout: Pipe,
    stderr: Pipe,
    writer: Option<JoinHandle<()>>,
    started: Instant,
    limit: Duration,
    evidence: String,
}

/// How a call ended.
#[derive(Clone)]
pub struct Output {
    what: String,
    status: ExitStatus,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// From start to end.
    pub elapsed: Duration,
}

/// A line that was read, and when.
#[derive(Debug, Clone)]
pub struct Line {
    /// Without its end.
    pub text: String,
    /// When its last byte was read.
    pub read_at: SystemTime,
}

#[derive(Debug)]
struct Pipe {
    pieces: Arc<Mutex<Vec<Piece>>>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    read_at: SystemTime,
}

impl<'lab> Call<'lab> {
    /// A call of `program` with these arguments; `lab` gives it its environment.
    pub(crate) fn new(lab: &'lab Lab, program: &OsStr, arguments: &[impl AsRef<OsStr>]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments);
        let words = arguments.iter().map(|argument| argument.as_ref().to_string_lossy().into_owned());
        let what = format!("outlast {}", words.collect::<Vec<_>>().join(" "));
        Self { lab, command, what, stdin: None, limit: LIMIT }
    }

    /// With this on its standard input; otherwise it has /dev/null.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// With this environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// In this directory and with an environment that holds nothing but what programs cannot do without.
    pub(crate) fn alone_in(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory).env_clear();
        for name in ["PATH", "HOME", "TMPDIR", "RUST_BACKTRACE"] {
            if let Some(value) = env::var_os(name) {
                self.command.env(name, value);
            }
        }
        self
    }

    /// As an ordinary user.
    #[must_use]
    pub fn as_user(mut self, uid: u32) -> Self {
        self.command.uid(uid).gid(uid);
        self
    }

    /// With another hard deadline.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Makes the call and waits for its end.
    #[track_caller]
    pub fn run(self) -> Output {
        self.start().wait()
    }

    /// Makes the call, in a process group of its own as a shell would.
    #[track_caller]
    pub fn start(mut self) -> Running {
        let stdin = if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() };
        self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let started = Instant::now();
        let mut child = match self.command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("start {}: {error}", self.what),
        };
        let stdout: ChildStdout = child.stdout.take().expect("stdout is piped");
        let stderr: ChildStderr = child.stderr.take().expect("stderr is piped");
        let writer = child.stdin.take().zip(self.stdin).map(|(mut pipe, bytes)| {
            // A program that does not read its input is no concern of the writer.
            std::thread::spawn(move || drop(pipe.write_all(&bytes)))
        });
        let evidence = self.lab.home().display().to_string();
        let (what, limit) = (self.what, self.limit);
        Running {
            what,
            child,
            stdout: Pipe::new(stdout),
            stderr: Pipe::new(stderr),
            writer,
            started,
            limit,
            evidence,
        }
    }
}

impl Running {
    /// Whether it has not ended yet. One that has is left unreaped until [`Running::wait`]: its pid, and so its
    /// process group, can not come to mean another's before.
    pub fn is_running(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let ended = waitid(WaitId::Pid(Pid::from_child(&self.child)), options);
        ended.expect("our own child can be asked for").is_none()
    }

    /// Waits for the line of that number (from 0) on standard output.
    #[track_caller]
    pub fn line(&mut self, number: usize, limit: Duration) -> Line {
        let deadline = Instant::now() + limit;
        loop {
            let ended = !self.is_running();
            let line = within(Duration::from_millis(20), || self.stdout.lines().into_iter().nth(number));
            match line {
                Some(line) => return line,
                None if !ended && Instant::now() < deadline => {}
                None => {
                    panic!("line {number} of {}: not within {limit:?} (ended: {ended})\n{self:?}", self.what)
                }
            }
        }
    }

    /// Sends a signal to its process group, as a terminal does; what is left of the group when it has ended.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let group = Pid::from_child(&self.child);
        kill_process_group(group, signal).expect("a call that nobody has waited for has its group");
    }

    /// Sends SIGKILL to it and its group; nothing of it can clean up.
    #[track_caller]
    pub fn kill(mut self) -> Output {
        self.signal(Signal::KILL);
        self.limit = self.started.elapsed() + Duration::from_secs(5);
        self.wait()
    }

    /// With another hard deadline, from now on.
    pub fn limit_from_now(&mut self, limit: Duration) {
        self.limit = self.started.elapsed() + limit;
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(mut self) -> Output {
        let left = self.limit.saturating_sub(self.started.elapsed());
        let ended = within(left, || self.child.try_wait().expect("our own child can be waited for"));
        let Some(status) = ended else {
            panic!("{} did not end within {:?}\n{self:?}", self.what, self.limit);
        };
        let elapsed = self.started.elapsed();
        until(
            &format!("{} has ended, but somebody holds its standard output or error", self.what),
            PIPES_CLOSED,
            || (self.stdout.is_over() && self.stderr.is_over()).then_some(()),
        );
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
        let what = std::mem::take(&mut self.what);
        Output { what, status, stdout: self.stdout.bytes(), stderr: self.stderr.bytes(), elapsed }
    }
}

impl Drop for Running {
    /// A net: a call that a test forgot, or left by a panic, does not stay.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (stdout, stderr) = (self.stdout.bytes(), self.stderr.bytes());
        writeln!(out, "call: {} (home {})", self.what, self.evidence)?;
        writeln!(out, "stdout: {}\nstderr: {}", excerpt(&stdout), excerpt(&stderr))
    }
}

impl Pipe {
    fn new(mut source: impl Read + Send + 'static) -> Self {
        let pieces = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&pieces);
        let reader = std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = source.read(&mut buffer) {
                let piece = Piece { bytes: buffer[..count].to_vec(), read_at: SystemTime::now() };
                lock(&into).push(piece);
            }
        });
        Self { pieces, reader: Some(reader) }
    }

    fn is_over(&self) -> bool {
        self.reader.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn bytes(&self) -> Vec<u8> {
        lock(&self.pieces).iter().flat_map(|piece| piece.bytes.iter().copied()).collect()
    }

    fn lines(&self) -> Vec<Line> {
        let (mut lines, mut text) = (Vec::new(), Vec::new());
        for piece in lock(&self.pieces).iter() {
            for byte in piece.bytes.iter().copied() {
                if byte == b'\n' {
                    let whole = String::from_utf8_lossy(&std::mem::take(&mut text)).into_owned();
                    lines.push(Line { text: whole, read_at: piece.read_at });
                } else {
                    text.push(byte);
                }
            }
        }
        lines
    }
}

fn lock(pieces: &Mutex<Vec<Piece>>) -> MutexGuard<'_, Vec<Piece>> {
    pieces.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Output {
    /// The exit code; `None` when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended it.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// That it ended with this exit code.
    #[track_caller]
    pub fn expect_code(&self, code: i32) -> &Self {
        assert_eq!(self.code(), Some(code), "the exit code of\n{self}");
        self
    }

    /// That standard output is exactly this.
    #[track_caller]
    pub fn expect_stdout(&self, text: &str) -> &Self {
        assert!(self.stdout == text.as_bytes(), "standard output is not {text:?} of\n{self}");
        self
    }

    /// That standard error mentions all of these, in any order and case.
    #[track_caller]
    pub fn expect_stderr(&self, words: &[&str]) -> &Self {
        let text = self.stderr_text().to_lowercase();
        for word in words {
            assert!(text.contains(&word.to_lowercase()), "standard error does not say '{word}':\n{self}");
        }
        self
    }

    /// Standard output as text.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// What it printed, read as JSON.
    #[track_caller]
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        match serde_json::from_slice(&self.stdout) {
            Ok(value) => value,
            Err(error) => panic!("standard output is not {}: {error}\n{self}", std::any::type_name::<T>()),
        }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "call:   {}\nended:  {} after {:?}", self.what, self.status, self.elapsed)?;
        writeln!(out, "stdout: {}\nstderr: {}", excerpt(&self.stdout), excerpt(&self.stderr))
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// As much as a person reads.
fn excerpt(bytes: &[u8]) -> String {
    const EDGE: usize = 2000;
    if bytes.len() <= 2 * EDGE {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let (head, tail) = (&bytes[..EDGE], &bytes[bytes.len() - EDGE..]);
    let (head, tail) = (String::from_utf8_lossy(head), String::from_utf8_lossy(tail));
    format!("{head}\n… {} bytes …\n{tail}", bytes.len() - 2 * EDGE)
}
