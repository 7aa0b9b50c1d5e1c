//! Everything between one hello and its end: the open streams and what each of them is.
//!
//! Requests that need no waiting are carried out and answered on the spot. Programs and trees run as futures
//! of their own and speak through outlets.

use super::outbox::Outbox;
use super::{Outlet, Services};
use crate::program::{self, Handle, OverCredit};
use crate::refusal::{Reason, refused};
use crate::service::{self, Receiving, SettleError, Tree};
use outlast_wire::guest::{
    Credit, Done, Exec, FileData, Freeze, GetTree, GuestMessage, HostMessage, INITIAL_CREDIT, Pong, PutFile,
    Refused, Resize, Settle, Signal, StdinData,
};
use rustix::io::Errno;
use std::collections::HashMap;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;
use thiserror::Error;
use tokio::task::{AbortHandle, JoinSet};

/// The longest that programs may take to end before the machine is powered off.
const LONGEST_GRACE: Duration = Duration::from_secs(60);

/// What follows from a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// The next one.
    Continue,
    /// The machine is to be powered off, after programs had this long to end by themselves.
    PowerOff(Duration),
}

/// The host did what the protocol does not allow. The conversation cannot go on.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub(super) enum Violation {
    /// A request on a stream that has not ended.
    #[error("stream {0} is in use")]
    InUse(u32),
    /// Data that was not allowed for.
    #[error("stream {0}")]
    Credit(u32, #[source] OverCredit),
    /// Not a signal of Linux (1 to 31).
    #[error("signal {1} on stream {0}")]
    Signal(u32, u32),
}

/// What is open on a stream.
enum Open {
    Receiving(Receiving),
    Program(Handle),
    Tree(AbortHandle),
}

impl Open {
    fn is_over(&self) -> bool {
        match self {
            Self::Program(program) => program.is_over(),
            Self::Receiving(_) | Self::Tree(_) => false,
        }
    }
}

/// One conversation.
pub(super) struct Conversation {
    services: Rc<Services>,
    streams: HashMap<u32, Open>,
    /// Programs and trees; each gives back its stream when it ends.
    running: JoinSet<u32>,
    /// The highest stream that was used.
    last_stream: u32,
    /// While programs stand still: the streams of those that another host may take over.
    frozen: Option<Freeze>,
}

impl Conversation {
    /// A new one, with nothing open.
    pub(super) fn new(services: Rc<Services>) -> Self {
        Self { services, streams: HashMap::new(), running: JoinSet::new(), last_stream: 0, frozen: None }
    }

    /// Carries out what one frame asks for.
    pub(super) fn act(
        &mut self,
        stream: u32,
        message: Option<HostMessage>,
        outbox: &mut Outbox,
    ) -> Result<Turn, Violation> {
        self.last_stream = self.last_stream.max(stream);
        match message {
            Some(HostMessage::PutFile(request)) => self.put(stream, &request, outbox)?,
            Some(HostMessage::FileData(data)) => self.file_data(stream, &data, outbox)?,
            Some(HostMessage::GetTree(request)) => self.get_tree(stream, request, outbox.outlet(stream))?,
            Some(HostMessage::Exec(request)) => self.exec(stream, &request, outbox)?,
            Some(HostMessage::StdinData(data)) => self.stdin_data(stream, data)?,
            Some(HostMessage::Signal(request)) => outbox.answer(stream, self.signal(stream, request)?),
            Some(HostMessage::Resize(request)) => outbox.answer(stream, self.resize(stream, request)),
            Some(HostMessage::Settle(request)) => outbox.answer(stream, self.settle(&request)),
            Some(HostMessage::Freeze(request)) => outbox.answer(stream, self.freeze(request)),
            Some(HostMessage::Thaw(_)) => outbox.answer(stream, self.thaw()),
            Some(HostMessage::PowerOff(request)) => {
                // Who stands still cannot end.
                self.thaw();
                outbox.answer(stream, GuestMessage::Done(Done {}));
                let grace = Duration::from_millis(request.grace_ms.into());
                return Ok(Turn::PowerOff(grace.min(LONGEST_GRACE)));
            }
            Some(other) => outbox.answer(stream, at_once(&other, &self.services)),
            None => outbox.answer(stream, GuestMessage::Refused(unknown_request())),
        }
        Ok(Turn::Continue)
    }

    fn put(&mut self, stream: u32, request: &PutFile, outbox: &mut Outbox) -> Result<(), Violation> {
        self.check_unused(stream)?;
        match Receiving::begin(request) {
            Ok(receiving) => {
                self.streams.insert(stream, Open::Receiving(receiving));
                outbox.answer(stream, GuestMessage::Credit(Credit { bytes: INITIAL_CREDIT }));
            }
            Err(error) => outbox.answer(stream, refusal("put a file", &error)),
        }
        Ok(())
    }

