//! Runs the program of a workload and watches it to its end.
//!
//! One loop, two sources: the guest link, and everything else ([`Sources`]). The first event that means an
//! end wins.

use crate::clock;
use crate::decision::{self, Ending, Phase};
use crate::event::{Interrupt, Sources};
use crate::handback;
use crate::link::{BACKLOG, Fault, Link, LinkError};
use crate::output::OutputLog;
use outlast_model::timeout;
use outlast_wire::guest::{
    Exec, Exited, GuestMessage, HostMessage, MAX_CHUNK, Output, Refused, StdinData, guest_words,
};
use outlast_wire::intent::{Intent, Program};
use outlast_wire::output_log::Stream;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;
use thiserror::Error;
use tokio::time::Instant;

/// The program could not be started; it never ran.
#[derive(Debug, Error)]
pub(crate) enum StartError {
    /// The link, or the agent's refusal (no such program, not executable).
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Its standard input.
    #[error("cannot read the program's standard input")]
    Stdin(#[source] io::Error),
}

impl StartError {
    /// What kind of failure it is. After a refusal, or one that is ours, the program surely did not run.
    pub(crate) const fn fault(&self) -> Fault {
        match self {
            Self::Link(error) => error.fault(),
            Self::Stdin(_) => Fault::Ours,
        }
    }
}

/// A program that runs in the guest.
#[derive(Debug)]
pub(crate) struct Running {
    stream: u32,
    started: Instant,
    stdin: Option<File>,
    credit: usize,
}

/// How it ended, and what can still be said of it.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The ending.
    pub(crate) ending: Ending,
    /// From start to end, as the host saw it.
    pub(crate) took: Duration,
    /// Whether the guest is still there to be asked for files.
    pub(crate) guest_alive: bool,
}

/// Sends the program and waits until the agent has started it.
pub(crate) async fn start(
    link: &mut Link,
    program: &Program,
    stdin: Option<&Path>,
) -> Result<Running, StartError> {
    let stdin = stdin.map(File::open).transpose().map_err(StartError::Stdin)?;
    let margin = u64::try_from(timeout::AGENT_DEADLINE_MARGIN.as_millis()).unwrap_or(0);
    let stream = link.open_stream();
    let exec = Exec {
        argv: program.argv.clone(),
        env: program.env.clone(),
        cwd: program.cwd.clone(),
        uid: program.uid,
        gid: program.gid,
        memory_max: program.memory_max,
        pids_max: program.pids_max,
        deadline_ms: program.timeout_ms.saturating_add(margin),
        stdin: stdin.is_some(),
        pty: false,
        rows: 0,
        columns: 0,
        user: String::new(),
    };
    link.queue(stream, HostMessage::Exec(exec))?;
    match link.answer("start program", stream).await? {
        GuestMessage::Started(_) => Ok(Running { stream, started: Instant::now(), stdin, credit: 0 }),
        _ => Err(LinkError::Unexpected { request: "start program" }.into()),
    }
}

impl Running {
    /// When the agent had started it, on the host's clock.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Watches it to its end. The deadline of `sources` must be the program's.
    pub(crate) async fn watch(
        mut self,
        link: &mut Link,
        sources: &mut Sources,
        log: &mut OutputLog,
    ) -> Ended {
        loop {
            if let Err(error) = self.feed_stdin(link) {
                let interrupt = Interrupt::InputNotGiven(crate::boot::chain(&error));
                return self.ended(decision::interrupted(Phase::Running, &interrupt), false);
            }
            let interrupt = tokio::select! {
                // Order matters: a guest that floods the link must not outshout a deadline or a kill.
                biased;
                interrupt = sources.next() => interrupt,
                message = self.next(link) => match message {
                    Ok(Some((stream, message))) if stream == self.stream => match self.hear(message, log) {
                        Heard::More => continue,
                        Heard::End(exited) => return self.ended(decision::exited(&exited), true),
                        Heard::Interrupt(interrupt) => interrupt,
                    },
                    // Room for more input; or a stream nobody asked for: a hostile guest may say what it likes.
                    Ok(_) => continue,
                    Err(error) => interrupt_of(&error, sources).await,
                },
            };
            return self.ended(decision::interrupted(Phase::Running, &interrupt), false);
        }
    }

