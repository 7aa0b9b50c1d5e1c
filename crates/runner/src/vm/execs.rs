//! Programs that clients run in a living VM, told apart by their streams on the guest link.
//!
//! ```text
//!   open ──► asked ──Started──► running ──Exited──► over
//!              └─────Refused────────────────────────► (never ran)          the link ends ──► lost
//! ```
//!
//! Whoever awaits the link carries every program's messages here ([`Listener`]), whatever it waits for itself:
//! so two programs never mix, and none is starved by the other, by a certification or by a stop. What a program
//! writes goes into a log of its own, where its client reads it; no client, slow or silent, holds the guest up.
//! Everything that comes from the guest is bounded here: the credit it may give, and what its log may hold.

use crate::clock;
use crate::decision;
use crate::link::{BACKLOG, Link, LinkError, Listener};
use crate::output::OutputLog;
use outlast_model::{BootStep, Outcome};
use outlast_wire::exec_end::ExecEndRecord;
use outlast_wire::guest::{
    Exec, GuestMessage, HostMessage, INITIAL_CREDIT, Output, Resize, Signal, StdinData, guest_words,
};
use outlast_wire::output_log::Stream;
use outlast_wire::record::OutcomeRecord;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use thiserror::Error;
use tokio::sync::{Notify, oneshot, watch};

/// Programs of one VM that may run at the same time.
pub(crate) const MAX_EXECS: usize = 64;

/// No number of a program that a restored guest tells is beyond this: the next one must have room.
const MAX_KEPT_NUMBER: u32 = 1 << 30;

/// SIGKILL.
const KILL: i32 = 9;
/// What the guest protocol has of signals.
const SIGNALS: std::ops::RangeInclusive<u32> = 1..=31;

/// A program could not be sent.
#[derive(Debug, Error)]
pub(crate) enum ExecError {
    /// There are too many already.
    #[error("{MAX_EXECS} programs run in this VM already")]
    TooMany,
    /// Nothing runs in the guest now.
    #[error("the VM is paused")]
    Paused,
    /// The guest is on its way out.
    #[error("the VM is being stopped")]
    Stopping,
    /// Its log.
    #[error("cannot make the program's output log")]
    Log(#[source] io::Error),
    /// The link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// It is over, or never was.
    #[error("no program {0} runs in this VM")]
    NotThere(u32),
    /// The guest does not take what is said to it.
    #[error("the guest has not taken what was said to it before")]
    Busy,
    /// There is no such signal.
    #[error("{0} is no signal (1 to 31)")]
    NoSignal(i32),
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExecEnd {
    /// Its outcome, as a workload would have it.
    pub(crate) outcome: Outcome,
    /// The length of its output log, in bytes.
    pub(crate) log_bytes: u64,
}

impl ExecEnd {
    /// Of a program nobody can ask about any more.
    pub(crate) fn lost(cause: &str) -> Self {
        Self { outcome: Outcome::Lost { cause: cause.to_owned() }, log_bytes: 0 }
    }
}

/// What is kept of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Files {
    /// Its output.
    pub(crate) log: PathBuf,
    /// How it ended, of one that nobody stays beside.
    pub(crate) end: Option<PathBuf>,
}

/// A program that was sent: who asked hears here of its start and of its end.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Its number, by which clients name it.
    pub(crate) number: u32,
    /// Whether it began; fails only when the VM ends.
    pub(crate) started: oneshot::Receiver<Result<(), String>>,
    /// How it ended; fails only when the VM ends.
    pub(crate) ended: oneshot::Receiver<ExecEnd>,
    /// The length of its log, in bytes; its sender is gone when the program is over.
    pub(crate) grown: watch::Receiver<u64>,
}

/// All programs of one VM.
#[derive(Debug, Default)]
pub(crate) struct Execs {
    inner: RefCell<Inner>,
    /// Something of a program changed: its credit, or that it must be killed.
    changed: Notify,
    /// Somebody waits for room.
    room: Notify,
    /// Bytes that wait to be written to the guest, whosoever they are.
    backlog: Cell<usize>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By stream.
    programs: HashMap<u32, Program>,
    last_number: u32,
    /// The streams of programs that nobody waits for.
    detached: HashSet<u32>,
    /// Streams whose program must be killed, because its output cannot be kept.
    doomed: Vec<u32>,
}

