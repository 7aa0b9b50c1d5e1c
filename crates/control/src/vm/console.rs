//! What a VM has said: on its console, or through a program that was detached. So far, or as it comes. What is typed on a
//! console goes to its runner; what comes of that is in the log like everything else, so any number may watch and type.

use super::error::VmError;
use super::find::{find, newest, not_running, reread};
use super::words::why_not_running;
use crate::error::Error;
use crate::evidence;
use crate::follow::{Backlog, FollowError, Sink, Tail};
use crate::logs::Extent;
use crate::reconcile::{Standing, reconcile};
use crate::runner_link::{Link, LinkError};
use crate::site::Site;
use crate::wait;
use outlast_machine::process::{Process, Sighting};
use outlast_machine::sys::signal::Interrupts;
use outlast_model::{Outcome, timeout};
use outlast_store::{IncarnationRow, VmRow};
use outlast_wire::control::{GENERATION_OF_VMS, Request};
use outlast_wire::exec_end::{ExecEndRecord, LONGEST};
use outlast_wire::paths::Evidence;
use rustix::event::PollFlags;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

/// Ctrl-]: leaves a console. Every other key is the guest's.
const LEAVING: u8 = 0x1d;

/// Read of what is typed at once.
const KEYS: usize = 4096;
/// The runner waits for the guest to take what was typed, and we for the runner.
const TYPED_WITHIN: Duration = Duration::from_secs(2 * timeout::CONTROL.as_secs());

/// Which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmLog {
    /// What the newest incarnation's console said, boot messages first.
    Console,
    /// What the program of this number wrote in it.
    Program(u32),
}

/// Who sits at a console, and leaves it while the VM goes on.
#[derive(Debug, Clone, Copy)]
pub struct Seat<'a> {
    /// What is typed: Ctrl-] leaves, and everything else goes to the guest.
    pub keys: BorrowedFd<'a>,
    /// SIGINT, SIGTERM and their like.
    pub signals: &'a Interrupts,
}

/// How following ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// Nobody wants to see more.
    Detached,
    /// The VM ended, with the cause; or everything that was asked for was passed on.
    Ended(Option<String>),
}

/// What is known when a log was passed on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AfterVmLog {
    /// How the program ended whose log it was, if it has.
    pub outcome: Option<Outcome>,
    /// Bytes of its output that were not kept.
    pub truncated_bytes: u64,
}

/// Passes a log of a VM on to `sink`; one that lives or does not. What a program wrote is followed to that program's end.
///
/// # Errors
/// [`VmError::NoLog`]; it cannot be read, or `sink` takes no more.
pub fn logs(
    site: &Site,
    name: &str,
    log: VmLog,
    extent: Extent,
    sink: &mut dyn Sink,
) -> Result<AfterVmLog, Error> {
    let vm = find(site, name)?;
    let (row, tail) = open(site, &vm, log)?;
    let end = match log {
        VmLog::Console => None,
        VmLog::Program(number) => Some(ProgramEnd::of(&site.places().evidence(row.id), number)),
    };
    // Order matters: what was written before an end that is seen is read after it.
    let ended = end.as_ref().and_then(ProgramEnd::read);
    let live = extent == Extent::ToTheEnd && row.ended_unix_ns.is_none() && ended.is_none();
    let backlog = Backlog::default();
    let mut follower =
        Follower { site, vm: &vm, row, tail, backlog, seat: None, line: None, runner: None, end };
    follower.run(live, sink)?;
    Ok(follower.after())
}

/// Passes on what the console of a VM says, from its boot on, and what is typed there, until the VM ends or somebody leaves.
///
/// # Errors
/// [`VmError::NotRunning`] when nothing of it lives.
pub fn console(site: &Site, name: &str, seat: Option<Seat<'_>>, sink: &mut dyn Sink) -> Result<Left, Error> {
    let vm = find(site, name)?;
    if !vm.state.is_living() {
        return Err(not_running(&vm).into());
    }
    let (row, tail) = open(site, &vm, VmLog::Console)?;
    let mut follower = Follower {
        site,
        vm: &vm,
        row,
        tail,
        backlog: Backlog::default(),
        seat,
        line: None,
        runner: None,
        end: None,
    };
    follower.run(true, sink)
}

