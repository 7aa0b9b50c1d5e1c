//! A process that does not die: one in a frozen control group of version 1, where SIGKILL waits for the thaw.
//!
//! A frozen group of version 2 lets SIGKILL through, so it is of no use here.

use crate::deadline::until;
use crate::process::Process;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const FREEZER: &str = "/sys/fs/cgroup/freezer";
const SOON: Duration = Duration::from_secs(10);

/// Whether this host can freeze a process so that it does not die.
pub fn is_there() -> bool {
    Path::new(FREEZER).join("cgroup.procs").exists()
}

/// A frozen process. Dropping it thaws it, so that a test that fails leaves nothing that cannot be killed.
#[derive(Debug)]
pub struct Frozen {
    directory: PathBuf,
}

impl Frozen {
    /// Freezes it, and waits until it is.
    #[track_caller]
    pub fn freeze(process: &Process) -> Self {
        let directory = Path::new(FREEZER).join("oe-frozen");
        fs::create_dir(&directory).expect("a freezer can be made");
        let frozen = Self { directory };
        fs::write(frozen.directory.join("cgroup.procs"), process.pid().to_string())
            .expect("a process can be put into it");
        frozen.set("FROZEN");
        let state = || fs::read_to_string(frozen.directory.join("freezer.state")).unwrap_or_default();
        until("it is frozen", SOON, || (state().trim() == "FROZEN").then_some(()));
        frozen
    }

    /// Lets it go on; what was sent to it meanwhile arrives now.
    pub fn thaw(self) {}

    fn set(&self, state: &str) {
        fs::write(self.directory.join("freezer.state"), state).expect("a freezer takes its state");
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.set("THAWED");
        // Who lives on goes back to where everybody is; who does not is on its way out.
        let members = fs::read_to_string(self.directory.join("cgroup.procs")).unwrap_or_default();
        for pid in members.lines() {
            let _ = fs::write(Path::new(FREEZER).join("cgroup.procs"), pid);
        }
        let removed = || fs::remove_dir(&self.directory).ok();
        if crate::deadline::within(SOON, removed).is_none() {
            eprintln!("{} cannot be removed", self.directory.display());
        }
    }
}
