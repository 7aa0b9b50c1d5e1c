//! Starts one run and kills whom its plan says, when it says.

use super::{Flavor, Moment, Run, Target};
use crate::call::{Call, Running};
use crate::deadline::within;
use crate::lab::Lab;
use crate::process::{self, Process};
use outlast_wire::journal::{Journal, JournalEntry, StepPhase};
use outlast_wire::paths::Evidence;
use rustix::process::Signal;
use serde::Serialize;
use std::fs;
use std::time::{Duration, Instant};

/// A kill that comes before there is anybody to be killed is tried again this much later.
const AGAIN: Duration = Duration::from_millis(20);
/// The net behind a run: a boot's deadline, a reconciliation, and a host with far too much to do.
const OVER: Duration = Duration::from_secs(600);
/// Who belongs to a run that is over has this long to be gone. The kernel needs some 10 ms.
const GONE: Duration = Duration::from_secs(10);

/// What became of a kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Landed {
    /// It hit.
    Hit,
    /// The run was over.
    Over,
    /// The run was over and whom it was for was still there.
    Left,
}

/// A run as its caller saw it.
#[derive(Debug, Clone, Serialize)]
pub struct Ended {
    /// The plan.
    pub run: Run,
    /// What became of the kill.
    pub landed: Landed,
    /// The exit code of the command; none when it was killed.
    pub code: Option<i32>,
    /// The last line of its standard error.
    pub said: String,
    /// Until its command ended.
    pub command: Duration,
    /// Until it was over.
    pub whole: Duration,
}

/// Runs it, with its kill.
pub fn strike(lab: &Lab, run: &Run) -> Ended {
    let began = Instant::now();
    let mut going = Going { lab, run, running: call(lab, run).start(), incarnation: None, command: None };
    let came = match run.moment {
        Moment::Clock(after) => {
            // The moment is the point: nothing tells it but the clock.
            going.pass(after.saturating_sub(began.elapsed()));
            true
        }
        Moment::Booting(after) => going.sign(after, |going| !going.journal().is_empty()),
        Moment::Published(after) => going.sign(after, Going::is_published),
        Moment::Program(after) => going.sign(after, Going::has_begun),
        Moment::Ending(after) => going.sign(after, Going::has_ended),
        Moment::Never => false,
    };
    let landed = match (came && going.kill(), run.moment) {
        (true, _) => Landed::Hit,
        (false, Moment::Never) => {
            let _ = within(OVER, || going.is_over().then_some(()));
            let gone = within(GONE, || going.victims().is_empty().then_some(()));
            if gone.is_some() { Landed::Over } else { Landed::Left }
        }
        (false, _) => Landed::Over,
    };
    // Nobody looks after a run that nobody waits for and whose runner was killed: the end of all chaos does.
    let all_over = |going: &mut Going<'_>| landed == Landed::Hit || going.is_over();
    let _ = within(OVER, || all_over(&mut going).then_some(()));
    let whole = began.elapsed();
    going.running.limit_from_now(OVER);
    let Going { running, command, .. } = going;
    let output = running.wait();
    let said = output.stderr_text().lines().last().unwrap_or_default().to_owned();
    let command = command.map_or(whole, |ended| ended.saturating_duration_since(began));
    Ended { run: run.clone(), landed, code: output.code(), said, command, whole }
}

/// A run that goes on.
struct Going<'lab> {
    lab: &'lab Lab,
    run: &'lab Run,
    running: Running,
    /// Once it is known.
    incarnation: Option<Evidence>,
    /// When its command was seen to have ended.
    command: Option<Instant>,
}

