//! Runs a program of the VMM root on files of the host: with the root's own loader and libraries, without network,
//! without means to gain rights, killed with whoever started it and when it takes too long.
//!
//! It reads nothing that somebody else wrote: what it is given was made a moment ago by its caller.

use super::DiskError;
use crate::host;
use crate::vmm_root::VmmRoot;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Formatting writes some thousandths of a disk; a slow host with a large one is given time.
const LIMIT: Duration = Duration::from_secs(300);
/// The longest text of a tool that is told, in bytes.
const LONGEST: usize = 400;

/// A program that is there.
#[derive(Debug)]
pub(super) struct Tool {
    name: &'static str,
    program: PathBuf,
    root: PathBuf,
}

impl Tool {
    /// The program at this path of the root.
    pub(super) fn of(vmm: &VmmRoot, program: &'static str) -> Result<Self, DiskError> {
        let name = program.rsplit('/').next().unwrap_or(program);
        let path = vmm.path().join(program.trim_start_matches('/'));
        if !path.is_file() {
            return Err(DiskError::NoTool { program: name });
        }
        Ok(Self { name, program: path, root: vmm.path().to_owned() })
    }

    /// Runs it to its end.
    pub(super) fn run(&self, arguments: &[OsString]) -> Result<(), DiskError> {
        let start = |source| DiskError::Start { program: self.name, source };
        let said = memfd_create("outlast-tool", MemfdFlags::CLOEXEC).map_err(|errno| start(errno.into()))?;
        let mut said = File::from(said);
        let mut command = self.command();
        command.args(arguments).stdin(Stdio::null());
        command.stdout(said.try_clone().map_err(start)?).stderr(said.try_clone().map_err(start)?);
        let ended = wait(command.spawn().map_err(start)?).map_err(start)?;
        let Some(status) = ended else {
            return Err(DiskError::TooSlow { program: self.name, limit: LIMIT });
        };
        if status.success() {
            return Ok(());
        }
        let said = last_words(&mut said).unwrap_or_default();
        Err(DiskError::Tool { program: self.name, status: status.to_string(), said })
    }

    fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--no-new-privs", "--", "unshare", "--net", "--ipc"]);
        if !host::is_root() {
            command.args(["--user", "--map-current-user"]);
        }
        command.arg("--").arg(self.root.join("usr/lib64/ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(self.root.join("usr/lib/x86_64-linux-gnu")).arg(&self.program);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
        // Its own settings, wherever the host has some, are not ours.
        command.env("MKE2FS_CONFIG", "/dev/null").current_dir(Path::new("/"));
        command
    }
}

/// Waits for the child; `None` when it was killed because it took too long.
fn wait(mut child: Child) -> io::Result<Option<ExitStatus>> {
    // A child that nobody has waited for keeps its pid.
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
    let ended = pidfd.and_then(|pidfd| {
        let limit = Timespec::try_from(LIMIT).unwrap_or(Timespec { tv_sec: 300, tv_nsec: 0 });
        loop {
            match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit)) {
                Err(rustix::io::Errno::INTR) => {}
                ready => return ready.map(|count| count > 0),
            }
        }
    });
    if !ended.is_ok_and(|ended| ended) {
        child.kill()?;
        child.wait()?;
        return ended.map(|_| None).map_err(Into::into);
    }
    child.wait().map(Some)
}

/// The last line it said.
fn last_words(said: &mut File) -> io::Result<String> {
    let mut text = Vec::new();
    said.seek(SeekFrom::Start(0))?;
    said.take(1 << 16).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Ok(line.chars().filter(|c| !c.is_control()).take(LONGEST).collect())
}
