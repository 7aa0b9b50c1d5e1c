//! Brings the runner of an incarnation to life, whether its launcher lives to tell of it or not.
//!
//! ```text
//!   launch ──ok──────────────────────────────► alive
//!     │ the launcher failed
//!     └─► claimed? ──yes──► adopt ────────────► alive
//!            │ nobody is left, or the time is over
//!            └─► abandon ──► (claimed meanwhile: adopt) ─► alive, else stillborn
//! ```
//!
//! A launcher that died may have told its runner who it is before: then that works, and only its claim tells. Not
//! responsible for what becomes of a runner that lives.

use crate::error::{Error, chain};
use crate::follow::FollowError;
use crate::launch::{LaunchError, Launched, Lease, Order, Presence, launch};
use crate::reconcile;
use crate::site::Site;
use crate::wait::{self, Changes};
use outlast_machine::cgroup::{Hierarchy, IncarnationCgroup};
use outlast_machine::process::{Process, Sighting};
use outlast_model::{IncarnationId, IncarnationState, timeout};
use rustix::fs::inotify::WatchFlags;
use std::os::fd::AsFd;
use std::time::Instant;

/// What came of a launch.
#[derive(Debug)]
pub(crate) enum Birth {
    /// The incarnation has its runner, or is over already; this is our end of the lease, if there is one.
    Alive(Option<Lease>),
    /// No runner came, and none will: the incarnation is over, with this as its cause.
    Stillborn(LaunchError),
}

/// Launches the runner of an incarnation whose intent was just written. One that came to life although its launcher
/// died goes on; at most [`timeout::CLAIM`] is waited for that, as whoever reconciles does.
///
/// # Errors
/// The store cannot be written: what became of it is told by whoever reconciles.
pub(crate) fn bring_to_life(site: &Site, order: &Order<'_>) -> Result<Birth, Error> {
    let until = Instant::now() + timeout::CLAIM;
    let (lease, failure) = match launch(site, order) {
        Ok(Launched { lease, launcher: Ok(()), .. }) => return Ok(Birth::Alive(lease)),
        Ok(Launched { lease, presence, launcher: Err(failure) }) => {
            if let Err(error) = await_claim(site, order.incarnation, &presence, until) {
                // Nothing wrong is said for that: who has not claimed its row by now will find it over, and leave.
                tracing::warn!(error = chain(&error), "a runner whose launcher died is not waited for");
            }
            (lease, failure)
        }
        Err(failure) => (None, failure),
    };
    if reconcile::abandon(site, order.incarnation, &chain(&failure))? {
        return Ok(Birth::Stillborn(failure));
    }
    tracing::warn!(error = chain(&failure), "its launcher failed, its runner lives");
    adopt(site, order.incarnation);
    Ok(Birth::Alive(lease))
}

/// Waits until the row is claimed, or nobody is left who could claim it, or the time is over.
fn await_claim(site: &Site, id: IncarnationId, presence: &Presence, until: Instant) -> Result<(), Error> {
    let (store, failed) = (site.store()?, FollowError::Wait);
    // Order matters: a runner writes a line into its journal right after its claim, and what is written before the
    // watch is there is seen by the first look.
    let evidence = Changes::of(site.places().evidence(id).path(), WatchFlags::MODIFY).map_err(failed)?;
    while store.incarnation(id)?.is_some_and(|row| row.state == IncarnationState::Intended) {
        let left = until.saturating_duration_since(Instant::now());
        match wait::readable(&[presence.as_fd(), evidence.as_fd()], left).map_err(failed)? {
            Some(1) => evidence.acknowledge().map_err(failed)?,
            Some(_) | None => break,
        }
    }
    Ok(())
}