impl Going<'_> {
    /// Lets time pass while it goes on.
    fn pass(&mut self, time: Duration) {
        let _ = within(time, || self.is_over().then_some(()));
    }

    /// Waits for a sign and then so long; whether the sign came.
    fn sign(&mut self, after: Duration, sign: fn(&Self) -> bool) -> bool {
        let came = within(OVER, || {
            self.learn();
            if sign(self) { Some(true) } else { self.is_over().then_some(false) }
        });
        if came == Some(true) {
            self.pass(after);
        }
        came == Some(true)
    }

    /// Kills whom the plan says as soon as there is one; whether that hit.
    fn kill(&mut self) -> bool {
        let hit = within(OVER, || {
            if self.run.target == Target::Cli {
                let alive = self.running.is_running();
                if alive {
                    self.running.signal(Signal::KILL);
                }
                return Some(alive);
            }
            match self.victims().first() {
                Some(victim) => Some(victim.try_kill()),
                None if self.is_over() => Some(false),
                None => {
                    let _ = within(AGAIN, || None::<()>);
                    None
                }
            }
        });
        hit == Some(true)
    }

    /// The processes of its kind that are there now. Of the command line it is the command alone, which is known.
    fn victims(&mut self) -> Vec<Process> {
        self.learn();
        let candidates = match self.run.target {
            Target::Runner => process::runners(),
            Target::Vmm => {
                process::all().into_iter().filter(|entry| entry.comm.starts_with("qemu")).collect()
            }
            Target::Cli => return Vec::new(),
        };
        let Some(name) = self.incarnation.as_ref().and_then(|evidence| evidence.path().file_name()) else {
            return Vec::new();
        };
        let named = |pid: u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == name.as_encoded_bytes())
        };
        let living = candidates.iter().filter(|entry| !entry.is_zombie && named(entry.pid));
        living.filter_map(Process::hold).collect()
    }

    /// Whether nothing of it goes on any more: a run that nobody waits for outlives its command.
    fn is_over(&mut self) -> bool {
        if self.running.is_running() {
            return false;
        }
        self.command.get_or_insert_with(Instant::now);
        self.learn();
        // A run's standard input is there until it is over.
        self.incarnation.as_ref().is_none_or(|evidence| !evidence.input_stdin().exists())
    }

    /// Finds out which incarnation it is, told by its standard input. Newest first: it is one of the last that
    /// were made.
    fn learn(&mut self) {
        if self.incarnation.is_some() {
            return;
        }
        let mark = self.run.mark();
        let its =
            |evidence: &Evidence| fs::read_to_string(evidence.input_stdin()).is_ok_and(|text| text == mark);
        self.incarnation = self.lab.incarnations().into_iter().rev().find(its);
    }

    fn journal(&self) -> Vec<JournalEntry> {
        let path = self.incarnation.as_ref().map(Evidence::journal);
        let bytes = path.and_then(|path| fs::read(path).ok()).unwrap_or_default();
        Journal::parse(&bytes).lines.into_iter().map(|line| line.entry).collect()
    }

    fn is_published(&self) -> bool {
        self.journal().iter().any(|entry| {
            matches!(entry, JournalEntry::Step { step, phase: StepPhase::Done, .. } if step == "publish")
        })
    }

    fn has_ended(&self) -> bool {
        self.journal().iter().any(|entry| match entry {
            JournalEntry::Program { phase, .. } => phase == "ended",
            JournalEntry::End { .. } => true,
            _ => false,
        })
    }

    /// Whether its program has printed its first line, as the host has kept it.
    fn has_begun(&self) -> bool {
        let path = self.incarnation.as_ref().map(Evidence::output_log);
        let log = path.and_then(|path| fs::read(path).ok()).unwrap_or_default();
        let line = format!("{} begins", self.run.mark());
        log.windows(line.len()).any(|window| window == line.as_bytes())
    }
}

fn call<'lab>(lab: &'lab Lab, run: &Run) -> Call<'lab> {
    let mark = run.mark();
    let stdin = lab.file(&format!("{mark}.in"), &mark).display().to_string();
    let nap = if run.flavor == Flavor::Timeout { "60" } else { "0.3" };
    let code =
        format!("import time\nprint('{mark} begins', flush=True)\ntime.sleep({nap})\nprint('{mark} ends')\n");
    let file = lab.file(&format!("{mark}.py"), code).display().to_string();
    let shell = format!("echo {mark} begins; sleep {nap}; echo {mark} ends");
    let mut words = vec!["run", "--stdin", &stdin];
    match run.flavor {
        // The mark is an argument, too: the command in the guest is what a workload is known by afterwards.
        Flavor::Clone => words.extend(["--timeout", "5m", &file, "--", &mark]),
        Flavor::Cold => words.extend(["--timeout", "5m", "--cold", &file, "--", &mark]),
        Flavor::Detached => words.extend(["--timeout", "5m", "--detach", &file, "--", &mark]),
        Flavor::Timeout => words.extend(["--timeout", "1s", &file, "--", &mark]),
        Flavor::Base => words.extend(["--timeout", "5m", "--image", "base", "--", "sh", "-c", &shell]),
    }
    lab.call(&words).within(Duration::from_secs(900))
}
