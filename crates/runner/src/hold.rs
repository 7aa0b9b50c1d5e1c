//! Fault points: a runner, or its launcher, stands still where it was told to, until it is released or killed.
//!
//! It makes the file `hold` in the evidence directory, which holds the fault point's name, and waits for that
//! file to be removed. A runner journals it, too, and its heart goes on beating. Nothing else is done: whatever
//! happens meanwhile happens exactly there.

use crate::journal::Journal;
use outlast_machine::sys;
use outlast_model::{Edge, Hold, LauncherStep, Place};
use outlast_wire::journal::JournalEntry;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::cell::Cell;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tokio::io::unix::AsyncFd;

/// The one fault point an incarnation may have.
#[derive(Debug)]
pub(crate) struct FaultPoint {
    /// Taken when it is passed: a boot that begins again does not stand still again.
    hold: Cell<Option<Hold>>,
    marker: PathBuf,
}

impl FaultPoint {
    /// Stands still at `hold`, if any; `marker` is the file that says so.
    pub(crate) fn new(hold: Option<Hold>, marker: PathBuf) -> Self {
        Self { hold: Cell::new(hold), marker }
    }

    /// Returns at once, unless this is where to stand still.
    pub(crate) async fn pass(&self, place: Place, edge: Edge, journal: &mut Journal) -> io::Result<()> {
        let here = Hold { place, edge };
        if !self.take(here) {
            return Ok(());
        }
        // Order matters: the watch must exist before the marker does, or its removal could be missed.
        let watch = watch(&self.marker)?;
        journal.note(JournalEntry::Held { hold: here.to_string() });
        mark(&self.marker, here)?;
        removed(&self.marker, sys::watch_readable(watch)?).await?;
        journal.note(JournalEntry::Released { hold: here.to_string() });
        Ok(())
    }

    /// Nobody stands still here any more, for the end is wanted.
    pub(crate) fn leave(&self) {
        match std::fs::remove_file(&self.marker) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %self.marker.display(), "the mark of a fault point stays");
            }
            Ok(()) | Err(_) => {}
        }
    }

    fn take(&self, here: Hold) -> bool {
        let is_here = self.hold.get() == Some(here);
        if is_here {
            self.hold.set(None);
        }
        is_here
    }

    /// The same for a launcher, which has no event loop and no journal: blocks the thread.
    pub(crate) fn pass_blocking(&self, step: LauncherStep, edge: Edge) -> io::Result<()> {
        let here = Hold { place: Place::Launcher(step), edge };
        if !self.take(here) {
            return Ok(());
        }
        let watch = watch(&self.marker)?;
        mark(&self.marker, here)?;
        while self.marker.try_exists()? {
            let mut wanted = [PollFd::new(&watch, PollFlags::IN)];
            poll(&mut wanted, None)?;
            drain(&watch)?;
        }
        Ok(())
    }
}

fn mark(marker: &Path, here: Hold) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(marker)?;
    file.write_all(here.to_string().as_bytes())
}

/// Sees when something is removed from a file's directory.
fn watch(path: &Path) -> io::Result<OwnedFd> {
    let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let flags = WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::DELETE_SELF;
    inotify::add_watch(&events, path.parent().unwrap_or(path), flags)?;
    Ok(events)
}

async fn removed(path: &Path, events: AsyncFd<OwnedFd>) -> io::Result<()> {
    while path.try_exists()? {
        let mut ready = events.readable().await?;
        drain(events.get_ref())?;
        ready.clear_ready();
    }
    Ok(())
}

/// Reads what there is. What it says does not matter: the file is looked for afterwards.
fn drain(events: &OwnedFd) -> io::Result<()> {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(events, &mut buffer);
    loop {
        match reader.next() {
            Ok(_) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlast_model::BootStep;
    use outlast_wire::journal::Journal as Lines;

    #[tokio::test]
    async fn a_held_runner_stands_still_until_the_marker_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let marker = directory.path().join("hold");
        let path = directory.path().join("journal.jsonl");
        let mut journal = Journal::open(&path).unwrap();
        let hold = Hold { place: BootStep::Disks.into(), edge: Edge::After };
        let point = FaultPoint::new(Some(hold), marker.clone());
        point.pass(BootStep::Disks.into(), Edge::Before, &mut journal).await.unwrap();
        assert!(!marker.exists());
        let release = async {
            while !marker.exists() {
                tokio::task::yield_now().await;
            }
            std::fs::remove_file(&marker).unwrap();
        };
        let (passed, ()) =
            tokio::join!(point.pass(BootStep::Disks.into(), Edge::After, &mut journal), release);
        passed.unwrap();
        point.pass(BootStep::Disks.into(), Edge::After, &mut journal).await.unwrap();
        let lines = Lines::parse(&std::fs::read(&path).unwrap()).lines;
        let entries: Vec<_> = lines.into_iter().map(|line| line.entry).collect();
        let text = hold.to_string();
        assert_eq!(
            entries,
            [JournalEntry::Held { hold: text.clone() }, JournalEntry::Released { hold: text }]
        );
    }

    #[test]
    fn a_held_launcher_stands_still_until_the_marker_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let marker = directory.path().join("hold");
        let here = Hold { place: LauncherStep::Runner.into(), edge: Edge::After };
        let point = FaultPoint::new(Some(here), marker.clone());
        point.pass_blocking(LauncherStep::Runner, Edge::Before).unwrap();
        let held = std::thread::spawn(move || point.pass_blocking(LauncherStep::Runner, Edge::After));
        while std::fs::read_to_string(&marker).unwrap_or_default() != here.to_string() {
            std::thread::yield_now();
        }
        assert!(!held.is_finished());
        std::fs::remove_file(&marker).unwrap();
        held.join().unwrap().unwrap();
    }
}
