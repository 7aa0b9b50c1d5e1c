//! Running a program that is done in moments, and not waiting for one that is not.
//!
//! What it says goes to a piece of memory and not through a pipe, which somebody else could hold open. Not for programs
//! that build ([`crate::image`]) or for runners, which outlive who starts them.

use super::{ProcessError, open_pidfd, poll_exit};
use outlast_model::timeout;
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Of what it says so many bytes are kept.
const LONGEST: u64 = 4096;

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code or signal.
    pub status: ExitStatus,
    /// What it said on standard error, trimmed; nothing in it that a terminal would obey.
    pub said: String,
}

/// Runs a program to its end, without input and output; `None` when it had not ended after `deadline` and was killed.
/// Blocks the thread until then, and two seconds longer for one that does not die.
///
/// # Errors
/// It cannot be started or watched; it is killed then.
pub fn attempt(command: &mut Command, deadline: Duration) -> io::Result<Option<Ended>> {
    let mut words = File::from(memfd_create("outlast-attempt", MemfdFlags::CLOEXEC)?);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(words.try_clone()?);
    let mut child = command.spawn()?;
    let status = match end_of(&mut child, deadline) {
        Ok(Some(status)) => status,
        ended => {
            // Our own child, not waited for: its pid is still its own.
            let _ = child.kill();
            // One that does not die even so is left to whoever inherits it.
            let _ = end_of(&mut child, timeout::DEATH);
            return ended.map(|_| None);
        }
    };
    words.rewind()?;
    let mut bytes = Vec::new();
    words.take(LONGEST).read_to_end(&mut bytes)?;
    let said = String::from_utf8_lossy(&bytes).trim().chars().filter(|c| !c.is_control()).collect();
    Ok(Some(Ended { status, said }))
}

/// Waits, and reaps what is dead. /proc is not asked: a child that is tried in namespaces covers ours.
fn end_of(child: &mut Child, within: Duration) -> io::Result<Option<ExitStatus>> {
    let pid = child.id();
    let pidfd = open_pidfd(pid).and_then(|pidfd| pidfd.ok_or(ProcessError::Gone { pid }));
    let dead = pidfd.and_then(|pidfd| poll_exit(pid, &pidfd, within));
    if dead.map_err(io::Error::other)? { child.wait().map(Some) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn how_it_ended_and_what_it_said_is_told_although_somebody_holds_its_output_open() {
        let script = "sleep 600 >&2 & echo $! >&2; exit 7";
        let ended = attempt(&mut shell(script), Duration::from_secs(60)).unwrap().unwrap();
        let left: i32 = ended.said.parse().unwrap();
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(left).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
        assert_eq!(ended.status.code(), Some(7));
    }

    #[test]
    fn one_that_does_not_end_is_killed_at_its_deadline_and_nothing_more_is_waited_for() {
        let begun = Instant::now();
        let ended = attempt(&mut shell("exec sleep 600"), Duration::from_millis(50)).unwrap();
        assert!(ended.is_none() && begun.elapsed() < Duration::from_secs(300));
    }
}
