//! Turning a prepared plan into a process: clone3 into its cgroup, then privileges away, then execve.
//!
//! ```text
//!   parent                         child
//!   spawn ── clone3 ───────────┬─► session, descriptors, oom score, directory, groups, gid, uid,
//!     │  (already in cgroup)   │   no new privileges, execve ── success: report pipe closes, empty
//!     └─ returns at once       └── failure: (stage, errno) into the report, _exit
//! ```
//!
//! The child is a plain copy-on-write fork rather than a vfork, so that a program file on a hung file system
//! blocks that child and never the agent. Between clone3 and execve it only makes system calls on memory
//! prepared before: no allocation, no locks, no panics. Waiting for it is the reaper's work, not ours.

use super::entropy::last_errno;
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Pid, Uid};
use std::ffi::{CStr, CString, c_char};
use std::ptr;

/// Where in the child a start failed. The numbers travel through the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stage {
    /// setsid, default signals.
    Session = 1,
    /// Standard input, output and error.
    Descriptors = 2,
    /// Back to the ordinary oom_score_adj.
    OomScore = 3,
    /// Becoming the user: supplementary groups, group, user, no new privileges.
    Privileges = 4,
    /// Entering the working directory, as that user.
    Directory = 5,
    /// Executing the program, as that user.
    Program = 6,
}

impl Stage {
    fn from_number(number: u8) -> Option<Self> {
        [Self::Session, Self::Descriptors, Self::OomScore, Self::Privileges, Self::Directory, Self::Program]
            .into_iter()
            .find(|stage| *stage as u8 == number)
    }
}

/// The child's ends of how it tells what became of it.
///
/// Two descriptors, because a child without a byte of memory left in its cgroup must still be able to tell:
/// writing into a pipe may need a page, adding to an eventfd needs nothing.
pub(crate) struct Report {
    /// A pipe's end that nobody writes to. It closes when the program begins or the child dies.
    #[expect(dead_code, reason = "only held: that it closes is the message")]
    pub(crate) begun: OwnedFd,
    /// An eventfd that takes the number of a failure; 0 as long as there is none.
    pub(crate) failure: OwnedFd,
}

impl Report {
    fn fail(&self, stage: Stage, errno: Errno) {
        let number = u64::from(stage as u8) << 32 | u64::from(errno.raw_os_error().unsigned_abs());
        // It has room for one number, and this is the only one.
        let _ = rustix::io::write(&self.failure, &number.to_ne_bytes());
    }
}

/// What a failure's number says; `None` when it is none that [`Report`] makes.
pub(crate) fn failure_of(number: u64) -> Option<(Stage, Errno)> {
    let stage = Stage::from_number(u8::try_from(number >> 32).ok()?)?;
    let errno = i32::try_from(number & u64::from(u32::MAX)).ok()?;
    Some((stage, Errno::from_raw_os_error(errno)))
}

/// The user a program runs as; supplementary groups are always dropped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct User {
    /// User id.
    pub(crate) uid: Uid,
    /// Group id.
    pub(crate) gid: Gid,
}

/// Everything a child becomes, owned and complete before it exists.
pub(crate) struct Plan {
    /// The files to try, in order, as execve takes them.
    pub(crate) candidates: Vec<CString>,
    /// Arguments, the program's own name first.
    pub(crate) arguments: Vec<CString>,
    /// The whole environment.
    pub(crate) environment: Vec<CString>,
    /// Working directory.
    pub(crate) directory: CString,
    /// Whom to become; `None` stays who the agent is (tests without privileges).
    pub(crate) user: Option<User>,
    /// Standard input, output and error of the child.
    pub(crate) stdio: [OwnedFd; 3],
    /// How the child tells what became of it.
    pub(crate) report: Report,
}

/// A child that exists; whether it became the program is told by its report.
pub(crate) struct Child {
    /// Its process id; valid until the reaper has collected it.
    pub(crate) pid: Pid,
    /// The same process for ever, whatever becomes of the number.
    pub(crate) pidfd: OwnedFd,
}

/// Starts `plan` as a child, inside `cgroup` (a directory of a cgroup2 tree) from its first instruction on.
///
/// # Errors
/// What clone3 answers; `EAGAIN` is the cgroup's `pids.max`, `ENOMEM` or `EBUSY` the cgroup itself.
pub(crate) fn spawn(plan: &Plan, cgroup: Option<BorrowedFd<'_>>) -> Result<Child, Errno> {
    // The pointer arrays execve wants are made here, because the child must not allocate.
    let arguments = pointers(&plan.arguments);
    let environment = pointers(&plan.environment);
    let mut raw_pidfd: libc::c_int = -1;
    let mut args = clone_arguments(&mut raw_pidfd, cgroup);
    // SAFETY: `args` is a whole `clone_args` whose pointers stay valid over the call. CLONE_VM is not set, so
    // the child runs on its own copy of this memory and nothing it does can reach ours.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(last_errno()),
        0 => {
            // SAFETY: both arrays end in null and their strings live in `plan`, which this copy of the
            // memory keeps; we are the child and never return.
            unsafe { become_program(plan, &arguments, &environment) }
        }
        pid => {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::RANGE)?;
            // SAFETY: clone3 succeeded with CLONE_PIDFD, so it stored a new descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(raw_pidfd) };
            Ok(Child { pid, pidfd })
        }
    }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