#[derive(Debug)]
struct Program {
    number: u32,
    log: Option<OutputLog>,
    /// What may still be sent to its standard input; never more than the protocol's first credit.
    credit: usize,
    /// Gone when its end was told.
    grown: Option<watch::Sender<u64>>,
    started: Option<oneshot::Sender<Result<(), String>>>,
    ended: Option<oneshot::Sender<ExecEnd>>,
    /// Why its output could not be kept.
    unkept: Option<String>,
    /// Where its end is written down, when nobody is told.
    record: Option<PathBuf>,
}

impl Execs {
    /// Sends a program. At most `limit` bytes of its output are kept.
    pub(crate) fn open(
        &self,
        link: &mut Link,
        exec: Exec,
        files: impl FnOnce(u32) -> Files,
        limit: u64,
    ) -> Result<Opened, ExecError> {
        let mut inner = self.inner.borrow_mut();
        if inner.programs.len() >= MAX_EXECS {
            return Err(ExecError::TooMany);
        }
        let number = inner.last_number + 1;
        let Files { log: path, end: record } = files(number);
        let detached = record.is_some();
        let log = OutputLog::create(&path, limit).map_err(ExecError::Log)?;
        let stream = link.open_stream();
        if let Err(error) = link.queue(stream, HostMessage::Exec(exec)) {
            remove_log(&path);
            return Err(error.into());
        }
        inner.last_number = number;
        let (start, started) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let (grow, grown) = watch::channel(log.length());
        let program = Program {
            number,
            log: Some(log),
            credit: 0,
            grown: Some(grow),
            started: Some(start),
            ended: Some(end),
            unkept: None,
            record,
        };
        inner.programs.insert(stream, program);
        if detached {
            inner.detached.insert(stream);
        }
        Ok(Opened { number, started, ended, grown })
    }

    /// Takes over a program that ran when the guest was saved, and that nobody waits for: from now on its output and its
    /// end are kept in `files`. It keeps its number if the guest knows one that can be; what a guest says is a claim.
    pub(crate) fn adopt(
        &self,
        (stream, number): (u32, u32),
        files: impl FnOnce(u32) -> Files,
        limit: u64,
    ) -> Result<u32, ExecError> {
        let mut inner = self.inner.borrow_mut();
        if inner.programs.len() >= MAX_EXECS {
            return Err(ExecError::TooMany);
        }
        let is_free = inner.programs.values().all(|program| program.number != number);
        let may_be = (1..=MAX_KEPT_NUMBER).contains(&number) && is_free;
        let number = if may_be { number } else { inner.last_number + 1 };
        let Files { log, end: record } = files(number);
        let log = OutputLog::create(&log, limit).map_err(ExecError::Log)?;
        inner.last_number = inner.last_number.max(number);
        let (grown, _) = watch::channel(log.length());
        let program = Program {
            number,
            log: Some(log),
            credit: 0,
            grown: Some(grown),
            started: None,
            ended: None,
            unkept: None,
            record,
        };
        inner.programs.insert(stream, program);
        inner.detached.insert(stream);
        Ok(number)
    }

    /// The streams and numbers of those that run and that nobody waits for.
    pub(crate) fn detached(&self) -> (Vec<u32>, Vec<u32>) {
        let inner = self.inner.borrow();
        let detached = inner.programs.iter().filter(|(stream, _)| inner.detached.contains(stream));
        detached.map(|(stream, program)| (*stream, program.number)).unzip()
    }

    /// Sends bytes for which [`Execs::take_room`] found room to a program's standard input; `last` closes it.
    pub(crate) fn stdin(
        &self,
        link: &mut Link,
        number: u32,
        data: Vec<u8>,
        last: bool,
    ) -> Result<(), ExecError> {
        let (stream, _) = self.inner.borrow_mut().of(number)?;
        link.queue(stream, HostMessage::StdinData(StdinData { data, last }))?;
        self.backlog.set(link.backlog());
        Ok(())
    }