    /// What the guest says next; `None` when there is room for input that it has given credit for.
    async fn next(&self, link: &mut Link) -> Result<Option<(u32, GuestMessage)>, LinkError> {
        let has_more = self.stdin.is_some() && self.credit > 0;
        if has_more { link.next_or_room().await } else { link.next().await.map(Some) }
    }

    fn ended(self, ending: Ending, guest_alive: bool) -> Ended {
        Ended { ending, took: self.started.elapsed(), guest_alive }
    }

    fn hear(&mut self, message: GuestMessage, log: &mut OutputLog) -> Heard {
        match message {
            GuestMessage::Output(output) => keep(&output, log),
            GuestMessage::Credit(more) => {
                self.credit = self.credit.saturating_add(more.bytes as usize);
                Heard::More
            }
            GuestMessage::Exited(exited) => Heard::End(exited),
            GuestMessage::Refused(Refused { operation, cause, .. }) => {
                let cause = format!(
                    "the agent gave the program up: {}: {}",
                    guest_words(&operation),
                    guest_words(&cause)
                );
                Heard::Interrupt(Interrupt::ProtocolBroken(cause))
            }
            // Nothing else belongs on a program's stream; a hostile guest may say it all the same.
            _ => Heard::More,
        }
    }

    /// Sends as much of standard input as the guest has given credit for.
    fn feed_stdin(&mut self, link: &mut Link) -> Result<(), StartError> {
        while self.credit > 0 && link.backlog() < BACKLOG {
            let Some(file) = &mut self.stdin else { return Ok(()) };
            let mut data = vec![0; MAX_CHUNK.min(self.credit)];
            // A file that cannot be read any further must not look like one that ends there.
            let count = file.read(&mut data).map_err(StartError::Stdin)?;
            data.truncate(count);
            self.credit -= count;
            let last = count == 0;
            link.queue(self.stream, HostMessage::StdinData(StdinData { data, last }))?;
            if last {
                self.stdin = None;
            }
        }
        Ok(())
    }
}

/// What a link that is of no further use means.
pub(crate) async fn interrupt_of(error: &LinkError, sources: &mut Sources) -> Interrupt {
    let said = crate::boot::chain(error);
    match error.fault() {
        Fault::Silent => Interrupt::AgentSilent(said),
        Fault::Protocol => Interrupt::ProtocolBroken(said),
        Fault::Broken | Fault::Refusal | Fault::Ours => sources.explain(Interrupt::LinkLost(said)).await,
    }
}

/// What a message on the program's stream means.
enum Heard {
    More,
    End(Exited),
    Interrupt(Interrupt),
}

fn keep(output: &Output, log: &mut OutputLog) -> Heard {
    let stream = if output.descriptor == 2 { Stream::Stderr } else { Stream::Stdout };
    match log.append(stream, &output.data) {
        Ok(()) => Heard::More,
        Err(error) => Heard::Interrupt(Interrupt::OutputNotKept(error.to_string())),
    }
}

/// Fetches the files the program left. Whatever happens meanwhile, the outcome is already decided.
/// Returns a sentence for the journal.
pub(crate) async fn fetch_outputs(link: &mut Link, sources: &mut Sources, target: &Path) -> String {
    sources.set_deadline(Instant::now() + timeout::OUTPUTS);
    let failure = tokio::select! {
        biased;
        interrupt = sources.next() => format!("{interrupt:?}"),
        fetched = handback::fetch(link, target) => match fetched {
            Ok((files, bytes)) => return format!("handed back {files} files, {bytes} bytes"),
            Err(error) => crate::boot::chain(&error),
        },
    };
    let failure = guest_words(&failure);
    // On a thread of its own: there may be thousands of files, and the heart must go on meanwhile.
    let partial = handback::partial(target);
    let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(partial)).await;
    match removed.unwrap_or_else(|_| Err(io::Error::other("the thread that removed it panicked"))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            format!("not handed back: {failure}; and what had come could not be removed: {error}")
        }
        Ok(()) | Err(_) => format!("not handed back: {failure}"),
    }
}

/// The time since the request was accepted, in milliseconds, on the host's monotonic clock. An intent that does
/// not say when that was on this clock gives the wall clock's answer, zero when that was stepped back.
pub(crate) fn since_request(intent: &Intent) -> f64 {
    let passed = match intent.requested_monotonic_ns {
        Some(requested) => clock::monotonic_ns().saturating_sub(requested),
        None => clock::unix_ns().saturating_sub(intent.requested_unix_ns),
    };
    clock::millis(Duration::from_nanos(passed))
}