fn clone_arguments(pidfd: &mut libc::c_int, cgroup: Option<BorrowedFd<'_>>) -> libc::clone_args {
    // SAFETY: `clone_args` is a plain C structure of integers; all zero means "none of these".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = libc::CLONE_PIDFD.unsigned_abs().into();
    args.flags |= CLONE_CLEAR_SIGHAND;
    args.pidfd = ptr::from_mut(pidfd) as u64;
    args.exit_signal = libc::SIGCHLD.unsigned_abs().into();
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd().unsigned_abs().into();
    }
    args
}

/// Linux 5.5 (linux/sched.h); libc has it only as a signed number of another width.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
/// Linux 5.7.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The child's whole life before the program. Never returns.
///
/// # Safety
/// Call only in a fresh copy of the process; `arguments` and `environment` end in null and hold valid strings.
unsafe fn become_program(plan: &Plan, arguments: &[*const c_char], environment: &[*const c_char]) -> ! {
    let failed = prepare(plan).err().unwrap_or_else(|| {
        // SAFETY: passed on from the caller.
        let errno = unsafe { execute(&plan.candidates, arguments, environment) };
        (Stage::Program, errno)
    });
    let (stage, errno) = failed;
    plan.report.fail(stage, errno);
    // SAFETY: _exit is always allowed; exit handlers of the copied agent must not run, and do not.
    unsafe { libc::_exit(127) }
}

/// Order matters: the oom score while still privileged (so that the user cannot lower it again), privileges
/// before the directory and the program (so that both are reached with the user's rights, not ours).
fn prepare(plan: &Plan) -> Result<(), (Stage, Errno)> {
    let at = |stage: Stage| move |errno: Errno| (stage, errno);
    rustix::process::setsid().map_err(at(Stage::Session))?;
    default_signals().map_err(at(Stage::Session))?;
    let [stdin, stdout, stderr] = &plan.stdio;
    rustix::stdio::dup2_stdin(stdin).map_err(at(Stage::Descriptors))?;
    rustix::stdio::dup2_stdout(stdout).map_err(at(Stage::Descriptors))?;
    rustix::stdio::dup2_stderr(stderr).map_err(at(Stage::Descriptors))?;
    ordinary_oom_score().map_err(at(Stage::OomScore))?;
    if let Some(user) = plan.user {
        become_user(user).map_err(at(Stage::Privileges))?;
    }
    rustix::thread::set_no_new_privs(true).map_err(at(Stage::Privileges))?;
    rustix::process::chdir(plan.directory.as_c_str()).map_err(at(Stage::Directory))
}

/// CLONE_CLEAR_SIGHAND resets what is handled but leaves what is ignored, and Rust's start-up ignores SIGPIPE.
fn default_signals() -> Result<(), Errno> {
    // SAFETY: these calls set dispositions and the mask of the calling process only; the set is initialised
    // by sigemptyset before it is read.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        super::entropy::check(libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()))
    }
}

fn ordinary_oom_score() -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(c"/proc/self/oom_score_adj", flags, Mode::empty())?;
    rustix::io::write(&file, b"0").map(drop)
}

/// The raw system calls of rustix change this one thread, which is all the child has; libc's would try to
/// signal threads that only the parent had.
fn become_user(user: User) -> Result<(), Errno> {
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(user.gid, user.gid, user.gid)?;
    rustix::thread::set_thread_res_uid(user.uid, user.uid, user.uid)
}

/// Tries each file in turn, as execvp(3) does: a missing one is passed over, one that may not be executed is
/// remembered, anything else ends the search.
///
/// # Safety
/// `arguments` and `environment` end in null and hold valid strings.
unsafe fn execute(
    candidates: &[CString],
    arguments: &[*const c_char],
    environment: &[*const c_char],
) -> Errno {
    let mut answer = Errno::NOENT;
    for file in candidates {
        let file: &CStr = file;
        // SAFETY: `file` is a string that ends in NUL; the arrays are as the caller promises.
        unsafe { libc::execve(file.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
        match last_errno() {
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCESS => answer = Errno::ACCESS,
            errno => return errno,
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};

    #[test]
    fn a_failure_survives_the_way_through_its_number() {
        let (_, begun) = rustix::pipe::pipe().unwrap();
        let failure = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let report = Report { begun, failure };
        report.fail(Stage::Directory, Errno::ACCESS);
        let mut number = [0; 8];
        rustix::io::read(&report.failure, &mut number).unwrap();
        assert_eq!(failure_of(u64::from_ne_bytes(number)), Some((Stage::Directory, Errno::ACCESS)));
        assert_eq!(failure_of(0), None);
        assert_eq!(failure_of(u64::MAX), None);
    }
}
