//! Turning a prepared plan into a process: clone3 into its cgroup, then privileges away, then execve.
//!
//! ```text
//!   parent                         child
//!   spawn ── clone3 ───────────┬─► session, signals, descriptors, terminal, groups, gid, uid, no new privileges,
//!     │  (already in cgroup)   │   directory, execve ── success: `begun` closes with the exec
//!     └─ returns at once       └── failure: told through `failure`, then _exit closes `begun`
//! ```
//!
//! Until it executes the program the child shares the agent's memory (CLONE_VM), as posix_spawn does: copying
//! the page tables of a process that is locked in memory would cost more than all the rest together, and the
//! copies would count against the program's limit. But the agent does not wait as vfork would make it, so that
//! a program file on a hung file system holds up that child and never the agent. What follows from sharing:
//! * The child has a stack of its own and only reads memory that was prepared before: no allocation, no locks,
//!   no panics, no thread-local variables. Its system calls are raw; libc's would write the agent's `errno`.
//! * That memory stays until `begun` closes, which the kernel does after the child has left it (the close on
//!   exec comes after the change of address space, the close at exit after its end).
//! * The agent's signal handlers must not run in it: CLONE_CLEAR_SIGHAND.
//!
//! Waiting for the process to end is the reaper's work, not ours.

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Gid, Pid, Uid};
use std::arch::asm;
use std::ffi::{CString, c_char};
use std::io::ErrorKind;
use std::ptr::{self, NonNull};
use tokio::net::unix::pipe::Receiver;

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("the system calls below are written for Linux on x86-64");

/// Where in the child a start failed. The numbers travel through the eventfd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stage {
    /// setsid, default signals.
    Session = 1,
    /// Standard input, output and error.
    Descriptors = 2,
    /// Becoming the user: supplementary groups, group, user, no new privileges.
    Privileges = 3,
    /// Entering the working directory, as that user.
    Directory = 4,
    /// Executing the program, as that user.
    Program = 5,
    /// Making its terminal the controlling one.
    Terminal = 6,
}

impl Stage {
    const ALL: [Self; 6] =
        [Self::Session, Self::Descriptors, Self::Privileges, Self::Directory, Self::Program, Self::Terminal];
}

/// The user a program runs as; the agent's own supplementary groups are always dropped.
#[derive(Debug, Clone)]
pub(crate) struct User {
    /// User id.
    pub(crate) uid: Uid,
    /// Group id.
    pub(crate) gid: Gid,
    /// Supplementary groups.
    pub(crate) groups: Vec<Gid>,
}

/// Everything a child becomes, complete before it exists.
#[derive(Debug)]
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
    /// Whether standard input is a terminal that is to control its session.
    pub(crate) terminal: bool,
}

/// A child that exists; whether it becomes the program is told by [`Beginning::wait`].
pub(crate) struct Child {
    /// Its process id; valid until the reaper has collected it.
    pub(crate) pid: Pid,
    /// The same process for ever, whatever becomes of the number.
    pub(crate) pidfd: OwnedFd,
    /// How it begins.
    pub(crate) beginning: Beginning,
}

/// A child on its way to its program.
pub(crate) struct Beginning {
    /// Closes when the child has left our memory.
    begun: Receiver,
    /// Says why, if it failed. An eventfd, because a child without a byte left in its cgroup must still be
    /// able to tell: writing into a pipe may need a page, adding to a number needs nothing.
    failure: OwnedFd,
    /// What the child reads. Dropped only when `begun` has closed; if nobody waits for that, it is leaked.
    /// Made by `Box::into_raw`. A raw pointer, for a `Box` that moves claims that nobody else reads it.
    shared: NonNull<Shared>,
}

/// What the child works from: plain pointers and numbers into memory that stays where it is.
struct Shared {
    plan: Plan,
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    stdio: [i32; 3],
    failure: i32,
    stack: Vec<u8>,
}

/// Bytes of the child's stack. Its few frames need less than one page.
const STACK: usize = 32 * 1024;