fn open(site: &Site, vm: &VmRow, log: VmLog) -> Result<(IncarnationRow, Tail), Error> {
    let what = match log {
        VmLog::Console => "console log".to_owned(),
        VmLog::Program(number) => format!("output of a program {number}"),
    };
    let none = || VmError::NoLog { name: vm.name.to_string(), what: what.clone() };
    if vm.incarnation.is_none() {
        return Err(none().into());
    }
    let row = newest(site, vm)?;
    let evidence = site.places().evidence(row.id);
    if evidence::is_pruned(&evidence, &row) {
        return Err(none().into());
    }
    let tail = match log {
        VmLog::Console => Tail::of_console(&evidence)?,
        VmLog::Program(number) if evidence.exec_log(number).exists() => Tail::of_program(&evidence, number)?,
        VmLog::Program(_) => return Err(none().into()),
    };
    Ok((row, tail))
}

#[derive(Clone, Copy)]
enum Wake {
    Leave,
    Keys,
    Output,
    Log,
    Gone,
    Nothing,
}

/// Where a detached program's end is written down.
struct ProgramEnd(PathBuf);

impl ProgramEnd {
    fn of(evidence: &Evidence, number: u32) -> Self {
        Self(evidence.exec_end(number))
    }

    fn is_there(&self) -> bool {
        self.0.exists()
    }

    /// What it says. What makes no sense says nothing.
    fn read(&self) -> Option<AfterVmLog> {
        let mut text = Vec::new();
        File::open(&self.0).ok()?.take(LONGEST).read_to_end(&mut text).ok()?;
        let record: ExecEndRecord = serde_json::from_slice(&text).ok()?;
        let cause = || Outcome::Lost { cause: "what was written down of its end makes no sense".to_owned() };
        let outcome = Outcome::try_from(&record.outcome).unwrap_or_else(|_| cause());
        Some(AfterVmLog { outcome: Some(outcome), truncated_bytes: record.truncated_bytes })
    }
}

struct Follower<'a> {
    site: &'a Site,
    vm: &'a VmRow,
    row: IncarnationRow,
    tail: Tail,
    backlog: Backlog,
    seat: Option<Seat<'a>>,
    /// The runner's socket, once something was typed.
    line: Option<Link>,
    runner: Option<Process>,
    /// Of a program's log: where its end is written down.
    end: Option<ProgramEnd>,
}