    /// Sends a signal to a program.
    pub(crate) fn signal(&self, link: &mut Link, number: u32, signal: i32) -> Result<(), ExecError> {
        let (stream, _) = self.inner.borrow_mut().of(number)?;
        if link.backlog() >= BACKLOG {
            return Err(ExecError::Busy);
        }
        // The agent ends the conversation over what is no signal.
        let valid = u32::try_from(signal).ok().filter(|signal| SIGNALS.contains(signal));
        let number = valid.ok_or(ExecError::NoSignal(signal))?;
        Ok(link.queue(stream, HostMessage::Signal(Signal { number }))?)
    }

    /// Kills a program and everything it started.
    pub(crate) fn kill(&self, link: &mut Link, number: u32) -> Result<(), ExecError> {
        self.signal(link, number, KILL)
    }

    /// Tells a program's terminal its size.
    pub(crate) fn resize(
        &self,
        link: &mut Link,
        number: u32,
        (rows, columns): (u16, u16),
    ) -> Result<(), ExecError> {
        let (stream, _) = self.inner.borrow_mut().of(number)?;
        if link.backlog() >= BACKLOG {
            return Err(ExecError::Busy);
        }
        Ok(link.queue(stream, HostMessage::Resize(Resize { rows: rows.into(), columns: columns.into() }))?)
    }

    /// Waits until a program's standard input has room, and so has the link to the guest, which may give credit and take
    /// nothing. Takes as much room as is wanted and there; whoever takes it sends so many bytes. Cancelling it takes
    /// nothing.
    pub(crate) async fn take_room(&self, number: u32, wanted: usize) -> Result<usize, ExecError> {
        loop {
            // Order matters: who is told between the look and the wait must not be missed.
            let told = self.room.notified();
            match self.inner.borrow_mut().of(number)?.1 {
                Program { credit: 0, .. } => {}
                _ if self.backlog.get() >= BACKLOG => {}
                program => {
                    let taken = program.credit.min(wanted);
                    program.credit -= taken;
                    return Ok(taken);
                }
            }
            told.await;
        }
    }

    /// Waits until something must be done for a program, and does it. Cancelling it loses nothing.
    pub(crate) async fn doomed(&self) -> Vec<u32> {
        loop {
            let told = self.changed.notified();
            let doomed = std::mem::take(&mut self.inner.borrow_mut().doomed);
            if !doomed.is_empty() {
                return doomed;
            }
            told.await;
        }
    }

    /// Kills what [`Execs::doomed`] named.
    pub(crate) fn execute(link: &mut Link, streams: &[u32]) -> Result<(), LinkError> {
        streams.iter().try_for_each(|stream| link.queue(*stream, HostMessage::Signal(Signal { number: 9 })))
    }

    /// Nobody waits any longer for a program's end: whoever is told is told `cause`. It is counted among those that run
    /// until the guest says otherwise, for it may.
    pub(crate) fn give_up(&self, number: u32, cause: &str) {
        if let Ok((_, program)) = self.inner.borrow_mut().of(number) {
            program.close(Outcome::Lost { cause: cause.to_owned() });
        }
    }

    /// How many run.
    pub(crate) fn count(&self) -> usize {
        self.inner.borrow().programs.len()
    }

    /// The guest cannot be asked any more: whatever has not ended is lost.
    pub(crate) fn lose(&self, cause: &str) {
        let programs = std::mem::take(&mut self.inner.borrow_mut().programs);
        for (_, program) in programs {
            program.end(Outcome::Lost { cause: cause.to_owned() });
        }
        self.room.notify_waiters();
    }
}

impl Inner {
    fn of(&mut self, number: u32) -> Result<(u32, &mut Program), ExecError> {
        let found = self.programs.iter_mut().find(|(_, program)| program.number == number);
        found.map(|(stream, program)| (*stream, program)).ok_or(ExecError::NotThere(number))
    }
}

impl Listener for Execs {
    fn drained(&self, backlog: usize) {
        self.backlog.set(backlog);
        if backlog < BACKLOG {
            self.room.notify_waiters();
        }
    }

