//! Out of a VM: the guest packs, and we take in what it sends, believing nothing of it.

use super::attentive::{Work, attentively};
use super::window::Window;
use super::words::Words;
use super::{Beside, Copied, Here, begin, copied, judge};
use crate::error::Error;
use crate::follow::{FollowError, Sink};
use crate::site::Site;
use crate::vm::error::VmError;
use crate::vm::exec::{Company, Ended};
use outlast_copy::{Arrival, CopyError, Expected, Rules, Stop, name_of, receive};
use outlast_wire::guest::copy::{PACED, PACK};
use outlast_wire::output_log::Stream;
use rustix::pipe::{PipeFlags, pipe_with};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
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
    let program = begin(site, name, &[PACK, source, PACED], true)?;
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| FollowError::Wait(errno.into()))?;
    let (window, credit) = Window::open().map_err(FollowError::Wait)?;
    let (vm, mut words, stop) = (program.vm(), Words::default(), Stop::default());
    let (ended, received) = thread::scope(|scope| {
        let taking =
            Work::begin(scope, || receive(File::from(reader), destination, expected, Rules::HOSTILE, &stop))?;
        let out = Out::Pipe(File::from(writer));
        let mut output = Split { out, words: &mut words, beside, window, passed: 0 };
        let ended = program.attend(company(&mut output, &credit, beside));
        if ended.is_err() {
            stop.tell();
        }
        // The end of the stream, which whoever takes it in waits for.
        drop(output);
        Ok::<_, Error>((ended, taking.finish(beside.signals, &stop)))
    })?;
    let arrival = settle(&vm, ended, received, &words)?;
    let published = attentively(beside.signals, &stop, || arrival.publish(&stop))?;
    let tally = published.map_err(VmError::from)?;
    Ok(copied(Some(&tally), words.left_out()))
}

/// A copy has nothing to do that a guest would have to be asked for: the first Ctrl-C ends it, whatever the guest does.
fn company<'c>(output: &'c mut Split<'_>, credit: &'c OwnedFd, beside: &Beside<'c>) -> Company<'c> {
    let input = Some(credit.as_fd());
    Company { sink: output, input, signals: beside.signals, passes_interrupt: false, size: None }
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
        Err(error) if !matches!(error, CopyError::CutOff | CopyError::Receive(_) | CopyError::Stopped) => {
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
    let program = begin(site, name, &[PACK, source, PACED], true)?;
    let (window, credit) = Window::open().map_err(FollowError::Wait)?;
    let (vm, mut words) = (program.vm(), Words::default());
    let mut output = Split { out: Out::Sink(sink), words: &mut words, beside, window, passed: 0 };
    let ended = program.attend(company(&mut output, &credit, beside))?;
    judge(&vm, &ended, &words)?;
    Ok(copied(None, words.left_out()))
}

/// The copy goes one way, and words another.
struct Split<'a> {
    out: Out<'a>,
    words: &'a mut Words,
    beside: &'a Beside<'a>,
    window: Window,
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
        self.window.took(bytes.len());
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
