//! The kernel's random pool: adding entropy that counts, and reseeding the generator from it (random(4)).
//! What entropy is good enough, and how much of it, is decided by the caller.

use rustix::fd::{AsFd, AsRawFd};
use rustix::io::Errno;

/// Most bytes one request adds. It is also the size of the kernel interface's buffer below.
pub(crate) const MAX_ENTROPY: usize = 512;

/// `RNDADDENTROPY`, `_IOW('R', 0x03, int [2])`.
const ADD_ENTROPY: libc::Ioctl = 0x4008_5203;
/// `RNDRESEEDCRNG`, `_IO('R', 0x07)`.
const RESEED_GENERATOR: libc::Ioctl = 0x5207;

/// `struct rand_pool_info` of linux/random.h with a buffer of fixed size.
#[repr(C)]
struct PoolInfo {
    entropy_bits: libc::c_int,
    buffer_bytes: libc::c_int,
    buffer: [u8; MAX_ENTROPY],
}

/// Mixes `entropy` into the pool behind `random` (an open /dev/random), credits all of its bits, and makes
/// the generator reseed itself from the pool at once.
///
/// # Errors
/// `EINVAL` when there are more than [`MAX_ENTROPY`] bytes; otherwise what the kernel answers.
pub(crate) fn add_and_reseed(random: impl AsFd, entropy: &[u8]) -> Result<(), Errno> {
    let bytes = libc::c_int::try_from(entropy.len()).map_err(|_| Errno::INVAL)?;
    let mut info = PoolInfo { entropy_bits: bytes * 8, buffer_bytes: bytes, buffer: [0; MAX_ENTROPY] };
    info.buffer.get_mut(..entropy.len()).ok_or(Errno::INVAL)?.copy_from_slice(entropy);
    let fd = random.as_fd().as_raw_fd();
    // SAFETY: the descriptor is borrowed and so open; `info` has the layout of `struct rand_pool_info`,
    // `buffer_bytes` is at most the length of its buffer (checked just above), and the kernel only reads it.
    let added = unsafe { libc::ioctl(fd, ADD_ENTROPY, &raw const info) };
    check(added)?;
    // SAFETY: the descriptor is open, and this request takes no argument.
    let reseeded = unsafe { libc::ioctl(fd, RESEED_GENERATOR) };
    check(reseeded)
}

/// A libc result as ours; reads `errno` at once, before anything else can change it.
pub(super) fn check(result: libc::c_int) -> Result<(), Errno> {
    if result == -1 { Err(last_errno()) } else { Ok(()) }
}

/// The calling thread's `errno`.
pub(super) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
