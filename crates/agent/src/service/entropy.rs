//! Renewing the guest's randomness with entropy of the host. After a restore all clones share the template's
//! generator; until this has been answered nothing in the guest may need randomness.

use crate::refusal::Reason;
use crate::sys::entropy::{MAX_ENTROPY, add_and_reseed};
use outlast_wire::guest::{Reseed, Reseeded};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use thiserror::Error;

/// Fewest bytes that renew the generator: its key has 256 bits.
const MIN_ENTROPY: usize = 32;

/// The generator was not renewed.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum ReseedError {
    /// Too little or too much.
    #[error("{0} bytes of entropy, {MIN_ENTROPY} to {MAX_ENTROPY} allowed")]
    Length(usize),
    /// The kernel did not take it.
    #[error("add entropy and reseed")]
    Reseed(#[source] Errno),
}

impl Reason for ReseedError {
    fn errno(&self) -> i32 {
        match self {
            Self::Length(_) => Errno::INVAL.raw_os_error(),
            Self::Reseed(source) => source.raw_os_error(),
        }
    }
}

/// The way to the guest's generator, open from boot on: a fresh clone has other things to do than to find files.
pub(crate) struct Generator(OwnedFd);

impl Generator {
    /// Opens it.
    pub(crate) fn open() -> Result<Self, Errno> {
        rustix::fs::open(c"/dev/random", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map(Self)
    }

    /// Adds the entropy, credits it, and makes the generator use it from now on.
    pub(crate) fn reseed(&self, request: &Reseed) -> Result<Reseeded, ReseedError> {
        let length = request.entropy.len();
        if !(MIN_ENTROPY..=MAX_ENTROPY).contains(&length) {
            return Err(ReseedError::Length(length));
        }
        add_and_reseed(&self.0, &request.entropy).map_err(ReseedError::Reseed)?;
        Ok(Reseeded {})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_or_too_much_entropy_is_refused() {
        let generator = Generator(rustix::fs::open(c"/dev/null", OFlags::RDONLY, Mode::empty()).unwrap());
        for length in [0, MIN_ENTROPY - 1, MAX_ENTROPY + 1] {
            let refused = generator.reseed(&Reseed { entropy: vec![1; length] });
            assert_eq!(refused, Err(ReseedError::Length(length)));
        }
    }
}
