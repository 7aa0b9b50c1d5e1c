//! Fault points: the runner stands still where it was told to, until it is released or killed.
//!
//! It journals where it stands, makes the file `hold` in its evidence directory, and waits for that file to
//! be removed. Its heart goes on beating. It does nothing else: whatever happens to it meanwhile happens
//! exactly there.

use crate::journal::Journal;
use outlast_machine::sys;
use outlast_model::{BootStep, Edge, Hold};
use outlast_wire::journal::JournalEntry;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tokio::io::unix::AsyncFd;

/// The one fault point an incarnation may have.
#[derive(Debug)]
pub(crate) struct FaultPoint {
    hold: Option<Hold>,
    marker: PathBuf,
}

impl FaultPoint {
    /// Stands still at `hold`, if any; `marker` is the file that says so.
    pub(crate) fn new(hold: Option<Hold>, marker: PathBuf) -> Self {
        Self { hold, marker }
    }

    /// Returns at once, unless this is where to stand still.
    pub(crate) async fn pass(&self, step: BootStep, edge: Edge, journal: &mut Journal) -> io::Result<()> {
        let here = Hold { step, edge };
        if self.hold != Some(here) {
            return Ok(());
        }
        // Order matters: the watch must exist before the marker does, or its removal could be missed.
        let watch = Watch::on(&self.marker, || create(&self.marker))?;
        journal.note(JournalEntry::Held { hold: here.to_string() });
        watch.removed().await?;
        journal.note(JournalEntry::Released { hold: here.to_string() });
        Ok(())
    }
}

fn create(marker: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(marker)
}

/// Waits for a file's removal.
struct Watch {
    events: AsyncFd<OwnedFd>,
    path: PathBuf,
}

impl Watch {
    fn on(path: &Path, create: impl FnOnce() -> io::Result<File>) -> io::Result<Self> {
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let parent = path.parent().unwrap_or(path);
        inotify::add_watch(
            &events,
            parent,
            WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::DELETE_SELF,
        )?;
        create()?;
        Ok(Self { events: sys::watch_readable(events)?, path: path.to_path_buf() })
    }

    async fn removed(&self) -> io::Result<()> {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        while self.path.try_exists()? {
            let mut ready = self.events.readable().await?;
            match inotify::Reader::new(self.events.get_ref(), &mut buffer).next() {
                Ok(_) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlast_wire::journal::Journal as Lines;

    #[tokio::test]
    async fn a_held_runner_stands_still_until_the_marker_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let marker = directory.path().join("hold");
        let path = directory.path().join("journal.jsonl");
        let mut journal = Journal::open(&path).unwrap();
        let hold = Hold { step: BootStep::Disks, edge: Edge::After };
        let point = FaultPoint::new(Some(hold), marker.clone());
        point.pass(BootStep::Disks, Edge::Before, &mut journal).await.unwrap();
        assert!(!marker.exists());
        let release = async {
            while !marker.exists() {
                tokio::task::yield_now().await;
            }
            std::fs::remove_file(&marker).unwrap();
        };
        let (passed, ()) = tokio::join!(point.pass(BootStep::Disks, Edge::After, &mut journal), release);
        passed.unwrap();
        let lines = Lines::parse(&std::fs::read(&path).unwrap()).lines;
        let entries: Vec<_> = lines.into_iter().map(|line| line.entry).collect();
        let text = hold.to_string();
        assert_eq!(
            entries,
            [JournalEntry::Held { hold: text.clone() }, JournalEntry::Released { hold: text }]
        );
    }
}
