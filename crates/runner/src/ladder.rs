//! The shutdown ladder: ask the agent, ask the VMM, TERM, KILL. Every rung has a deadline, and the journal
//! says which one worked.
//!
//! A workload's VM has nothing worth saving (its root is read-only, its writes are in memory), so workloads
//! start at the last rung. Templates and long-lived machines start higher.

use crate::journal::Journal;
use crate::link::Link;
use outlast_machine::backend::Backend;
use outlast_machine::process::Process;
use outlast_machine::sys;
use outlast_model::timeout;
use outlast_wire::guest::{HostMessage, PowerOff};
use outlast_wire::journal::JournalEntry;
use std::time::Duration;

/// A rung.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rung {
    /// The agent is asked to power the guest off.
    Agent,
    /// The VMM is asked to quit.
    Vmm,
    /// SIGTERM to the VMM.
    Term,
    /// SIGKILL to the VMM.
    Kill,
}

impl Rung {
    const ALL: [Self; 4] = [Self::Agent, Self::Vmm, Self::Term, Self::Kill];

    /// The word in journals and death certificates.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Vmm => "vmm",
            Self::Term => "term",
            Self::Kill => "kill",
        }
    }

    const fn usual_patience(self) -> Duration {
        match self {
            Self::Agent => timeout::RUNG_AGENT,
            Self::Vmm => timeout::RUNG_VMM,
            Self::Term => timeout::RUNG_TERM,
            Self::Kill => timeout::RUNG_KILL,
        }
    }
}

/// How long each rung is given, as a share of the time for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patience {
    whole: Duration,
}

impl Patience {
    /// The usual patience.
    pub(crate) const USUAL: Self = Self { whole: timeout::STOP };

    /// All rungs together take at most this long.
    pub(crate) const fn share(whole: Duration) -> Self {
        Self { whole }
    }

    /// What is left of the whole when it is shared out as usually.
    fn of(self, rung: Rung) -> Duration {
        rung.usual_patience().mul_f64(self.whole.as_secs_f64() / timeout::STOP.as_secs_f64())
    }
}

/// The VMM still lives after the last rung: it is dying, and only its pidfd will tell when it is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StillAlive;

/// Goes down the ladder from `first` until the VMM is dead. Returns the rung that worked.
///
/// Cancelling it leaves the VMM on whatever rung it was.
pub(crate) async fn descend<B: Backend>(
    first: Rung,
    vmm: &mut B,
    mut link: Option<&mut Link>,
    patience: Patience,
    journal: &mut Journal,
) -> Result<Rung, StillAlive> {
    for rung in Rung::ALL.into_iter().filter(|rung| *rung >= first) {
        let patience = patience.of(rung);
        let asked = async {
            ask(rung, vmm, link.as_deref_mut(), patience).await;
            tokio::select! {
                biased;
                () = dead(vmm.process()) => {}
                () = listen(link.as_deref_mut()) => {}
            }
        };
        let worked = tokio::time::timeout(patience, asked).await.is_ok();
        journal.note(JournalEntry::Rung { rung: rung.name().to_owned(), worked });
        if worked {
            return Ok(rung);
        }
    }
    Err(StillAlive)
}

/// Comes when the process is proved dead by its pidfd. A pidfd that cannot be waited on proves nothing, so
/// then this never comes.
pub(crate) async fn dead(process: &Process) {
    let watched = process.as_fd().try_clone_to_owned().and_then(sys::watch_readable);
    match &watched {
        Ok(pidfd) if pidfd.readable().await.is_ok() => {}
        Ok(_) | Err(_) => std::future::pending().await,
    }
}

/// Half of the first rung's time is for the programs in the guest to end; the other half for the guest itself.
fn grace(patience: Duration) -> u32 {
    u32::try_from((patience / 2).as_millis()).unwrap_or(u32::MAX)
}

/// Hears what the guest still says, for those who listen to the link, and never ends.
async fn listen(link: Option<&mut Link>) {
    if let Some(link) = link {
        while link.next().await.is_ok() {}
    }
    std::future::pending::<()>().await;
}

