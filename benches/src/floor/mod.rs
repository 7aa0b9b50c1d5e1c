//! The floor: the product's own QEMU command line, driven by nothing but what it takes to get an answer.
//!
//! ```text
//!   bench ──"go"──► floor process (once: mount namespace, stage, chroot)
//!                     └─ each time: sockets → QEMU → monitor → restore or boot → hello → answer → kill
//!         ◄─ marks ─
//! ```
//!
//! No store, no journal, no runner, no launcher, no cgroup, no PID namespace, no certification: what is above the
//! floor is the price of those. The stage is built once, so the floor does not pay for a jail either.

pub(crate) mod agent;
mod drive;
mod monitor;
mod stage;

use crate::recipe::Recipe;
use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The subcommand of this program that is the floor process.
pub(crate) const SUBCOMMAND: &str = "floor";

/// When things happened, in milliseconds since the beginning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Marks {
    /// The monitor greeted.
    pub(crate) monitor: f64,
    /// The vCPUs run.
    pub(crate) started: f64,
    /// The agent answered: this is the floor.
    pub(crate) answered: f64,
    /// After that the same guest is asked what certification asks, to see what that alone costs. Each request
    /// with its duration in milliseconds.
    pub(crate) certification: Vec<(String, f64)>,
}

/// The stretch from the start of QEMU until its monitor greets.
pub(crate) const QEMU_STARTS: &str = "QEMU starts, its monitor greets";

impl Marks {
    /// What lies between them, and the requests of certification.
    pub(crate) fn stretches(self) -> impl Iterator<Item = (String, f64)> {
        let between = [
            (QEMU_STARTS, self.monitor),
            ("the guest is loaded and runs", self.started - self.monitor),
            ("the agent answers", self.answered - self.started),
        ];
        let named = between.into_iter().map(|(name, ms)| (name.to_owned(), ms));
        let asked = self.certification.into_iter();
        named.chain(asked.map(|(name, ms)| (format!("not counted as floor: {name}"), ms)))
    }
}

/// A floor process that waits to be told.
#[derive(Debug)]
pub(crate) struct Floor {
    child: Child,
    say: ChildStdin,
    hear: BufReader<ChildStdout>,
}

impl Floor {
    /// Starts it.
    pub(crate) fn start(recipe: &Recipe) -> anyhow::Result<Self> {
        recipe.check()?;
        let mut command = Command::new(std::env::current_exe().context("find this program")?);
        command.arg(SUBCOMMAND).arg(serde_json::to_string(recipe)?);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start the floor")?;
        let say = child.stdin.take().context("standard input was asked for")?;
        let hear = BufReader::new(child.stdout.take().context("standard output was asked for")?);
        Ok(Self { child, say, hear })
    }

    /// One VM, from nothing to an answer.
    pub(crate) fn measure(&mut self) -> anyhow::Result<Marks> {
        self.say.write_all(b"go\n").context("tell the floor")?;
        let mut line = String::new();
        if self.hear.read_line(&mut line).context("hear the floor")? == 0 {
            bail!("the floor ended; its words are above");
        }
        serde_json::from_str(&line).context("understand the floor")
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // Its VMs are over whenever it waits, so nothing is left when it dies.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The floor process: a VM for every line of standard input, its marks as a line of standard output.
pub(crate) fn main(recipe: &str) -> anyhow::Result<()> {
    let recipe: Recipe = serde_json::from_str(recipe).context("understand the recipe")?;
    // Order matters: the state is opened while the host can be seen, and inherited by every VMM.
    let state = match recipe.state_address() {
        Some(_) => Some(fs::File::open(recipe.state()?).context("open the device state")?),
        None => None,
    };
    stage::Stage::make(&recipe)?.enter()?;
    for line in io::stdin().lines() {
        line.context("hear the bench")?;
        let marks = drive::once(&recipe, state.as_ref(), Path::new(stage::SOCKETS))?;
        writeln!(io::stdout(), "{}", serde_json::to_string(&marks)?)?;
    }
    Ok(())
}
