//! The only `unsafe` on the host: the few calls that no safe wrapper has, each behind a safe one of ours.
//!
//! Not responsible for any policy: which namespaces are left, which descriptors survive and what is executed
//! is decided by the callers in [`crate::namespace`], [`crate::jail`] and [`crate::qemu`].

mod program;
pub mod signal;

pub(crate) use program::Program;

use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use rustix::io::{Errno, FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::thread::UnshareFlags;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Takes ownership of a descriptor that this process was started with.
///
/// An inherited descriptor is told from one of our own by its close-on-exec flag: it cannot have survived
/// `execve` with the flag set, while everything that Rust's library and ours open sets it. Taking it sets the
/// flag, so that a second attempt is refused and no child gets it by accident.
///
/// # Errors
/// `EBADF` when nothing is open under that number, or when what is open there was not inherited.
pub fn take_inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number <= libc::STDERR_FILENO {
        return Err(Errno::BADF.into());
    }
    // SAFETY: the borrow ends within this function. If nothing is open under the number the first call says
    // EBADF and nothing else happens; `borrow_raw` only forbids -1, which was refused above.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    if fcntl_getfd(borrowed)?.contains(FdFlags::CLOEXEC) {
        return Err(Errno::BADF.into());
    }
    fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    // SAFETY: the descriptor is open, and no value of ours owns it: the flag that all of ours carry was
    // missing a moment ago. It is set now, so this line is reached at most once per descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Lets `command`'s child inherit `descriptors` under the numbers they have here.
