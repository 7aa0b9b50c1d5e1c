//! Copies between the host and this guest: `/proc/1/exe` run as a program of the guest, with a tar on one of its
//! standard streams. So a copy has the limits, the flow control and the end that every program has.
//!
//! What its arguments, its exit codes and its words mean is in [`outlast_wire::guest::copy`]. What is believed of a
//! stream that comes in is decided here: all of it, for it is root of this guest who asks.

use crate::refusal::chain;
use outlast_copy::{CopyError, Expected, FaultKind, NAMED_AT_MOST, Owners, Rules, Tally, pack, receive};
use outlast_wire::guest::copy::{CONFLICT, CONTENTS, FAILED, LEFT_OUT, MISSING, ONE, PACK, UNPACK, USAGE};
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    /// Send this to standard output.
    Pack(PathBuf),
    /// Take standard input in.
    Unpack(PathBuf, Expected),
}

/// Does what the arguments say.
pub(crate) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    let Some(wish) = wish(&arguments) else {
        crate::console::say(concat!(env!("CARGO_PKG_VERSION"), ", PID 1 of an outlast guest"));
        return ExitCode::from(USAGE);
    };
    let done = match wish {
        Wish::Pack(source) => pack(&source, Owners::Kept, io::stdout().lock()),
        Wish::Unpack(destination, expected) => {
            receive(io::stdin().lock(), &destination, expected, Rules::TRUSTED)
                .and_then(outlast_copy::Arrival::publish)
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

fn wish(arguments: &[OsString]) -> Option<Wish> {
    let (first, rest) = arguments.split_first()?;
    match (first.to_str()?, rest) {
        (PACK, [source]) => Some(Wish::Pack(source.into())),
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
        assert_eq!(of("pack /srv"), Some(Wish::Pack("/srv".into())));
        let one = Wish::Unpack("/srv".into(), Expected::One("data".into()));
        assert_eq!(of("unpack /srv one data"), Some(one));
        assert_eq!(of("unpack /srv contents"), Some(Wish::Unpack("/srv".into(), Expected::Contents)));
        assert_eq!(of("unpack /srv anything"), Some(Wish::Unpack("/srv".into(), Expected::Anything)));
        for none in ["", "pack", "unpack /srv", "unpack /srv contents x", "dance /srv"] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