    fn hear(&self, stream: u32, message: GuestMessage) -> Option<GuestMessage> {
        let mut inner = self.inner.borrow_mut();
        let Inner { programs, doomed, detached, .. } = &mut *inner;
        let Some(program) = programs.get_mut(&stream) else { return Some(message) };
        let outcome = match message {
            GuestMessage::Started(_) => {
                program.begin(Ok(()));
                return None;
            }
            GuestMessage::Output(output) => {
                if program.keep(&output).is_err() {
                    doomed.push(stream);
                    self.changed.notify_one();
                }
                return None;
            }
            GuestMessage::Credit(more) => {
                let most = INITIAL_CREDIT as usize;
                program.credit = program.credit.saturating_add(more.bytes as usize).min(most);
                self.room.notify_waiters();
                return None;
            }
            GuestMessage::Exited(exited) => decision::exited(&exited).outcome,
            GuestMessage::Refused(refused) => {
                let errno = match refused.errno {
                    0 => String::new(),
                    errno => format!(" ({})", io::Error::from_raw_os_error(errno)),
                };
                let (operation, cause) = (guest_words(&refused.operation), guest_words(&refused.cause));
                let cause = format!("the agent could not {operation}: {cause}{errno}");
                Outcome::NotStarted { step: BootStep::StartProgram, cause }
            }
            // Done answers a signal or a new size; whatever else a hostile guest says here means nothing.
            _ => return None,
        };
        detached.remove(&stream);
        if let Some(program) = programs.remove(&stream) {
            program.end(outcome);
        }
        self.room.notify_waiters();
        None
    }
}

impl Program {
    fn begin(&mut self, began: Result<(), String>) {
        if let Some(started) = self.started.take() {
            // A client that went away does not hear it.
            let _ = started.send(began);
        }
    }

    /// Keeps output. Fails once, when the disk takes no more: from then on nothing of it is kept.
    fn keep(&mut self, output: &Output) -> Result<(), ()> {
        let stream = if output.descriptor == 2 { Stream::Stderr } else { Stream::Stdout };
        let Some(log) = self.log.as_mut().filter(|_| self.unkept.is_none()) else { return Ok(()) };
        log.append(stream, &output.data).map_err(|error| self.unkept = Some(error.to_string()))?;
        if let Some(grown) = &self.grown {
            grown.send_replace(log.length());
        }
        Ok(())
    }

    fn end(mut self, outcome: Outcome) {
        self.close(outcome);
    }

    /// Tells its end, once.
    fn close(&mut self, outcome: Outcome) {
        let began = self.started.is_none();
        self.begin(match &outcome {
            Outcome::NotStarted { cause, .. } | Outcome::Lost { cause } => Err(cause.clone()),
            _ => Ok(()),
        });
        let outcome = match self.unkept.take() {
            Some(error) => Outcome::Lost { cause: format!("its output could not be kept: {error}") },
            None => outcome,
        };
        let closed = self.log.take().map_or(Ok((0, 0)), OutputLog::close);
        let (log_bytes, truncated_bytes) = closed.unwrap_or_else(|error| {
            tracing::warn!(%error, exec = self.number, "cannot close a program's output log");
            (0, 0)
        });
        if let Some(path) = self.record.take().filter(|_| began) {
            let record = ExecEndRecord {
                outcome: OutcomeRecord::from(&outcome),
                truncated_bytes,
                unix_ns: clock::unix_ns(),
            };
            if let Err(error) = write_down(&path, &record) {
                tracing::warn!(%error, exec = self.number, "cannot write down a program's end");
            }
        }
        if let Some(ended) = self.ended.take() {
            let _ = ended.send(ExecEnd { outcome, log_bytes });
        }
        // Order matters: whoever hears that no more will come asks for the end.
        self.grown = None;
    }
}

/// Whole, or not there. Not synced: after a power failure of the host its end is not known, as that of its VM is.
fn write_down(path: &Path, record: &ExecEndRecord) -> io::Result<()> {
    let text = serde_json::to_vec(record)?;
    let beside = path.with_extension("end.partial");
    std::fs::write(&beside, text)?;
    std::fs::rename(&beside, path)
}

/// Removes the log of a program that never was, or that nobody will read.
pub(crate) fn remove_log(log: &Path) {
    match std::fs::remove_file(log) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %log.display(), "a program's output log stays");
        }
        Ok(()) | Err(_) => {}
    }
}

/// The link with these programs' messages carried here.
pub(crate) fn attach(link: &mut Link, execs: &Rc<Execs>) {
    let listener: Rc<dyn Listener> = Rc::clone(execs) as Rc<dyn Listener>;
    link.listen(listener);
}