/// Starts `plan` as a child, inside `cgroup` (a directory of a cgroup2 tree) from its first instruction on,
/// with these standard streams. Call it inside the runtime.
///
/// # Errors
/// No descriptors, or what clone3 answers: `EAGAIN` is the cgroup's `pids.max`, `ENOMEM` or `EBUSY` the
/// cgroup itself.
pub(crate) fn spawn(plan: Plan, stdio: [OwnedFd; 3], cgroup: Option<BorrowedFd<'_>>) -> Result<Child, Errno> {
    let (begun, end) = pipe_with(PipeFlags::CLOEXEC)?;
    let begun =
        Receiver::from_owned_fd(begun).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let failure = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let shared = Box::new(Shared::new(plan, &stdio, &failure));
    let mut raw_pidfd: libc::c_int = -1;
    let mut arguments = clone_arguments(&mut raw_pidfd, &shared, cgroup);
    // From here on the child may use it, so it must not be dropped on any path but after `begun` closed.
    let shared = NonNull::from(Box::leak(shared));
    // SAFETY: `arguments` is complete and its pointers are valid over the call; its stack belongs to `shared`,
    // and is used by nobody else; `shared` stays in its place until the child has left this memory.
    let pid = unsafe { clone(&mut arguments, shared.as_ptr().cast_const()) };
    // The child has copies of its own. Ours close, so that the end of each stream is the child's end of it.
    drop((stdio, end));
    let beginning = Beginning { begun, failure, shared };
    match pid {
        Err(errno) => {
            beginning.forget();
            Err(errno)
        }
        Ok(pid) => {
            // SAFETY: clone3 succeeded with CLONE_PIDFD, so it stored a new descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(raw_pidfd) };
            Ok(Child { pid, pidfd, beginning })
        }
    }
}

impl Beginning {
    /// Waits until the child has become the program, or has told why not. A child that was killed on its way
    /// counts as begun; its exit status tells the rest. Cancelled, it leaks the memory the child may still use.
    pub(crate) async fn wait(self) -> Result<(), (Stage, Errno)> {
        // End of file, and nothing else, makes the pipe readable.
        loop {
            match self.begun.readable().await {
                Ok(()) if self.closed() => break,
                Ok(()) => {}
                // The runtime has gone, and whether the child still reads our memory cannot be known.
                Err(_) => std::future::pending().await,
            }
        }
        let mut number = [0; 8];
        // EAGAIN: no failure was told.
        let told = rustix::io::read(&self.failure, &mut number).is_ok();
        let failure = failure_of(u64::from_ne_bytes(number)).filter(|_| told);
        self.forget();
        failure.map_or(Ok(()), Err)
    }

    fn closed(&self) -> bool {
        match self.begun.try_read(&mut [0]) {
            Ok(length) => length == 0,
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
    }

    /// Frees what the child had borrowed. Only for when there is no child, or it has left our memory.
    fn forget(self) {
        // SAFETY: it was leaked from a box in `spawn`, this is the one place that takes it back, once, and by
        // the contract above nobody else reads it any more.
        drop(unsafe { Box::from_raw(self.shared.as_ptr()) });
    }
}

impl Shared {
    fn new(plan: Plan, stdio: &[OwnedFd; 3], failure: &OwnedFd) -> Self {
        // The strings do not move with the plan: each lives in an allocation of its own.
        let arguments = pointers(&plan.arguments);
        let environment = pointers(&plan.environment);
        let stdio = stdio.each_ref().map(AsRawFd::as_raw_fd);
        Self { plan, arguments, environment, stdio, failure: failure.as_raw_fd(), stack: vec![0; STACK] }
    }
}

/// The array execve wants: one pointer a string, and null.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

fn clone_arguments(
    pidfd: &mut libc::c_int,
    shared: &Shared,
    cgroup: Option<BorrowedFd<'_>>,
) -> libc::clone_args {
    // SAFETY: `clone_args` is a plain C structure of integers; all zero means "none of these".
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::from((libc::CLONE_VM | libc::CLONE_PIDFD).unsigned_abs()) | CLONE_CLEAR_SIGHAND;
    arguments.pidfd = ptr::from_mut(pidfd) as u64;
    arguments.exit_signal = libc::SIGCHLD.unsigned_abs().into();
    // The kernel starts the child at the upper end, which must be a multiple of 16 (System V ABI, x86-64).
    let start = shared.stack.as_ptr() as u64;
    arguments.stack = start;
    arguments.stack_size = ((start + STACK as u64) & !15) - start;
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd().unsigned_abs().into();
    }
    arguments
}

