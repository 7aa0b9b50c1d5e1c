//! How far a guest may be ahead of what was taken of its copy: it is told of every step that was taken, and waits when it
//! hears nothing. A guest that does not wait is cut off by its runner, which keeps only so much that nobody has read.

use outlast_wire::guest::copy::STEP;
use rustix::pipe::{PipeFlags, pipe_with};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

/// Told at once, at most.
const WORDS: [u8; 64] = [0; 64];

/// Our end of it.
#[derive(Debug)]
pub(super) struct Window {
    words: File,
    /// Taken, and less than a step.
    rest: u64,
    /// Steps that the guest has not been told of.
    untold: u64,
}

impl Window {
    /// A window, and what the guest's program is to have for its input.
    pub(super) fn open() -> io::Result<(Self, OwnedFd)> {
        let (input, words) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok((Self { words: File::from(words), rest: 0, untold: 0 }, input))
    }

    /// So much more was taken. Waits for nobody: what a guest does not hear now, it hears after the next bytes.
    pub(super) fn took(&mut self, bytes: usize) {
        self.rest += bytes as u64;
        self.untold += self.rest / STEP;
        self.rest %= STEP;
        while self.untold > 0 {
            let most = usize::try_from(self.untold).unwrap_or(WORDS.len()).min(WORDS.len());
            match self.words.write(&WORDS[..most]) {
                Ok(told) => self.untold = self.untold.saturating_sub(told as u64),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Full; or nobody is there to be told.
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn every_step_is_told_once_and_nobody_is_waited_for() {
        let (mut window, input) = Window::open().unwrap();
        let mut input = File::from(input);
        let mut told = || {
            let mut words = vec![0; 1 << 20];
            input.read(&mut words).unwrap_or(0)
        };
        let step = usize::try_from(STEP).unwrap();
        window.took(step - 1);
        assert_eq!(told(), 0);
        window.took(1 + 2 * step);
        assert_eq!(told(), 3);
        // More than a pipe holds.
        for _ in 0..100_000 {
            window.took(step);
        }
        let heard = told();
        assert!(heard < 100_000, "{heard}");
        window.took(step);
        assert_eq!(heard + told(), 100_001);
    }
}