impl Follower<'_> {
    /// `live` goes on until the VM's end; otherwise until there is no more.
    fn run(&mut self, live: bool, sink: &mut dyn Sink) -> Result<Left, Error> {
        let mut over = !live;
        loop {
            // Order matters: what is read after its end is all that it wrote.
            over = over || self.end.as_ref().is_some_and(ProgramEnd::is_there);
            if self.backlog.is_empty() {
                self.backlog.refill(&mut self.tail)?;
            }
            if over && self.backlog.is_empty() {
                return Ok(Left::Ended(if live { Some(self.why()?) } else { None }));
            }
            if !over && self.runner.is_none() {
                over = self.find_runner()?;
                continue;
            }
            match self.wake(over, &*sink)? {
                Wake::Leave => return Ok(Left::Detached),
                Wake::Keys => {
                    if self.typed() {
                        return Ok(Left::Detached);
                    }
                }
                Wake::Output => self.pass_on(sink)?,
                Wake::Log => self.tail.acknowledge()?,
                Wake::Gone => over = self.settle()?,
                Wake::Nothing => over = over || self.is_over()?,
            }
        }
    }

    /// Takes hold of the runner; tells whether the VM is over.
    fn find_runner(&mut self) -> Result<bool, Error> {
        match reconcile(self.site, self.row.id)? {
            Standing::Over(row) => {
                self.row = *row;
                return Ok(true);
            }
            Standing::Lives(row) => self.row = *row,
        }
        match self.row.runner.as_ref().map(Process::open) {
            Some(Sighting::Alive(process)) => self.runner = Some(process),
            // Nobody has claimed it yet, which changes the directory that is watched.
            Some(Sighting::Dead(_) | Sighting::Undecided(_)) | None => {
                wait::readable(&[self.tail.as_fd()], timeout::CONTROL).map_err(FollowError::Wait)?;
                self.tail.acknowledge()?;
            }
        }
        Ok(false)
    }

    fn wake(&self, over: bool, sink: &dyn Sink) -> Result<Wake, FollowError> {
        let mut watched = Vec::with_capacity(5);
        if let Some(Seat { keys, signals }) = self.seat {
            watched.push((signals.as_fd(), PollFlags::IN, Wake::Leave));
            watched.push((keys, PollFlags::IN, Wake::Keys));
        }
        let (mut within, mut otherwise) = (timeout::HEARTBEAT_LOST, Wake::Nothing);
        match self.backlog.stream().map(|stream| sink.descriptor(stream)) {
            None => watched.push((self.tail.as_fd(), PollFlags::IN, Wake::Log)),
            Some(Some(output)) => watched.push((output, PollFlags::OUT, Wake::Output)),
            // It takes everything at once.
            Some(None) => (within, otherwise) = (Duration::ZERO, Wake::Output),
        }
        let runner = self.runner.as_ref().filter(|_| !over);
        watched.extend(runner.map(|runner| (runner.as_fd(), PollFlags::IN, Wake::Gone)));
        let polled: Vec<_> = watched.iter().map(|(descriptor, flags, _)| (*descriptor, *flags)).collect();
        let ready = wait::ready(&polled, within).map_err(FollowError::Wait)?;
        Ok(ready.map_or(otherwise, |index| watched[index].2))
    }

    /// Passes on what was typed; tells whether it means to leave. A terminal that is gone means that, too.
    fn typed(&mut self) -> bool {
        let Some(Seat { keys, .. }) = self.seat else { return false };
        let mut typed = [0; KEYS];
        let typed = match rustix::io::read(keys, &mut typed) {
            Ok(0) => return true,
            Ok(length) => &typed[..length],
            Err(rustix::io::Errno::INTR | rustix::io::Errno::WOULDBLOCK) => return false,
            Err(_) => return true,
        };
        let leaves = typed.iter().position(|byte| *byte == LEAVING);
        let keys = &typed[..leaves.unwrap_or(typed.len())];
        if !keys.is_empty() {
            self.send(keys);
        }
        leaves.is_some()
    }

    /// A key that cannot be passed on is lost, as it is on a serial line that is not plugged in: what became of the VM is
    /// told by other means, and the next key tries again.
    ///
    /// The runner hangs up on whoever is silent for long, and a person who thinks is. A hang-up in the place of an answer
    /// says that nothing was typed: such keys go over another connection.
    fn send(&mut self, keys: &[u8]) {
        let request = Request::Type { data: keys.to_vec() };
        let ask = |mut line: Link| line.ask(&request, TYPED_WITHIN).map(|_| line);
        let anew = || ask(Link::open(self.site, &self.row)?.of_generation(GENERATION_OF_VMS)?);
        let sent = match self.line.take().map(ask) {
            None | Some(Err(LinkError::HungUp | LinkError::Io(_))) => anew(),
            Some(sent) => sent,
        };
        match sent {
            Ok(line) => self.line = Some(line),
            Err(error) => tracing::debug!(%error, "keys were not passed on"),
        }
    }

    fn pass_on(&mut self, sink: &mut dyn Sink) -> Result<(), Error> {
        let path = self.site.places().evidence(self.row.id).path().to_owned();
        self.backlog.pass_on(sink).map_err(|source| FollowError::Show { path, source }.into())
    }

    fn settle(&mut self) -> Result<bool, Error> {
        self.row = crate::reconcile::settle(self.site, self.row.id)?;
        Ok(true)
    }

    /// Nothing has happened for a while: is there still somebody at work?
    fn is_over(&self) -> Result<bool, Error> {
        Ok(matches!(reconcile(self.site, self.row.id)?, Standing::Over(_)))
    }

    /// How the program ended whose log was followed: as its runner has written down, or nobody knows.
    fn after(self) -> AfterVmLog {
        let Some(end) = &self.end else { return AfterVmLog::default() };
        let lost = || {
            let cause = format!("{} ended before it was known how it ended", self.vm.name);
            self.row.ended_unix_ns.map(|_| Outcome::Lost { cause })
        };
        end.read().unwrap_or_else(|| AfterVmLog { outcome: lost(), truncated_bytes: 0 })
    }

    fn why(&self) -> Result<String, Error> {
        Ok(why_not_running(&reread(self.site, self.vm.id)?))
    }
}
