//! Out of a VM: the guest packs, and we take in what it sends, believing nothing of it.

use super::words::Words;
use super::{Beside, Copied, Here, begin, copied, judge};
use crate::error::Error;
use crate::follow::{FollowError, Sink};
use crate::site::Site;
use crate::vm::error::VmError;
use crate::vm::exec::{Company, Ended};
use outlast_copy::{Arrival, CopyError, Expected, Rules, name_of, receive};
use outlast_wire::guest::copy::PACK;
use outlast_wire::output_log::Stream;
use rustix::pipe::{PipeFlags, pipe_with};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::thread;

/// Copies `source` of a VM to this host.
///
/// # Errors
/// [`VmError::NotRunning`]; [`VmError::CopyHere`], [`VmError::CopyThere`], [`VmError::CopyCut`]: there is nothing under
/// the final name then that was not there before.
pub fn copy_out(
    site: &Site,
    name: &str,
    source: &str,
    to: Here<'_, &mut dyn Sink>,
    beside: &Beside<'_>,
) -> Result<Copied, Error> {
    match to {
        Here::Path(destination) => to_path(site, name, source, destination, beside),
        Here::Stream(sink) => to_stream(site, name, source, sink, beside),
    }
}

fn to_path(
    site: &Site,
    name: &str,
    source: &str,
    destination: &Path,
    beside: &Beside<'_>,
) -> Result<Copied, Error> {
    let expected =
        name_of(Path::new(source)).map_or(Expected::Contents, |name| Expected::One(name.to_owned()));
    let program = begin(site, name, &[PACK, source], false)?;
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| FollowError::Wait(errno.into()))?;
    let (vm, mut words) = (program.vm(), Words::default());
    let (ended, received) = thread::scope(|scope| {
        let taking = scope.spawn(move || receive(File::from(reader), destination, expected, Rules::HOSTILE));
        let mut output = Split { out: Out::Pipe(File::from(writer)), words: &mut words, beside, passed: 0 };
        let company = Company { sink: &mut output, input: None, signals: beside.signals, size: None };
        let ended = program.attend(company);
        // The end of the stream, which whoever takes it in waits for.
        drop(output);
        (ended, taking.join())
    });
    let received = received.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let arrival = settle(&vm, ended, received, &words)?;
    let tally = arrival.publish().map_err(VmError::from)?;
    Ok(copied(Some(&tally), words.left_out()))
}

/// Whose failure it was. The guest's words count before the half of a stream that they explain, and after what went
/// wrong here, because of which its program was killed.
fn settle(
    vm: &str,
    ended: Result<Ended, Error>,
    received: Result<Arrival, CopyError>,
    words: &Words,
) -> Result<Arrival, Error> {
    match received {
        Err(error) if !matches!(error, CopyError::CutOff | CopyError::Receive(_)) => {
            Err(VmError::from(error).into())
        }
        received => {
            judge(vm, &ended?, words)?;
            Ok(received.map_err(VmError::from)?)
        }
    }
}

fn to_stream(
    site: &Site,
    name: &str,
    source: &str,
    sink: &mut dyn Sink,
    beside: &Beside<'_>,
) -> Result<Copied, Error> {
    let program = begin(site, name, &[PACK, source], false)?;
    let (vm, mut words) = (program.vm(), Words::default());
    let mut output = Split { out: Out::Sink(sink), words: &mut words, beside, passed: 0 };
    let company = Company { sink: &mut output, input: None, signals: beside.signals, size: None };
    let ended = program.attend(company)?;
    judge(&vm, &ended, &words)?;
    Ok(copied(None, words.left_out()))
}

/// The copy goes one way, and words another.
struct Split<'a> {
    out: Out<'a>,
    words: &'a mut Words,
    beside: &'a Beside<'a>,
    passed: u64,
}

enum Out<'a> {
    Pipe(File),
    Sink(&'a mut dyn Sink),
}

impl Sink for Split<'_> {
    fn write(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        if stream == Stream::Stderr {
            self.words.hear(bytes);
            return Ok(());
        }
        match &mut self.out {
            Out::Pipe(pipe) => pipe.write_all(bytes)?,
            Out::Sink(sink) => sink.write(stream, bytes)?,
        }
        self.passed += bytes.len() as u64;
        (self.beside.progress)(self.passed);
        Ok(())
    }

    fn descriptor(&self, stream: Stream) -> Option<BorrowedFd<'_>> {
        match (&self.out, stream) {
            (_, Stream::Stderr) => None,
            (Out::Pipe(pipe), Stream::Stdout) => Some(pipe.as_fd()),
            (Out::Sink(sink), Stream::Stdout) => sink.descriptor(stream),
        }
    }
}