/// Linux 5.5 (linux/sched.h); libc has it only as a signed number of another width.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
/// Linux 5.7.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// clone3 for a child that begins in [`become_program`] on the stack that `arguments` names.
///
/// # Safety
/// The stack is large enough and unused, `shared` is whole, and both stay until the child has left this memory.
unsafe fn clone(arguments: &mut libc::clone_args, shared: *const Shared) -> Result<Pid, Errno> {
    let result: libc::c_long;
    // SAFETY: in the parent this is one system call, which changes nothing but rax, rcx and r11. The child
    // comes out of it with all other registers the same and an empty stack, and must not return into frames
    // it does not have: it ends its chain of frames and calls a function that never returns.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") ptr::from_mut(arguments),
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") shared,
            in("r13") become_program as unsafe extern "C" fn(*const Shared) -> !,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    let result = check(result)?;
    i32::try_from(result).ok().and_then(Pid::from_raw).ok_or(Errno::RANGE)
}

/// The child's whole life before the program.
///
/// # Safety
/// To be called by [`clone`] only.
unsafe extern "C" fn become_program(shared: *const Shared) -> ! {
    // SAFETY: the parent keeps it until we have left its memory, and neither of us writes to it.
    let shared = unsafe { &*shared };
    let (stage, errno) = prepare(shared).err().unwrap_or_else(|| (Stage::Program, execute(shared)));
    let number = number_of(stage, errno).to_ne_bytes();
    // SAFETY: the descriptor is one of the copies this child was made with. It has room for one number, and
    // this is the only one. exit_group ends this process without touching what it shares with the agent.
    unsafe {
        let _ = rustix::io::write(BorrowedFd::borrow_raw(shared.failure), &number);
        call(libc::SYS_exit_group, [127, 0, 0, 0]);
        asm!("ud2", options(noreturn))
    }
}

/// Order matters: privileges before the directory and the program, so that both are reached with the user's
/// rights and not with ours.
fn prepare(shared: &Shared) -> Result<(), (Stage, Errno)> {
    let at = |stage: Stage| move |errno: Errno| (stage, errno);
    rustix::process::setsid().map_err(at(Stage::Session))?;
    default_sigpipe().map_err(at(Stage::Session))?;
    // SAFETY: they are copies this child was made with, and none is one of those it replaces: the agent's own
    // 0, 1 and 2 are always open, so these have higher numbers.
    let [stdin, stdout, stderr] = shared.stdio.map(|fd| unsafe { BorrowedFd::borrow_raw(fd) });
    rustix::stdio::dup2_stdin(stdin).map_err(at(Stage::Descriptors))?;
    rustix::stdio::dup2_stdout(stdout).map_err(at(Stage::Descriptors))?;
    rustix::stdio::dup2_stderr(stderr).map_err(at(Stage::Descriptors))?;
    close_others_on_exec().map_err(at(Stage::Descriptors))?;
    if shared.plan.terminal {
        rustix::process::ioctl_tiocsctty(stdin).map_err(at(Stage::Terminal))?;
    }
    if let Some(user) = &shared.plan.user {
        become_user(user).map_err(at(Stage::Privileges))?;
    }
    rustix::thread::set_no_new_privs(true).map_err(at(Stage::Privileges))?;
    rustix::process::chdir(shared.plan.directory.as_c_str()).map_err(at(Stage::Directory))
}

