//! Reading /proc, at a path that tests may choose.
//!
//! Decides nothing: what a fact means for a process's life is told in [`super`].

use super::{ProcessError, Stat};
use outlast_wire::identity::ProcessIdentity;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, open, openat, readlinkat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Longest file of /proc that is read here. Stack traces of deep waits are the largest of them.
const LONGEST: u64 = 64 * 1024;

/// A mounted /proc.
#[derive(Debug, Clone)]
pub struct Procfs {
    root: PathBuf,
}

impl Procfs {
    /// The one of this mount namespace.
    pub fn system() -> Self {
        Self { root: PathBuf::from("/proc") }
    }

    /// One at another place.
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// The host's boot id: 32 hexadecimal digits and dashes.
    pub fn boot_id(&self) -> Result<String, ProcessError> {
        let path = self.root.join("sys/kernel/random/boot_id");
        let text = std::fs::read_to_string(&path)
            .map_err(|source| ProcessError::Read { path: path.clone(), source })?;
        let id = text.trim();
        let plausible = id.len() == 36 && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        if plausible {
            Ok(id.to_owned())
        } else {
            Err(ProcessError::Nonsense { path, detail: "not a UUID".to_owned() })
        }
    }

    /// The inode of the PID namespace that this process lives in.
    pub fn own_namespace(&self) -> Result<u64, ProcessError> {
        let path = self.root.join("self/ns/pid");
        let link =
            std::fs::read_link(&path).map_err(|source| ProcessError::Read { path: path.clone(), source })?;
        namespace_inode(link.as_os_str().as_encoded_bytes(), &path)
    }

    /// The identity of the process that has `pid` now.
    pub fn identity_of(&self, pid: u32) -> Result<ProcessIdentity, ProcessError> {
        let directory = self.open_process(pid)?;
        let path = self.process_path(pid);
        let stat = Self::stat_in(&directory, &path, pid)?;
        Ok(ProcessIdentity {
            pid,
            start_time: stat.start_time,
            boot_id: self.boot_id()?,
            pid_namespace: Self::namespace_in(&directory, &path, pid)?,
            observer_namespace: self.own_namespace()?,
        })
    }

    /// The stat line of whoever has `pid` now, and its PID namespace. The latter is absent for a process
    /// that has exited: its links are gone while its stat line is still there.
    pub(super) fn facts_of(&self, pid: u32) -> Result<(Stat, Option<u64>), ProcessError> {
        let directory = self.open_process(pid)?;
        let path = self.process_path(pid);
        let stat = Self::stat_in(&directory, &path, pid)?;
        match Self::namespace_in(&directory, &path, pid) {
            Ok(inode) => Ok((stat, Some(inode))),
            Err(_) if stat.proves_death() => Ok((stat, None)),
            Err(error) => Err(error),
        }
    }

    /// Every pid there is at this moment.
    pub(super) fn pids(&self) -> Result<Vec<u32>, ProcessError> {
        let read = |source| ProcessError::Read { path: self.root.clone(), source };
        let mut pids = Vec::new();
        for entry in std::fs::read_dir(&self.root).map_err(read)? {
            pids.extend(entry.map_err(read)?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
        }
        Ok(pids)
    }

    /// Sentences about where a process stands.
    pub(super) fn stack_evidence(&self, pid: u32) -> Vec<String> {
        let path = self.process_path(pid);
        let mut sentences = vec![match self.facts_of(pid) {
            Ok((stat, _)) => format!("state {} with {} threads", stat.state, stat.threads),
            Err(error) => format!("state unknown: {error}"),
        }];
        for (file, what) in [("wchan", "waits in"), ("stack", "kernel stack")] {
            let text = File::open(path.join(file)).and_then(|file| read_limited(&file));
            sentences.push(match text {
                Ok(text) => {
                    let text = String::from_utf8_lossy(&text);
                    format!("{what}: {}", text.trim().replace('\n', " < "))
                }
                Err(error) => format!("{what}: cannot be read ({error})"),
            });
        }
        sentences
    }

    fn process_path(&self, pid: u32) -> PathBuf {
        self.root.join(pid.to_string())
    }

    fn open_process(&self, pid: u32) -> Result<OwnedFd, ProcessError> {
        let path = self.process_path(pid);
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        open(&path, flags, Mode::empty()).map_err(|errno| failure(errno, pid, &path))
    }

    fn stat_in(directory: &OwnedFd, path: &Path, pid: u32) -> Result<Stat, ProcessError> {
        let path = path.join("stat");
        let file = openat(directory, "stat", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| failure(errno, pid, &path))?;
        let line = read_limited(&File::from(file)).map_err(|source| match source.raw_os_error() {
            Some(libc::ESRCH) => ProcessError::Gone { pid },
            Some(_) | None => ProcessError::Read { path: path.clone(), source },
        })?;
        Stat::parse(&line).map_err(|error| ProcessError::Nonsense { path, detail: error.to_string() })
    }

    fn namespace_in(directory: &OwnedFd, path: &Path, pid: u32) -> Result<u64, ProcessError> {
        let path = path.join("ns/pid");
        let link = readlinkat(directory, "ns/pid", Vec::new()).map_err(|errno| failure(errno, pid, &path))?;
        namespace_inode(link.as_bytes(), &path)
    }
}

fn failure(errno: Errno, pid: u32, path: &Path) -> ProcessError {
    match errno {
        Errno::NOENT | Errno::SRCH => ProcessError::Gone { pid },
        errno => ProcessError::Read { path: path.to_owned(), source: errno.into() },
    }
}

/// `pid:[4026531836]`, as namespaces(7) has it.
fn namespace_inode(link: &[u8], path: &Path) -> Result<u64, ProcessError> {
    let inode = link.strip_prefix(b"pid:[").and_then(|rest| rest.strip_suffix(b"]"));
    let inode = inode.and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|text| text.parse().ok());
    inode.ok_or_else(|| ProcessError::Nonsense {
        path: path.to_owned(),
        detail: "not of the form pid:[INODE]".to_owned(),
    })
}

fn read_limited(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(1024);
    file.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}
