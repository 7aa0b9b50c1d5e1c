//! What the agent's own program does when it is run as a program of the guest (`/proc/1/exe`): copies between the host
//! and this guest, with a tar on one of its standard streams, and telling what the guest uses. So a copy has the limits, the flow control and the end that every program has.
//!
//! What its arguments, its exit codes and its words mean is in [`outlast_wire::guest::copy`]. What is believed of a
//! stream that comes in is decided here: all of it, for it is root of this guest who asks.

use crate::refusal::chain;
use outlast_copy::{
    CopyError, Expected, FaultKind, NAMED_AT_MOST, Owners, Rules, Stop, Tally, pack, receive,
};
use outlast_wire::guest::copy::{
    CONFLICT, CONTENTS, FAILED, LEFT_OUT, MISSING, ONE, PACED, PACK, STEP, UNPACK, USAGE, WINDOW,
};
use outlast_wire::guest::usage;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    /// Send this to standard output.
    Pack(PathBuf),
    /// Take standard input in.
    Unpack(PathBuf, Expected),
    /// Say what is used.
    Usage,
}

/// Does what the arguments say.
pub(crate) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    let Some(wish) = wish(&arguments) else {
        crate::console::say(concat!(env!("CARGO_PKG_VERSION"), ", PID 1 of an outlast guest"));
        return ExitCode::from(USAGE);
    };
    let done = match wish {
        Wish::Usage => {
            let printed = io::stdout().lock().write_all(crate::usage::look().print().as_bytes());
            return if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) };
        }
        Wish::Pack(source) => {
            let out = Paced { out: io::stdout().lock(), taken: io::stdin().lock(), left: WINDOW };
            pack(&source, Owners::Kept, out)
        }
        Wish::Unpack(destination, expected) => {
            // Whoever wants it stopped kills us.
            let never = Stop::default();
            receive(io::stdin().lock(), &destination, expected, Rules::TRUSTED, &never)
                .and_then(|arrival| arrival.publish(&never))
        }
    };
    match done {
        Ok(tally) => {
            tell(&tally);
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(io::stderr().lock(), "{}", chain(&error));
            ExitCode::from(code(&error))
        }
    }
}

/// Sends no more than the window that nobody has taken: what is ahead of its reader lies on the host's disk.
struct Paced<W, R> {
    out: W,
    /// A byte for every step that was taken.
    taken: R,
    /// So much may be sent.
    left: u64,
}

impl<W: Write, R: Read> Paced<W, R> {
    fn wait(&mut self) -> io::Result<()> {
        let mut words = [0; 64];
        while self.left == 0 {
            match self.taken.read(&mut words) {
                Ok(0) => return Err(io::ErrorKind::BrokenPipe.into()),
                Ok(steps) => self.left += STEP * steps as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl<W: Write, R: Read> Write for Paced<W, R> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait()?;
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        let length = self.out.write(&bytes[..most])?;
        self.left -= length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn wish(arguments: &[OsString]) -> Option<Wish> {
    let (first, rest) = arguments.split_first()?;
    match (first.to_str()?, rest) {
        (PACK, [source, paced]) if paced == PACED => Some(Wish::Pack(source.into())),
        (usage::USAGE, []) => Some(Wish::Usage),
        (UNPACK, [destination, kind]) => {
            let expected = if kind == CONTENTS { Expected::Contents } else { Expected::Anything };
            Some(Wish::Unpack(destination.into(), expected))
        }
        (UNPACK, [destination, kind, name]) if kind == ONE => {
            Some(Wish::Unpack(destination.into(), Expected::One(name.clone())))
        }
        _ => None,
    }
}

/// What was left out, a line each; a host that does not read changes nothing.
fn tell(tally: &Tally) {
    let mut out = io::stderr().lock();
    for what in &tally.left_out {
        let _ = writeln!(out, "{LEFT_OUT}{what}");
    }
    let more = tally.left_out_count.saturating_sub(NAMED_AT_MOST as u64);
    if more > 0 {
        let _ = writeln!(out, "{LEFT_OUT}{more} more");
    }
}

fn code(error: &CopyError) -> u8 {
    match error.kind() {
        FaultKind::Missing => MISSING,
        FaultKind::Conflict => CONFLICT,
        FaultKind::BadStream | FaultKind::Failed => FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_are_not_of_a_copy_are_no_wish() {
        let of = |line: &str| wish(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(of("pack /srv paced"), Some(Wish::Pack("/srv".into())));
        let one = Wish::Unpack("/srv".into(), Expected::One("data".into()));
        assert_eq!(of("unpack /srv one data"), Some(one));
        assert_eq!(of("unpack /srv contents"), Some(Wish::Unpack("/srv".into(), Expected::Contents)));
        assert_eq!(of("unpack /srv anything"), Some(Wish::Unpack("/srv".into(), Expected::Anything)));
        for none in
            ["", "pack", "pack /srv", "pack /srv fast", "unpack /srv", "unpack /srv contents x", "dance /srv"]
        {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn nothing_is_sent_beyond_the_window_that_nobody_has_taken() {
        let (window, step) = (usize::try_from(WINDOW).unwrap(), usize::try_from(STEP).unwrap());
        for steps in [0, 1, 3] {
            let mut out = Vec::new();
            let mut paced = Paced { out: &mut out, taken: &vec![0; steps][..], left: WINDOW };
            let error = paced.write_all(&vec![0; window + 4 * step]).unwrap_err();
            // Whoever takes it has gone.
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
            assert_eq!(out.len(), window + steps * step);
        }
    }
}