/// CLONE_CLEAR_SIGHAND resets what is handled but leaves what is ignored, and Rust's start-up ignores SIGPIPE.
fn default_sigpipe() -> Result<(), Errno> {
    // The kernel's `struct sigaction` of four words: SIG_DFL, no flags, no restorer, an empty mask.
    let default = [0_usize; 4];
    let signal = libc::SIGPIPE.unsigned_abs() as usize;
    // SAFETY: the structure is whole and only read; it sets a disposition of this process, which has a table
    // of its own (no CLONE_SIGHAND).
    let result =
        unsafe { call(libc::SYS_rt_sigaction, [signal, (&raw const default).addr(), 0, size_of::<u64>()]) };
    check(result).map(drop)
}

/// Every descriptor of the agent is opened close-on-exec; this is for what it may have inherited itself.
fn close_others_on_exec() -> Result<(), Errno> {
    let flags = libc::CLOSE_RANGE_CLOEXEC as usize;
    // SAFETY: it closes nothing now, and only marks descriptors of this child's own table.
    check(unsafe { call(libc::SYS_close_range, [3, u32::MAX as usize, flags, 0]) }).map(drop)
}

fn become_user(user: &User) -> Result<(), Errno> {
    rustix::thread::set_thread_groups(&user.groups)?;
    rustix::thread::set_thread_res_gid(user.gid, user.gid, user.gid)?;
    rustix::thread::set_thread_res_uid(user.uid, user.uid, user.uid)
}

/// Tries each file in turn, as execvp(3) does: a missing one is passed over, one that may not be executed is
/// remembered, anything else ends the search.
fn execute(shared: &Shared) -> Errno {
    let mut answer = Errno::NOENT;
    for file in &shared.plan.candidates {
        let words =
            [file.as_ptr().addr(), shared.arguments.as_ptr().addr(), shared.environment.as_ptr().addr(), 0];
        // SAFETY: `file` ends in NUL, both arrays end in null and hold strings that end in NUL.
        match check(unsafe { call(libc::SYS_execve, words) }) {
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(Errno::ACCESS) => answer = Errno::ACCESS,
            Err(errno) => return errno,
            // Does not happen: a successful execve does not return.
            Ok(_) => return Errno::IO,
        }
    }
    answer
}

/// One system call, without libc and its `errno`.
///
/// # Safety
/// Whatever that system call asks for.
unsafe fn call(number: libc::c_long, [first, second, third, fourth]: [usize; 4]) -> libc::c_long {
    let result: libc::c_long;
    // SAFETY: the convention of Linux on x86-64; the kernel changes rax, rcx and r11 and leaves the stack alone.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") first,
            in("rsi") second,
            in("rdx") third,
            in("r10") fourth,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// A raw result as ours: the kernel answers errors as small negative numbers.
fn check(result: libc::c_long) -> Result<u64, Errno> {
    u64::try_from(result).map_err(|_| {
        let errno = i32::try_from(result.unsigned_abs()).unwrap_or(libc::EIO);
        Errno::from_raw_os_error(errno)
    })
}

/// A failure as the number that goes through the eventfd; never 0.
fn number_of(stage: Stage, errno: Errno) -> u64 {
    (u64::from(stage as u8) << 32) | u64::from(errno.raw_os_error().unsigned_abs())
}

/// What such a number says; `None` when it is none.
fn failure_of(number: u64) -> Option<(Stage, Errno)> {
    let stage = Stage::ALL.into_iter().find(|stage| u64::from(*stage as u8) == number >> 32)?;
    let errno = i32::try_from(number & u64::from(u32::MAX)).ok()?;
    Some((stage, Errno::from_raw_os_error(errno)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_survives_the_way_through_its_number() {
        for stage in Stage::ALL {
            assert_eq!(failure_of(number_of(stage, Errno::ACCESS)), Some((stage, Errno::ACCESS)));
        }
        assert_eq!(failure_of(0), None);
        assert_eq!(failure_of(u64::MAX), None);
    }

    #[test]
    fn raw_results_are_errors_when_they_are_negative() {
        assert_eq!(check(7), Ok(7));
        assert_eq!(check(-2), Err(Errno::NOENT));
    }
}
