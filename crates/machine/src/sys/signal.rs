//! Signals as a descriptor, for a synchronous program that waits with poll(2): SIGINT and SIGTERM, and others that it
//! names, are taken from their default action and read instead.

use rustix::io::Errno;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

/// SIGHUP: the terminal is gone.
pub const HANG_UP: i32 = libc::SIGHUP;
/// SIGINT: Ctrl-C.
pub const INTERRUPT: i32 = libc::SIGINT;
/// SIGTERM.
pub const TERMINATE: i32 = libc::SIGTERM;
/// SIGWINCH: the terminal has another size.
pub const RESIZED: i32 = libc::SIGWINCH;

/// SIGINT and SIGTERM of this process, and others, blocked and waiting to be read. Dropping it closes the descriptor and
/// leaves them blocked: it is meant for the last thing a program does.
#[derive(Debug)]
pub struct Interrupts(OwnedFd);

impl Interrupts {
    /// Blocks both signals in the calling thread. Threads and children made later inherit that, so programs
    /// that should still end on Ctrl-C are started before; threads made earlier keep the default action.
    ///
    /// # Errors
    /// Those of pthread_sigmask(3) and signalfd(2).
    pub fn block() -> io::Result<Self> {
        Self::block_also(&[])
    }

    /// The same with further signals, which must be among the constants of this module.
    ///
    /// # Errors
    /// As [`Self::block`].
    pub fn block_also(others: &[i32]) -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the whole set, sigaddset changes it, and both take a valid pointer
        // to it; a number that is no signal is refused by sigaddset and changes nothing.
        let set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for number in [INTERRUPT, TERMINATE].iter().chain(others) {
                libc::sigaddset(set.as_mut_ptr(), *number);
            }
            set.assume_init()
        };
        // SAFETY: the set is initialised, and the old mask is not asked for.
        let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        // SAFETY: the set is initialised; -1 asks for a new descriptor.
        let descriptor =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: signalfd has just made this descriptor, and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// How many signals came since the last call. Several of one kind count once while they are not read.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn take(&self) -> io::Result<usize> {
        Ok(self.take_numbers()?.len())
    }

    /// The signals that came since the last call, by their numbers.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn take_numbers(&self) -> io::Result<Vec<i32>> {
        let mut buffer = [0; size_of::<libc::signalfd_siginfo>()];
        let mut numbers = Vec::new();
        loop {
            match rustix::io::read(&self.0, &mut buffer) {
                Ok(0) | Err(Errno::WOULDBLOCK) => return Ok(numbers),
                // signalfd(2): the number is the first field, `ssi_signo`.
                Ok(_) => {
                    let number = u32::from_ne_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
                    numbers.push(i32::try_from(number).unwrap_or_default());
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for Interrupts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Signal, getpid, kill_process};

    #[test]
    fn signals_are_read_instead_of_ending_the_process() {
        // In a thread of its own: the mask is the thread's. The signal goes to that thread alone.
        let test = || {
            let interrupts = Interrupts::block().unwrap();
            assert_eq!(interrupts.take().unwrap(), 0);
            // SAFETY: raises a signal in this very thread, where it is blocked.
            assert_eq!(unsafe { libc::raise(libc::SIGINT) }, 0);
            assert_eq!(interrupts.take().unwrap(), 1);
            assert_eq!(interrupts.take().unwrap(), 0);
        };
        let also = || {
            let interrupts = Interrupts::block_also(&[RESIZED, HANG_UP]).unwrap();
            for number in [RESIZED, HANG_UP] {
                // SAFETY: raises a signal in this very thread, where it is blocked.
                assert_eq!(unsafe { libc::raise(number) }, 0);
            }
            // The kernel gives the lower number first.
            assert_eq!(interrupts.take_numbers().unwrap(), [HANG_UP, RESIZED]);
        };
        std::thread::spawn(also).join().unwrap();
        std::thread::spawn(test).join().unwrap();
        // Signal 0 only asks whether we are there; the process lives.
        kill_process(getpid(), Signal::CONT).unwrap();
    }
}
