//! Starts one run and kills whom its plan says, when it says.

use super::{Flavor, Run, Target};
use crate::call::Call;
use crate::deadline::within;
use crate::lab::Lab;
use crate::process::{self, Process};
use rustix::process::Signal;
use serde::Serialize;
use std::fs;
use std::time::{Duration, Instant};

/// A kill that comes before there is anybody to be killed is tried again this much later.
const AGAIN: Duration = Duration::from_millis(20);

/// What became of a kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Landed {
    /// It hit.
    Hit,
    /// The run was over.
    Over,
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
    /// From start to end.
    pub took: Duration,
}

/// Runs it, with its kill when `armed`.
pub fn strike(lab: &Lab, run: &Run, armed: bool) -> Ended {
    let began = Instant::now();
    let mut running = call(lab, run).start();
    let mut landed = Landed::Over;
    // The moment is the point: nothing tells it but the clock.
    let _ = within(run.after, || (!running.is_running()).then_some(()));
    if armed {
        let hit = within(Duration::from_secs(600), || {
            if run.target == Target::Cli {
                let alive = running.is_running();
                if alive {
                    running.signal(Signal::KILL);
                }
                return Some(alive);
            }
            match victim(lab, run) {
                Some(victim) => Some(victim.try_kill()),
                // A detached run goes on when its client is gone.
                None if !running.is_running() && !lives(lab, run) => Some(false),
                None => {
                    let _ = within(AGAIN, || None::<()>);
                    None
                }
            }
        });
        landed = if hit == Some(true) { Landed::Hit } else { Landed::Over };
    }
    running.limit_from_now(Duration::from_secs(400));
    let output = running.wait();
    let said = output.stderr_text().lines().last().unwrap_or_default().to_owned();
    Ended { run: run.clone(), landed, code: output.code(), said, took: began.elapsed() }
}

fn call<'lab>(lab: &'lab Lab, run: &Run) -> Call<'lab> {
    let mark = run.mark();
    let stdin = lab.file(&format!("{mark}.in"), &mark).display().to_string();
    let naps = if run.flavor == Flavor::Timeout { "60" } else { "0.2" };
    let code = format!(
        "import time\nprint('{mark} begins', flush=True)\ntime.sleep({naps})\nprint('{mark} ends')\n"
    );
    let file = lab.file(&format!("{mark}.py"), code).display().to_string();
    let shell = format!("echo {mark} begins; sleep 0.2; echo {mark} ends");
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

/// The process to be killed, if it is there now.
fn victim(lab: &Lab, run: &Run) -> Option<Process> {
    let incarnation = incarnation(lab, run)?;
    let candidates = match run.target {
        Target::Runner => process::runners(),
        Target::Vmm => process::all().into_iter().filter(|entry| entry.comm.starts_with("qemu")).collect(),
        Target::Cli => Vec::new(),
    };
    let named = |pid: u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == incarnation.as_bytes())
    };
    candidates.iter().filter(|entry| !entry.is_zombie && named(entry.pid)).find_map(Process::hold)
}

/// Whether anything of it still goes on.
fn lives(lab: &Lab, run: &Run) -> bool {
    incarnation(lab, run).is_some()
}

/// Its incarnation, told by its standard input, which is there until it is over. Newest first: it is one of the
/// last that were made.
fn incarnation(lab: &Lab, run: &Run) -> Option<String> {
    let mark = run.mark();
    let all = lab.incarnations();
    let its = all
        .iter()
        .rev()
        .find(|evidence| fs::read_to_string(evidence.input_stdin()).is_ok_and(|text| text == mark))?;
    its.path().file_name()?.to_str().map(str::to_owned)
}
