//! The wish that a copy end before it is whole. Not known here: who has it, and what becomes of what is there.

use crate::error::CopyError;
use std::sync::atomic::{AtomicBool, Ordering};

/// Told once, and looked at between small steps of a copy by whichever thread makes it.
#[derive(Debug, Default)]
pub struct Stop(AtomicBool);

impl Stop {
    /// Tells it. What is taken in ends with [`CopyError::Stopped`]; names that are already being given are all given.
    pub fn tell(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn check(&self) -> Result<(), CopyError> {
        if self.0.load(Ordering::Relaxed) { Err(CopyError::Stopped) } else { Ok(()) }
    }
}
