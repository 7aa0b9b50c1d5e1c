//! Calls of the kernel by their numbers, as somebody who has taken over a VMM makes them. The only `unsafe` of the
//! tests; nothing of the product links it.

use std::io;

/// Makes a call with up to six arguments, the rest zero.
///
/// # Errors
/// What the kernel answers.
pub fn call(number: libc::c_long, arguments: &[usize]) -> io::Result<usize> {
    let at = |index: usize| arguments.get(index).copied().unwrap_or_default();
    // SAFETY: none is claimed, for breaking rules is what these calls are for. They are made by a program that does
    // nothing else, pointers among the arguments lead to values its callers hold until the call returns, and a call
    // that makes a process by fork leaves it a copy of all memory, in which it exits at once.
    let result = unsafe { libc::syscall(number, at(0), at(1), at(2), at(3), at(4), at(5)) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
