//! A program that was started, followed to its end: first whether it began at all, then its streams, its
//! deadline and its exit, in one future. Stopping it early is not done here but by killing its group; the
//! future then comes to its end by itself and leaves nothing behind.

use super::StartError;
use super::cgroup::{Group, Groups};
use super::streams::{Intake, Pump};
use crate::console;
use crate::refusal::refused;
use crate::session::{Gone, Outlet};
use crate::sys::spawn::Beginning;
use outlast_wire::guest::{Credit, Exited, GuestMessage, INITIAL_CREDIT, Started};
use rustix::process::{Pid, WaitStatus};
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How long the processes of a killed group may take to disappear before its end is reported without them.
/// Only a process in uninterruptible sleep takes longer than the time to free its memory.
const CLEAR_LIMIT: Duration = Duration::from_secs(5);

/// How long after its end a program's group is removed and the next one made. Together that takes about as
/// long as a short program runs, and much longer in a fresh clone, where nobody will need the next one.
const TIDY_AFTER: Duration = Duration::from_millis(50);

/// A started program; see [`super::start`].
pub(crate) struct Running {
    pub(super) pid: Pid,
    pub(super) status: oneshot::Receiver<WaitStatus>,
    pub(super) beginning: Option<Beginning>,
    pub(super) deadline: Option<Instant>,
    pub(super) intake: Intake,
    pub(super) stdout: Pump,
    pub(super) stderr: Option<Pump>,
    pub(super) group: Rc<Group>,
    pub(super) groups: Rc<Groups>,
    pub(super) started: Instant,
    /// Set when nothing of it lives any more.
    pub(super) over: Rc<Cell<bool>>,
}

impl Running {
    /// Follows the program to its end and tells `out` about it. Always ends with the group removed; when the
    /// session behind `out` goes away, the program is killed and everything else happens unheard.
    pub(crate) async fn run(mut self, out: Outlet) {
        let deadline = Deadline::arm(self.deadline, &self.group);
        let begun = match self.beginning.take() {
            Some(beginning) => beginning.wait().await,
            None => Ok(()),
        };
        let last = match begun {
            Ok(()) => GuestMessage::Exited(self.follow(&out, deadline).await),
            Err((stage, source)) => {
                deadline.disarm();
                let error = StartError::Child { stage, source };
                // The child is as good as gone; once its status is in, its group can be removed.
                let _ = (&mut self.status).await;
                GuestMessage::Refused(refused("start the program", &error))
            }
        };
        self.over.set(true);
        let _ = out.send(&last).await;
        // Whatever the host asks for next goes first; whoever ends the conversation does not wait.
        let _ = tokio::time::timeout(TIDY_AFTER, out.gone()).await;
        self.group.remove();
        self.groups.prepare_one();
    }

    async fn follow(&mut self, out: &Outlet, deadline: Deadline) -> Exited {
        let status = if let Ok(status) = self.live(out).await {
            status
        } else {
            // Nobody listens any more. The session that went has killed the group; this is the net.
            self.kill();
            (&mut self.status).await.ok()
        };
        let wall = self.started.elapsed();
        let deadline_fired = deadline.disarm();
        self.clear(out).await;
        let signal = status.and_then(WaitStatus::terminating_signal);
        let killed = signal == Some(rustix::process::Signal::KILL.as_raw());
        Exited {
            code: status.and_then(WaitStatus::exit_status),
            signal,
            out_of_memory: self.out_of_memory(),
            // One that ended by itself just before the kill reached it was not killed by it.
            deadline_passed: deadline_fired && killed,
            wall_us: u64::try_from(wall.as_micros()).unwrap_or(u64::MAX),
        }
    }

    /// Serves the streams until the program itself has ended. `None` is a status that was lost.
    async fn live(&mut self, out: &Outlet) -> Result<Option<WaitStatus>, Gone> {
        let pid = self.pid.as_raw_nonzero().get().unsigned_abs();
        out.send(&GuestMessage::Started(Started { pid })).await?;
        if self.intake.is_wanted() {
            out.send(&GuestMessage::Credit(Credit { bytes: INITIAL_CREDIT })).await?;
        }
        loop {
            // Not biased: a flood on one of the two streams must not starve the other.
            tokio::select! {
                status = &mut self.status => return Ok(status.ok()),
                carried = self.stdout.carry(out), if self.stdout.is_open() => carried?,
                carried = carry(&mut self.stderr, out) => carried?,
                credit = self.intake.feed(), if self.intake.is_wanted() => {
                    out.send(&GuestMessage::Credit(credit)).await?;
                }
            }
        }
    }

    /// Ends what the program left behind, then carries the last of its output. Order matters: only when no
    /// process of the group lives is what the pipes hold all there will ever be.
    async fn clear(&mut self, out: &Outlet) {
        match self.group.clear(CLEAR_LIMIT).await {
            Ok(true) => {}
            Ok(false) => console::say("processes of a program did not end when killed"),
            Err(error) => console::say_error("end what a program left behind", &error),
        }
        if let (Ok(()), Some(stderr)) = (self.stdout.drain(out).await, &mut self.stderr) {
            let _ = stderr.drain(out).await;
        }
    }

    fn kill(&self) {
        if let Err(error) = self.group.kill() {
            console::say_error("kill a program", &error);
        }
    }

    fn out_of_memory(&self) -> bool {
        self.group.out_of_memory().unwrap_or_else(|error| {
            console::say_error("learn whether memory ran out", &error);
            false
        })
    }
}

/// Carries what there is to carry; for ever when there is nothing more.
async fn carry(pump: &mut Option<Pump>, out: &Outlet) -> Result<(), Gone> {
    match pump.as_mut().filter(|pump| pump.is_open()) {
        Some(pump) => pump.carry(out).await,
        None => std::future::pending().await,
    }
}

/// Kills a group when its time is over. It is a future of its own, because following the program may be stuck
/// on a host that does not take its output.
struct Deadline {
    fired: Rc<Cell<bool>>,
    watch: Option<JoinHandle<()>>,
}

impl Deadline {
    fn arm(at: Option<Instant>, group: &Rc<Group>) -> Self {
        let fired = Rc::new(Cell::new(false));
        let watch = at.map(|at| tokio::task::spawn_local(expire(at, Rc::clone(group), Rc::clone(&fired))));
        Self { fired, watch }
    }

    /// Ends the watch; returns whether it had killed the group.
    fn disarm(self) -> bool {
        if let Some(watch) = self.watch {
            watch.abort();
        }
        self.fired.get()
    }
}

async fn expire(at: Instant, group: Rc<Group>, fired: Rc<Cell<bool>>) {
    tokio::time::sleep_until(at.into()).await;
    fired.set(true);
    if let Err(error) = group.kill() {
        console::say_error("kill a program at its deadline", &error);
    }
}