/// Does what the rung says. A rung that cannot even be asked is one that did not work: the next one follows
/// when its patience is over, unless the VMM dies first.
async fn ask<B: Backend>(rung: Rung, vmm: &mut B, link: Option<&mut Link>, patience: Duration) {
    let refused = match rung {
        Rung::Agent => match link {
            Some(link) => link
                .request("power off", HostMessage::PowerOff(PowerOff { grace_ms: grace(patience) }))
                .await
                .err()
                .map(|e| e.to_string()),
            None => Some("there is no guest link".to_owned()),
        },
        Rung::Vmm => vmm.power_off().await.err().map(|e| e.to_string()),
        Rung::Term => vmm.process().signal(rustix::process::Signal::TERM).err().map(|e| e.to_string()),
        Rung::Kill => vmm.kill().err().map(|e| e.to_string()),
    };
    if let Some(error) = refused {
        tracing::debug!(rung = rung.name(), error, "a rung of the shutdown ladder");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlast_machine::backend::{BackendError, Capabilities, LaunchError, LaunchPlan, VmmEvents};
    use outlast_wire::intent::Machine;
    use serde_json::Value;
    use std::fs::File;
    use std::path::Path;
    use tokio::net::UnixStream;

    #[test]
    fn the_rungs_share_the_whole_time_and_the_usual_one_is_theirs() {
        for seconds in [1, 10, 300] {
            let whole = Duration::from_secs(seconds);
            let patience = Patience::share(whole);
            let together: Duration = Rung::ALL.into_iter().map(|rung| patience.of(rung)).sum();
            assert!(together.abs_diff(whole) < Duration::from_millis(1), "{together:?} of {whole:?}");
        }
        for rung in Rung::ALL {
            assert_eq!(Patience::USUAL.of(rung), rung.usual_patience());
        }
    }

    /// A VMM that is a process of the test's own, and does as it was told about what it is asked.
    struct Fake {
        process: Process,
        on_power_off: OnPowerOff,
    }

    #[derive(Debug, Clone, Copy)]
    enum OnPowerOff {
        Exits,
        Refuses,
        IsSilent,
    }

    impl Fake {
        /// `script` says what it makes of signals; it prints a line when it is ready for them.
        fn start(script: &str, on_power_off: OnPowerOff) -> (std::process::Child, Self) {
            let mut command = std::process::Command::new("sh");
            let mut child =
                command.arg("-c").arg(script).stdout(std::process::Stdio::piped()).spawn().unwrap();
            let mut line = String::new();
            let mut told = std::io::BufReader::new(child.stdout.as_mut().unwrap());
            std::io::BufRead::read_line(&mut told, &mut line).unwrap();
            let process = Process::of_child(child.id()).unwrap();
            (child, Self { process, on_power_off })
        }
    }

    impl Backend for Fake {
        const NAME: &'static str = "fake";

        fn capabilities() -> Capabilities {
            unreachable!("no rung asks")
        }

        fn topology(_: &Machine) -> String {
            String::new()
        }

        async fn launch(_: &LaunchPlan) -> Result<(Self, VmmEvents), LaunchError> {
            unreachable!("it runs already")
        }

        async fn boot(&mut self) -> Result<(), BackendError> {
            Ok(())
        }

        async fn restore(&mut self) -> Result<(), BackendError> {
            Ok(())
        }

        async fn connect_agent(&mut self) -> Result<UnixStream, BackendError> {
            unreachable!("it has no agent")
        }

        async fn pause(&mut self) -> Result<(), BackendError> {
            Ok(())
        }

        async fn resume(&mut self) -> Result<(), BackendError> {
            Ok(())
        }

        async fn save(&mut self, _: &Path) -> Result<(), BackendError> {
            Err(BackendError::NotSaveable)
        }

        async fn save_whole(&mut self, _: File, _: Duration) -> Result<u64, BackendError> {
            Err(BackendError::NotSaveable)
        }

        async fn abandon_save(&mut self) {}

        fn monitor(
            &self,
            _: &str,
        ) -> Result<impl Future<Output = Result<Value, BackendError>> + use<> + 'static, BackendError>
        {
            Ok(std::future::ready(Ok(Value::Null)))
        }

        fn keys(&self) -> outlast_machine::console::ConsoleKeys {
            unreachable!("nobody types on a ladder")
        }

        async fn power_off(&mut self) -> Result<(), BackendError> {
            match self.on_power_off {
                OnPowerOff::Exits => Ok(self.process.signal(rustix::process::Signal::HUP)?),
                OnPowerOff::Refuses => Err(BackendError::NothingToBoot),
                OnPowerOff::IsSilent => std::future::pending().await,
            }
        }

        fn process(&self) -> &Process {
            &self.process
        }

        async fn console_kept(&mut self) {}

        fn kill(&self) -> Result<(), BackendError> {
            Ok(self.process.signal(rustix::process::Signal::KILL)?)
        }
    }

    /// Goes down the whole ladder in four seconds and returns the rung that worked, with what the journal says of all.
    async fn stopped(
        script: &str,
        on_power_off: OnPowerOff,
    ) -> (Result<Rung, StillAlive>, Vec<(String, bool)>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal.jsonl");
        let mut journal = Journal::open(&path).unwrap();
        let (mut child, mut vmm) = Fake::start(script, on_power_off);
        let patience = Patience::share(Duration::from_secs(4));
        let began = std::time::Instant::now();
        let worked = descend(Rung::Agent, &mut vmm, None, patience, &mut journal).await;
        assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
        assert!(vmm.process.wait_dead(Duration::ZERO).unwrap());
        child.wait().unwrap();
        let lines = outlast_wire::journal::Journal::parse(&std::fs::read(&path).unwrap()).lines;
        let rungs = lines.into_iter().filter_map(|line| match line.entry {
            JournalEntry::Rung { rung, worked } => Some((rung, worked)),
            _ => None,
        });
        (worked, rungs.collect())
    }

    const READY: &str = "echo ready; while :; do sleep 0.05; done";

    #[tokio::test]
    async fn every_rung_that_fails_is_followed_by_the_next_and_the_journal_says_which_worked() {
        tokio::task::LocalSet::new().run_until(go_down_with_every_rung_failing()).await;
    }

    async fn go_down_with_every_rung_failing() {
        let deaf = format!("trap '' TERM; {READY}");
        let cases = [
            (READY, OnPowerOff::Exits, Rung::Vmm, 2),
            (READY, OnPowerOff::Refuses, Rung::Term, 3),
            (READY, OnPowerOff::IsSilent, Rung::Term, 3),
            (deaf.as_str(), OnPowerOff::Refuses, Rung::Kill, 4),
            (deaf.as_str(), OnPowerOff::IsSilent, Rung::Kill, 4),
        ];
        let all = cases.map(|(script, on_power_off, ..)| {
            let script = script.to_owned();
            tokio::task::spawn_local(async move { stopped(&script, on_power_off).await })
        });
        for (task, (_, on_power_off, expected, tried)) in all.into_iter().zip(cases) {
            let (worked, rungs) = task.await.unwrap();
            assert_eq!(worked, Ok(expected), "{on_power_off:?}");
            let told: Vec<_> = Rung::ALL.into_iter().take(tried).collect();
            let told: Vec<_> = told.iter().map(|rung| (rung.name().to_owned(), *rung == expected)).collect();
            assert_eq!(rungs, told, "{on_power_off:?}");
        }
    }
}