    fn file_data(&mut self, stream: u32, data: &FileData, outbox: &mut Outbox) -> Result<(), Violation> {
        let Some(Open::Receiving(receiving)) = self.streams.get_mut(&stream) else {
            // Sent before the host heard that the file was refused.
            return Ok(());
        };
        match receiving.take(data) {
            Ok(Ok(credit)) if !data.last => outbox.answer(stream, GuestMessage::Credit(credit)),
            Ok(written) => {
                self.streams.remove(&stream);
                let end = written.map(|_| GuestMessage::Done(Done {}));
                outbox.answer(stream, end.unwrap_or_else(|error| refusal("put a file", &error)));
            }
            Err(over) => return Err(Violation::Credit(stream, over)),
        }
        Ok(())
    }

    fn get_tree(&mut self, stream: u32, request: GetTree, outlet: Outlet) -> Result<(), Violation> {
        self.check_unused(stream)?;
        let tree = self.run(stream, async move { Tree::new(request).send(&outlet).await });
        self.streams.insert(stream, Open::Tree(tree));
        Ok(())
    }

    fn exec(&mut self, stream: u32, request: &Exec, outbox: &mut Outbox) -> Result<(), Violation> {
        self.check_unused(stream)?;
        match program::start(request, &self.services.site) {
            Ok((handle, running)) => {
                self.run(stream, running.run(outbox.outlet(stream)));
                self.streams.insert(stream, Open::Program(handle));
            }
            Err(error) => outbox.answer(stream, refusal("start the program", &error)),
        }
        Ok(())
    }

    fn stdin_data(&mut self, stream: u32, data: StdinData) -> Result<(), Violation> {
        match self.streams.get(&stream) {
            Some(Open::Program(program)) => {
                program.feed(data).map_err(|over| Violation::Credit(stream, over))
            }
            // Sent before the host heard that the program had ended.
            _ => Ok(()),
        }
    }

    fn signal(&mut self, stream: u32, request: Signal) -> Result<GuestMessage, Violation> {
        let signal = i32::try_from(request.number).ok().and_then(rustix::process::Signal::from_named_raw);
        let signal = signal.ok_or(Violation::Signal(stream, request.number))?;
        let sent = match self.streams.get(&stream) {
            // One that has ended, and whose end is still on its way out, needs no signal any more.
            Some(Open::Program(program)) => match program.signal(signal) {
                Err(Errno::SRCH) => Ok(()),
                sent => sent,
            },
            _ => Err(Errno::SRCH),
        };
        Ok(done_or("signal the program", sent))
    }

    fn resize(&self, stream: u32, request: Resize) -> GuestMessage {
        let resized = match self.streams.get(&stream) {
            Some(Open::Program(program)) => program.resize(request),
            _ => Err(Errno::SRCH),
        };
        done_or("resize the terminal", resized)
    }

    fn settle(&self, request: &Settle) -> GuestMessage {
        let services = &self.services;
        // Programs that were kept have the disk below them.
        let may = services.home.borrow().is_on(request) || self.streams.values().all(Open::is_over);
        let settled = if may {
            services.home.borrow_mut().settle(request, &mut services.nameplate.borrow_mut())
        } else {
            Err(SettleError::Busy)
        };
        if settled.is_ok() && request.console_memory_max > 0 && !services.seated.replace(true) {
            self.offer_console(request.console_memory_max, request.console_pids_max);
        }
        answer("settle on the disk", settled, |()| GuestMessage::Done(Done {}))
    }

    fn freeze(&mut self, request: Freeze) -> GuestMessage {
        let frozen = self.services.site.freeze(true);
        if frozen.is_ok() {
            self.frozen = Some(request);
        }
        answer("let programs stand still", frozen, |()| GuestMessage::Done(Done {}))
    }

    /// Lets programs go on, if they stand still.
    fn thaw(&mut self) -> GuestMessage {
        let thawed = match self.frozen.take() {
            Some(_) => self.services.site.freeze(false),
            None => Ok(()),
        };
        answer("let programs go on", thawed, |()| GuestMessage::Done(Done {}))
    }

    /// Whether programs stand still, so that another host may go on with them.
    pub(super) fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// Ends everything that is not kept for another host; the streams of the programs that are, and what they are called.
    /// They stand still.
    pub(super) fn hand_over(&mut self) -> (Vec<u32>, Vec<u32>) {
        let Freeze { keep, numbers } = self.frozen.replace(Freeze::default()).unwrap_or_default();
        let mut kept = Vec::new();
        self.streams.retain(|stream, open| match open {
            Open::Program(program) if keep.contains(stream) && !program.is_over() => {
                kept.push(*stream);
                true
            }
            Open::Program(program) => {
                program.kill();
                true
            }
            Open::Tree(tree) => {
                tree.abort();
                false
            }
            Open::Receiving(_) => false,
        });
        kept.sort_unstable();
        let called =
            |stream: &u32| keep.iter().position(|kept| kept == stream).and_then(|at| numbers.get(at));
        let numbers = kept.iter().map(|stream| called(stream).copied().unwrap_or(0)).collect();
        (kept, numbers)
    }

