//! Our own terminal: its size, and its raw mode, which is taken back on every way out.

use crate::failure::Failure;
use outlast_wire::exit_code::FailureKind;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// A size that programs expect when nobody knows one.
const USUAL: (u16, u16) = (24, 80);

/// Whether this is a terminal.
pub(super) fn is_one(stream: &impl AsFd) -> bool {
    isatty(stream)
}

/// Rows and columns of a terminal.
pub(super) fn size(stream: &impl AsFd) -> (u16, u16) {
    match tcgetwinsize(stream) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row, size.ws_col),
        // A serial line does not know its size.
        Ok(_) | Err(_) => USUAL,
    }
}

/// A terminal that passes every key on, Ctrl-C too. Dropped, also by a panic, it is what it was before.
#[derive(Debug)]
pub(super) struct Raw<'a> {
    stream: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> Raw<'a> {
    /// Everything as it is: what is written to it comes from another terminal.
    pub(super) fn all(stream: &'a impl AsFd) -> io::Result<Self> {
        let before = tcgetattr(stream)?;
        let mut modes = before.clone();
        modes.make_raw();
        // What was typed before it is raw is meant for the program, too.
        tcsetattr(stream, OptionalActions::Drain, &modes)?;
        Ok(Self { stream: stream.as_fd(), before })
    }
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing any more.
        let _ = tcsetattr(self.stream, OptionalActions::Drain, &self.before);
    }
}

/// The failure of what was wanted of a terminal.
pub(super) fn failed(error: &io::Error) -> Failure {
    Failure::new(FailureKind::Failed, format!("cannot use the terminal: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{LocalModes, OutputModes};
    use std::fs::File;

    fn terminal() -> (rustix::fd::OwnedFd, File) {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let theirs = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        (ours, theirs)
    }

    #[test]
    fn a_terminal_is_raw_only_as_long_as_it_is_held() {
        let (_ours, theirs) = terminal();
        let is_cooked =
            || tcgetattr(&theirs).unwrap().local_modes.contains(LocalModes::ICANON | LocalModes::ISIG);
        let maps_lines = || tcgetattr(&theirs).unwrap().output_modes.contains(OutputModes::OPOST);
        assert!(is_one(&theirs) && is_cooked() && maps_lines());
        let raw = Raw::all(&theirs).unwrap();
        assert!(!is_cooked() && !maps_lines());
        drop(raw);
        assert!(is_cooked() && maps_lines());
        let panicked = std::panic::catch_unwind(|| {
            let _raw = Raw::all(&theirs).unwrap();
            panic!("on the way");
        });
        assert!(panicked.is_err() && is_cooked());
    }

    #[test]
    fn a_size_is_always_told() {
        let (_ours, theirs) = terminal();
        assert_eq!(size(&theirs), USUAL, "a new one has none");
        assert_eq!(size(&File::open("/dev/null").unwrap()), USUAL);
        assert!(!is_one(&File::open("/dev/null").unwrap()));
    }
}
