//! One loop beside a program: what its runner says, what it has written, what we type, which signals come.

use super::log::ProgramLog;
use super::{Program, VmError};
use crate::error::{Error, chain};
use crate::follow::{Backlog, FollowError, Sink};
use crate::runner_link::{LinkError, framed};
use crate::vm::find::reread;
use crate::vm::words::why_not_running;
use crate::wait;
use outlast_machine::sys::signal::{HANG_UP, INTERRUPT, Interrupts, RESIZED, TERMINATE};
use outlast_model::{Killer, Outcome, timeout};
use outlast_wire::control::{Answer, Request};
use rustix::event::PollFlags;
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// Read of our input at once; less than a frame holds.
const INPUT: usize = 64 * 1024;
/// The heartbeat of the runner is looked at this often when nothing else happens.
const LOOK: Duration = timeout::HEARTBEAT_LOST;

const _: () = assert!(INPUT <= outlast_wire::control::STDIN_CHUNK);

/// What a client has beside a program.
pub struct Company<'a> {
    /// Where its output goes.
    pub sink: &'a mut dyn Sink,
    /// What is read for its standard input.
    pub input: Option<BorrowedFd<'a>>,
    /// SIGINT and SIGTERM, and those that say something of a terminal. They hang up.
    pub signals: Option<&'a Interrupts>,
    /// Whether the first SIGINT is the program's, and only the next one hangs up.
    pub passes_interrupt: bool,
    /// The rows and columns of our terminal, asked when a signal says that they changed.
    pub size: Option<&'a dyn Fn() -> (u16, u16)>,
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its outcome, as a workload would have it.
    pub outcome: Outcome,
    /// Bytes of its output that were not kept.
    pub truncated_bytes: u64,
}

/// What ended a wait.
#[derive(Clone, Copy)]
enum Wake {
    Signal,
    Output,
    Room,
    Runner,
    Input,
    Nothing,
}

struct Attendance<'p, 'c> {
    program: Program<'p>,
    company: Company<'c>,
    log: ProgramLog,
    backlog: Backlog,
    /// For the runner, and not taken yet.
    outgoing: Vec<u8>,
    interrupted: bool,
    end: Option<Outcome>,
}

/// Stays beside a program until its end is known and everything it wrote was passed on.
pub(super) fn attend(program: Program<'_>, log: ProgramLog, company: Company<'_>) -> Result<Ended, Error> {
    let (backlog, outgoing) = (Backlog::default(), Vec::new());
    let attendance = Attendance { program, company, log, backlog, outgoing, interrupted: false, end: None };
    attendance.run()
}

impl Attendance<'_, '_> {
    fn run(mut self) -> Result<Ended, Error> {
        // Order matters: of a short program the end comes together with its beginning, and is waited for in vain later.
        let heard = self.program.link.heard_before();
        self.take_all(heard)?;
        loop {
            if self.backlog.is_empty() {
                self.log.refill(&mut self.backlog)?;
            }
            if let (true, Some(outcome)) = (self.backlog.is_empty(), &self.end) {
                return Ok(self.ended(outcome.clone()));
            }
            match self.wake()? {
                Wake::Signal => self.signalled()?,
                Wake::Output => {
                    if let Some(ended) = self.pass_on()? {
                        return Ok(ended);
                    }
                }
                Wake::Room => self.send(),
                Wake::Runner => self.hear()?,
                Wake::Input => self.read_input()?,
                Wake::Nothing => self.look_after()?,
            }
        }
    }

    fn ended(&self, outcome: Outcome) -> Ended {
        Ended { outcome, truncated_bytes: self.log.dropped() }
    }

    /// Order matters: somebody who wants the end is seen first, and what was written before is passed on before its
    /// end is heard of.
    fn wake(&self) -> Result<Wake, FollowError> {
        let mut watched = Vec::with_capacity(4);
        let signals = self.company.signals.map(|signals| (signals.as_fd(), PollFlags::IN, Wake::Signal));
        watched.extend(signals);
        let (mut within, mut otherwise) = (LOOK, Wake::Nothing);
        match self.backlog.stream().map(|stream| self.company.sink.descriptor(stream)) {
            None => {}
            Some(Some(output)) => watched.push((output, PollFlags::OUT, Wake::Output)),
            // It takes everything at once.
            Some(None) => (within, otherwise) = (Duration::ZERO, Wake::Output),
        }
        if self.end.is_none() {
            let link = self.program.link.as_fd();
            if !self.outgoing.is_empty() {
                watched.push((link, PollFlags::OUT, Wake::Room));
            }
            watched.push((link, PollFlags::IN, Wake::Runner));
            let input = self.company.input.filter(|_| self.outgoing.is_empty());
            watched.extend(input.map(|input| (input, PollFlags::IN, Wake::Input)));
        }
        let polled: Vec<_> = watched.iter().map(|(descriptor, flags, _)| (*descriptor, *flags)).collect();
        let ready = wait::ready(&polled, within).map_err(FollowError::Wait)?;
        Ok(ready.map_or(otherwise, |index| watched[index].2))
    }