    /// The highest stream that was used.
    pub(super) fn last_stream(&self) -> u32 {
        self.last_stream
    }

    /// For as long as the guest lives, whoever talks to it.
    fn offer_console(&self, memory_max: u64, pids_max: u32) {
        let Some(device) = program::console_device() else { return };
        let services = Rc::clone(&self.services);
        tokio::task::spawn_local(async move {
            program::offer_console(&services.site, &device, memory_max, pids_max).await;
        });
    }

    fn check_unused(&self, stream: u32) -> Result<(), Violation> {
        if self.streams.contains_key(&stream) { Err(Violation::InUse(stream)) } else { Ok(()) }
    }

    fn run(&mut self, stream: u32, future: impl Future<Output = ()> + 'static) -> AbortHandle {
        self.running.spawn_local(async move {
            future.await;
            stream
        })
    }

    /// Waits until a program or a tree has ended and closes its stream; for ever when none runs.
    pub(super) async fn one_ended(&mut self) {
        match self.running.join_next().await {
            Some(Ok(stream)) => drop(self.streams.remove(&stream)),
            // Aborted: its stream was closed then. (A panic has ended the whole guest.)
            Some(Err(_)) => {}
            None => std::future::pending().await,
        }
    }

    /// Asks all programs to end, and stops what only the host would still wait for.
    pub(super) fn ask_to_end(&self) {
        for open in self.streams.values() {
            match open {
                Open::Program(program) => program.ask_to_end(),
                Open::Tree(tree) => tree.abort(),
                Open::Receiving(_) => {}
            }
        }
    }

    /// Kills all programs and stops all trees. What stands still need not go on for that.
    pub(super) fn stop(&self) {
        for open in self.streams.values() {
            match open {
                Open::Program(program) => program.kill(),
                Open::Tree(tree) => tree.abort(),
                Open::Receiving(_) => {}
            }
        }
    }

    /// Whether nothing of it runs any more.
    pub(super) fn is_still(&self) -> bool {
        self.running.is_empty()
    }

    /// Lets what was stopped come to its end by itself.
    pub(super) fn detach(mut self) {
        // The next conversation's programs are to run.
        self.thaw();
        self.running.detach_all();
    }
}

/// The requests that are one call each.
fn at_once(message: &HostMessage, services: &Services) -> GuestMessage {
    match message {
        HostMessage::Ping(_) => GuestMessage::Pong(Pong {}),
        HostMessage::Clock(request) => {
            answer("set the clock", service::clock(*request), GuestMessage::ClockRead)
        }
        HostMessage::Reseed(request) => {
            answer("reseed", services.generator.reseed(request), GuestMessage::Reseeded)
        }
        HostMessage::SetIdentity(request) => {
            answer("set the identity", services.nameplate.borrow_mut().set(request), GuestMessage::Identity)
        }
        HostMessage::MakeDirectory(request) => {
            answer("make a directory", service::make_directory(request), |()| GuestMessage::Done(Done {}))
        }
        // These are taken care of before; the list is whole so that a new request cannot be forgotten.
        HostMessage::Hello(_)
        | HostMessage::PutFile(_)
        | HostMessage::FileData(_)
        | HostMessage::GetTree(_)
        | HostMessage::Exec(_)
        | HostMessage::StdinData(_)
        | HostMessage::Signal(_)
        | HostMessage::Resize(_)
        | HostMessage::Settle(_)
        | HostMessage::Freeze(_)
        | HostMessage::Thaw(_)
        | HostMessage::Quiesce(_)
        | HostMessage::PowerOff(_) => GuestMessage::Refused(unknown_request()),
    }
}

fn done_or(operation: &str, result: Result<(), Errno>) -> GuestMessage {
    match result {
        Ok(()) => GuestMessage::Done(Done {}),
        Err(errno) => GuestMessage::Refused(Refused {
            operation: operation.to_owned(),
            errno: errno.raw_os_error(),
            cause: errno.to_string(),
        }),
    }
}

fn answer<T, E: Reason>(
    operation: &str,
    result: Result<T, E>,
    message: impl FnOnce(T) -> GuestMessage,
) -> GuestMessage {
    result.map_or_else(|error| refusal(operation, &error), message)
}

fn refusal(operation: &str, error: &impl Reason) -> GuestMessage {
    GuestMessage::Refused(refused(operation, error))
}

/// For requests of a later generation of the protocol.
fn unknown_request() -> Refused {
    Refused {
        operation: "unknown request".to_owned(),
        errno: Errno::NOSYS.raw_os_error(),
        cause: String::new(),
    }
}