///
/// They are owned by the command from now on and closed here when it is dropped: until then the other end of
/// a socket among them does not see a hang-up when the child dies.
pub fn inherit(command: &mut Command, descriptors: Vec<OwnedFd>) {
    let keep_open = move || -> io::Result<()> {
        for descriptor in &descriptors {
            fcntl_setfd(descriptor, FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: the closure runs in the child between fork and exec. It calls fcntl(2) alone, which is
    // async-signal-safe, allocates nothing and takes no lock.
    unsafe { command.pre_exec(keep_open) };
}

/// As [`inherit`], and nothing else: what this process was started with itself stays behind. For a child that lives on:
/// it must not hold the locks and pipes of whoever called us.
pub fn inherit_only(command: &mut Command, descriptors: Vec<OwnedFd>) {
    let highest = highest_open();
    let close = move || close_all_on_exec().or_else(|_| close_each_on_exec(highest));
    // Order matters: hooks run as they were added.
    // SAFETY: the closure runs in the child between fork and exec. It makes system calls alone, which are
    // async-signal-safe, allocates nothing and takes no lock. No descriptor is closed before the exec.
    unsafe { command.pre_exec(close) };
    inherit(command, descriptors);
}

/// Without /proc: more than anybody has open by accident.
const HIGHEST_USUAL: RawFd = 65_535;

/// The highest number that is open. What is opened between now and a fork is ours, and closes on exec by itself.
fn highest_open() -> RawFd {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).max().unwrap_or(HIGHEST_USUAL)
}

/// Sets the close-on-exec flag of every descriptor above standard error.
fn close_all_on_exec() -> io::Result<()> {
    // SAFETY: with this flag nothing is closed here, and no memory is touched.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The same one by one, for kernels before 5.11.
fn close_each_on_exec(highest: RawFd) -> io::Result<()> {
    for number in 3..=highest {
        // SAFETY: sets a flag of a number, or says EBADF; touches no memory.
        let result = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        if result < 0 && io::Error::last_os_error().raw_os_error() != Some(libc::EBADF) {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Leaves the given namespaces of this process for new ones.
///
/// # Errors
/// `EPERM` without the right to do so, `ENOSPC` when a limit on namespaces is reached, and others of
/// unshare(2).
pub fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // The one flag that can break the promises of other code in this process: a thread that stops sharing
    // its descriptors sees others under the same numbers.
    if flags.contains(UnshareFlags::FILES) {
        return Err(Errno::INVAL.into());
    }
    // SAFETY: unsharing the descriptor table, the one thing I/O safety depends on, was refused above.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// Closes every descriptor above standard error but those in `keep`.
///
/// For a process that is about to execute another program and does nothing else in between: whatever owned
/// the closed descriptors must not be used or dropped afterwards.
///
/// # Errors
/// Those of close_range(2): the kernel is older than 5.9.
pub(crate) fn close_all_except(keep: &[RawFd]) -> io::Result<()> {
    let mut kept: Vec<u32> = keep.iter().filter_map(|&number| u32::try_from(number).ok()).collect();
    kept.sort_unstable();
    let mut first = 3;
    for number in kept {
        if number > first {
            close_range(first, number - 1)?;
        }
        first = first.max(number.saturating_add(1));
    }
    close_range(first, u32::MAX)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: closes numbers, touches no memory. That nobody uses them afterwards is the caller's promise,
    // kept by there being one caller, the jail, a step before it executes the VMM.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0_u32) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The number of a descriptor, for a command line or a specification that travels to a child.
pub(crate) fn number_of(descriptor: &OwnedFd) -> RawFd {
    descriptor.as_raw_fd()
}

/// Registers a descriptor with tokio's event loop, to be told when it is readable.
///
/// # Errors
/// Those of epoll_ctl(2): regular files cannot be waited for.
pub fn watch_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is an open descriptor, always the same one, and stays open until it is dropped;
    // `AsyncFd` owns it from here on.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    registered.map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::process::Stdio;

    #[test]
    fn a_descriptor_of_our_own_is_not_taken_for_an_inherited_one() {
        let ours = File::open("/dev/null").unwrap();
        assert!(take_inherited(ours.as_raw_fd()).is_err());
    }

    #[test]
    fn an_inherited_descriptor_is_taken_once() {
        let file = File::open("/dev/null").unwrap();
        let inherited = rustix::io::fcntl_dupfd_cloexec(&file, 200).unwrap();
        fcntl_setfd(&inherited, FdFlags::empty()).unwrap();
        let number = std::os::fd::IntoRawFd::into_raw_fd(inherited);
        let taken = take_inherited(number).unwrap();
        assert!(take_inherited(number).is_err());
        drop(taken);
        assert!(take_inherited(number).is_err());
    }

    #[test]
    fn standard_streams_and_nonsense_are_refused() {
        for number in [-1, 0, 1, 2, RawFd::MAX] {
            assert!(take_inherited(number).is_err(), "{number}");
        }
    }

    #[test]
    fn a_child_inherits_what_it_is_given_and_its_death_is_a_hang_up() {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let number = number_of(&writer);
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(format!("echo hello >&{number}")).stdin(Stdio::null());
        inherit(&mut command, vec![writer]);
        let mut child = command.spawn().unwrap();
        drop(command);
        let mut text = String::new();
        File::from(reader).read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello\n");
        assert!(child.wait().unwrap().success());
    }

    /// What of `given` and `other`, both inheritable, a child started by `start` has open.
    fn open_in_a_child(hook: impl FnOnce(&mut Command, OwnedFd)) -> [bool; 2] {
        let inheritable = || {
            let file = rustix::io::fcntl_dupfd_cloexec(File::open("/dev/null").unwrap(), 100).unwrap();
            fcntl_setfd(&file, FdFlags::empty()).unwrap();
            file
        };
        let (given, other) = (inheritable(), inheritable());
        let numbers = [number_of(&given), number_of(&other)];
        let mut command = Command::new("/bin/sh");
        let look = numbers.map(|number| format!("test -e /proc/self/fd/{number} && echo yes || echo no"));
        command.arg("-c").arg(look.join("; ")).stdin(Stdio::null());
        hook(&mut command, given);
        let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let answers: Vec<bool> = said.lines().map(|line| line == "yes").collect();
        answers.try_into().unwrap()
    }

    #[test]
    fn a_child_that_lives_on_gets_nothing_that_it_was_not_given() {
        assert_eq!(open_in_a_child(|command, given| inherit_only(command, vec![given])), [true, false]);
        assert_eq!(open_in_a_child(|command, given| inherit(command, vec![given])), [true, true]);
        let one_by_one = open_in_a_child(|command, given| {
            let highest = highest_open();
            // SAFETY: as in `inherit_only`.
            unsafe { command.pre_exec(move || close_each_on_exec(highest)) };
            inherit(command, vec![given]);
        });
        assert_eq!(one_by_one, [true, false]);
    }
}