    /// A reader of ours that went away is what would kill a local program by SIGPIPE: this one is killed, too.
    fn pass_on(&mut self) -> Result<Option<Ended>, Error> {
        match self.backlog.pass_on(self.company.sink) {
            Ok(()) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                let outcome = self.end.take().unwrap_or(Outcome::Killed { by: Killer::ClientGone });
                Ok(Some(self.ended(outcome)))
            }
            Err(source) => {
                let (path, source) = (self.program.log.clone(), source);
                Err(FollowError::Show { path, source }.into())
            }
        }
    }

    fn send(&mut self) {
        match self.program.link.write_some(&self.outgoing) {
            Ok(taken) => drop(self.outgoing.drain(..taken)),
            // The runner has hung up, which it tells by itself.
            Err(_) => self.no_more_input(),
        }
    }

    fn no_more_input(&mut self) {
        self.outgoing.clear();
        self.company.input = None;
    }

    fn queue(&mut self, request: &Request) -> Result<(), Error> {
        let frame = framed(request).map_err(|source| VmError::Link { name: self.program.vm(), source })?;
        self.outgoing.extend_from_slice(&frame);
        self.send();
        Ok(())
    }

    fn read_input(&mut self) -> Result<(), Error> {
        let Some(input) = self.company.input else { return Ok(()) };
        let mut data = vec![0; INPUT];
        let length = match rustix::io::read(input, &mut data) {
            Ok(length) => length,
            Err(Errno::INTR | Errno::WOULDBLOCK) => return Ok(()),
            // A terminal that hung up, or one that is somebody else's now: nothing more comes from there.
            Err(_) => 0,
        };
        data.truncate(length);
        let last = length == 0;
        self.queue(&Request::Stdin { exec: self.program.number, data, last })?;
        if last {
            self.company.input = None;
        }
        Ok(())
    }

    fn hear(&mut self) -> Result<(), Error> {
        let heard = self.program.link.heard();
        self.take_all(heard)
    }

    fn take_all(&mut self, heard: Result<Vec<Answer>, LinkError>) -> Result<(), Error> {
        match heard {
            Ok(answers) => {
                for answer in answers {
                    self.take(answer);
                }
                Ok(())
            }
            Err(LinkError::HungUp | LinkError::Io(_)) => self.cut_off(timeout::DEATH, true),
            Err(error) => {
                self.end = Some(Outcome::Lost { cause: chain(&error) });
                Ok(())
            }
        }
    }

    fn take(&mut self, answer: Answer) {
        match answer {
            Answer::ExecEnded { exec, outcome, .. } if exec == self.program.number => {
                let cause = "its runner's word for its end makes no sense".to_owned();
                self.end = Some(Outcome::try_from(&outcome).unwrap_or(Outcome::Lost { cause }));
            }
            // That its log grew: it is read whenever there is nothing else to pass on.
            _ => {}
        }
    }

    /// The connection ended before the program did, or nothing was heard for long: what became of the VM?
    fn cut_off(&mut self, within: Duration, hung_up: bool) -> Result<(), Error> {
        let Program { site, living, .. } = &self.program;
        let cause = if living.is_over_within(site, within)? {
            format!("{} ended ({})", living.name(), why_not_running(&reread(site, living.vm.id)?))
        } else if hung_up {
            format!("the runner of {} hung up", living.name())
        } else {
            return Ok(());
        };
        self.end = Some(Outcome::Lost { cause });
        Ok(())
    }

    /// Nothing has happened for a while: is there still somebody at work?
    fn look_after(&mut self) -> Result<(), Error> {
        if self.end.is_some() { Ok(()) } else { self.cut_off(Duration::ZERO, false) }
    }

    fn signalled(&mut self) -> Result<(), Error> {
        let numbers = self.company.signals.map_or(Ok(Vec::new()), Interrupts::take_numbers);
        for number in numbers.map_err(FollowError::Wait)? {
            match number {
                RESIZED => self.resized()?,
                INTERRUPT if self.company.passes_interrupt && !self.interrupted && self.end.is_none() => {
                    self.interrupted = true;
                    self.forward(number);
                }
                INTERRUPT | TERMINATE | HANG_UP => {
                    return Err(VmError::Interrupted { name: self.program.vm() }.into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn resized(&mut self) -> Result<(), Error> {
        let Some((rows, columns)) = self.company.size.map(|size| size()) else { return Ok(()) };
        if self.end.is_some() {
            return Ok(());
        }
        self.queue(&Request::Resize { exec: self.program.number, rows, columns })
    }

    /// On a connection of its own. A program that has ended meanwhile needs no signal any more.
    fn forward(&self, number: i32) {
        let Program { site, living, number: exec, .. } = &self.program;
        let request = Request::Signal { exec: *exec, number };
        let sent = living.connect(site).and_then(|mut link| link.ask(&request, timeout::CONTROL));
        if let Err(error) = sent {
            tracing::debug!(%error, "a signal was not passed on");
        }
    }
}