/// Does what a launcher that died had left to do: its runner, should it live, is taken out of our control group,
/// whose end must not be its own.
fn adopt(site: &Site, incarnation: IncarnationId) {
    let adopted = || -> Result<(), Error> {
        let store = site.store()?;
        let Some(runner) = store.incarnation(incarnation)?.and_then(|row| row.runner) else { return Ok(()) };
        if let (Sighting::Alive(_), Ok(hierarchy)) =
            (Process::open(&runner), Hierarchy::detect_or_do_without())
        {
            let group = IncarnationCgroup::named(&hierarchy, store.id(), incarnation);
            if let Err(error) = group.adopt_runner(runner.pid) {
                tracing::warn!(%error, "a runner whose launcher died stays in our control group");
            }
        }
        Ok(())
    };
    if let Err(error) = adopted() {
        tracing::warn!(%error, "cannot look for a runner whose launcher died");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::launch::testing::presence;
    use crate::testing::{Stage, accept, identity_of_child, launched_by, sleeper};
    use outlast_model::{BootStep, Outcome, WorkloadState};
    use outlast_store::Store;
    use outlast_wire::identity::ProcessIdentity;
    use std::path::Path;
    use std::time::Duration;

    /// A "runner" that stays as long as its home, and a launcher that is killed as soon as it is there.
    const KILLED_LAUNCHER: &str = r#"( while [ -e "$3" ]; do sleep 0.1; done ) &
        kill -9 $$"#;
    /// A runner that is late, though not too late.
    const LATE: Duration = Duration::from_millis(300);

    fn order(stage: &Stage) -> Order<'static> {
        let store = stage.site.store().unwrap().id();
        Order { store, incarnation: stage.incarnation, leased: true, locks: &[], hold: None }
    }

    fn outcome(stage: &Stage) -> Option<Outcome> {
        match stage.site.store().unwrap().workload(stage.workload).unwrap().unwrap().state {
            WorkloadState::Over(outcome) => Some(outcome),
            WorkloadState::Pending | WorkloadState::Starting | WorkloadState::Running => None,
        }
    }

    /// Somebody to claim a row, of whom nobody is left: who is dead is not adopted into a control group.
    fn somebody() -> ProcessIdentity {
        let mut child = sleeper();
        let identity = identity_of_child(&child);
        child.kill().unwrap();
        child.wait().unwrap();
        identity
    }

    /// What a runner does first: it claims its row, and journals that it has.
    fn claim(database: &Path, journal: &Path, incarnation: IncarnationId, runner: &ProcessIdentity) {
        std::fs::write(journal, "begin\n").unwrap();
        Store::open(database).unwrap().claim(incarnation, runner, clock::unix_ns()).unwrap();
        std::fs::write(journal, "begin\ndone\n").unwrap();
    }

    #[test]
    fn a_runner_that_claims_its_row_after_its_launcher_was_killed_lives() {
        let (stage, runner) = (launched_by(KILLED_LAUNCHER), somebody());
        let (places, incarnation) = (stage.site.places(), stage.incarnation);
        let (database, journal) = (places.database(), places.evidence(incarnation).journal());
        let born = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(LATE);
                claim(&database, &journal, incarnation, &runner);
            });
            bring_to_life(&stage.site, &order(&stage)).unwrap()
        });
        assert!(matches!(born, Birth::Alive(Some(_))), "{born:?}");
        assert_eq!(outcome(&stage), None);
        let row = stage.site.store().unwrap().incarnation(incarnation).unwrap().unwrap();
        assert_eq!((row.state, row.runner), (IncarnationState::Claimed, Some(runner)));
    }

    #[test]
    fn a_launcher_that_failed_and_left_nobody_is_the_cause_at_once() {
        let stage = launched_by("echo 'no cgroups here' >&2; exit 7");
        let since = Instant::now();
        let born = bring_to_life(&stage.site, &order(&stage)).unwrap();
        assert!(matches!(born, Birth::Stillborn(LaunchError::Failed { .. })), "{born:?}");
        assert!(since.elapsed() < timeout::CLAIM, "nobody was there to be waited for");
        let Some(Outcome::NotStarted { step: BootStep::Claim, cause }) = outcome(&stage) else { panic!() };
        assert!(cause.contains("no cgroups here"), "{cause}");
    }

    #[test]
    fn a_claim_is_waited_for_until_nobody_is_left_or_its_time_is_over() {
        let stage = accept(Duration::ZERO);
        let await_claim = |presence: &Presence, within| {
            await_claim(&stage.site, stage.incarnation, presence, Instant::now() + within).unwrap();
        };
        let (ours, theirs) = presence();
        await_claim(&ours, Duration::from_millis(1));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(LATE);
                drop(theirs);
            });
            // Were its end not seen, this test would run into its own deadline.
            await_claim(&ours, Duration::from_secs(3600));
        });
        assert!(reconcile::abandon(&stage.site, stage.incarnation, "nobody came").unwrap());
        let late = stage.site.store().unwrap().claim(stage.incarnation, &somebody(), clock::unix_ns());
        assert!(late.is_err(), "who comes later finds it over");
    }
}
