//! Into a VM: we pack, and the guest takes in, and says when it has all of it under its final name.

use super::words::Words;
use super::{Beside, Copied, Here, begin, copied, judge};
use crate::error::Error;
use crate::follow::{FollowError, Sink};
use crate::site::Site;
use crate::vm::error::VmError;
use crate::vm::exec::{Company, Program};
use outlast_copy::{CopyError, Owners, name_of, pack};
use outlast_wire::guest::copy::{ANYTHING, CONTENTS, ONE, UNPACK};
use outlast_wire::output_log::Stream;
use rustix::pipe::{PipeFlags, pipe_with};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::thread;

/// Copies from this host to `destination` of a VM.
///
/// # Errors
/// As [`super::copy_out`]. What a guest that was cut off has of it lies under a name of its own, which the next copy to
/// the same place removes.
pub fn copy_in(
    site: &Site,
    name: &str,
    destination: &str,
    from: Here<'_, BorrowedFd<'_>>,
    beside: &Beside<'_>,
) -> Result<Copied, Error> {
    match from {
        Here::Path(source) => from_path(site, name, destination, source, beside),
        Here::Stream(stream) => {
            let program = begin(site, name, &[UNPACK, destination, ANYTHING], true)?;
            let words = fed(program, stream, beside)?;
            Ok(copied(None, words.left_out()))
        }
    }
}

fn from_path(
    site: &Site,
    name: &str,
    destination: &str,
    source: &Path,
    beside: &Beside<'_>,
) -> Result<Copied, Error> {
    // What is not there is told before anything is begun.
    std::fs::metadata(source).map_err(|error| unreadable(source, error))?;
    let arguments = match name_of(source).map(OsStr::to_str) {
        None => vec![UNPACK, destination, CONTENTS],
        Some(Some(name)) => vec![UNPACK, destination, ONE, name],
        Some(None) => return Err(VmError::CopyName { path: source.to_owned() }.into()),
    };
    let program = begin(site, name, &arguments, true)?;
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| FollowError::Wait(errno.into()))?;
    let (fed, packed) = thread::scope(|scope| {
        let packing = scope.spawn(move || {
            let counted = Counted { inner: File::from(writer), passed: 0, beside };
            pack(source, Owners::Root, counted)
        });
        let fed = fed(program, reader.as_fd(), beside);
        // A guest that has gone takes nothing more, and whoever packs hears of it.
        drop(reader);
        (fed, packing.join())
    });
    match (packed.unwrap_or_else(|panic| std::panic::resume_unwind(panic)), fed) {
        // The guest could only say that the stream ended too early.
        (Err(error), _) if !error.is_hang_up() => Err(VmError::from(error).into()),
        (_, Err(error)) => Err(error),
        (Ok(tally), Ok(words)) => Ok(copied(Some(&tally), words.left_out())),
        (Err(error), Ok(_)) => Err(VmError::from(error).into()),
    }
}

fn unreadable(source: &Path, error: io::Error) -> VmError {
    let path = source.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => CopyError::NoSource { path },
        _ => CopyError::Source { operation: "look at", path, source: error },
    }
    .into()
}

/// Gives a program its input, and says what it said when it ended well.
fn fed(program: Program<'_>, input: BorrowedFd<'_>, beside: &Beside<'_>) -> Result<Words, Error> {
    let (vm, mut words) = (program.vm(), Heard::default());
    let (input, signals) = (Some(input), beside.signals);
    let company = Company { sink: &mut words, input, signals, passes_interrupt: false, size: None };
    let ended = program.attend(company)?;
    judge(&vm, &ended, &words.0)?;
    Ok(words.0)
}

/// Hears what a program says, on whichever stream.
#[derive(Default)]
struct Heard(Words);

impl Sink for Heard {
    fn write(&mut self, _: Stream, bytes: &[u8]) -> io::Result<()> {
        self.0.hear(bytes);
        Ok(())
    }
}

struct Counted<'a, W> {
    inner: W,
    passed: u64,
    beside: &'a Beside<'a>,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.inner.write(bytes)?;
        self.passed += length as u64;
        (self.beside.progress)(self.passed);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
