//! What finished workloads in a store cost those that come after them.
//!
//! Two homes side by side, one with few and one with many, measured in turn: a machine that grows slower is not
//! held against the fuller one.

use super::{EXAMPLES, Extent, Results};
use crate::product::Product;
use crate::schedule::interleaved;
use crate::statistics::Series;
use anyhow::{Context as _, ensure};
use std::path::Path;
use std::process::{Command, Stdio};

/// How many are finished in each home.
const FINISHED: [u64; 2] = [1_000, 100_000];

/// What things take with so many finished workloads in the store, in milliseconds.
#[derive(Debug)]
pub(crate) struct Growth {
    /// How many.
    pub(crate) finished: u64,
    /// Python's hello by clone, the whole process.
    pub(crate) run: Series,
    /// The same, request accepted → certified.
    pub(crate) ready: Series,
    /// `outlast ps`, the whole process.
    pub(crate) list: Series,
    /// `outlast show` of the newest, the whole process.
    pub(crate) show: Series,
}

pub(super) fn measure(
    product: &Product,
    filler: Option<&Path>,
    extent: Extent,
    results: &mut Results,
) -> anyhow::Result<()> {
    let Some(filler) = filler else {
        let reason = "no --filler was given".to_owned();
        results.skipped.push(("many finished workloads".to_owned(), reason));
        return Ok(());
    };
    let mut homes = Vec::new();
    for finished in FINISHED {
        eprintln!("a store with {finished} finished workloads");
        let home = product.beside(&finished.to_string())?;
        fill(filler, &home, finished)?;
        // The first command in a home makes things that the others find.
        home.run(&[], EXAMPLES.python)?;
        homes.push((home, Growth::of(finished)));
    }
    for index in interleaved(homes.len(), extent.runs) {
        let (home, growth) = &mut homes[index];
        growth.look(home)?;
    }
    results.growth = homes.into_iter().map(|(_, growth)| growth).collect();
    Ok(())
}

fn fill(filler: &Path, home: &Product, finished: u64) -> anyhow::Result<()> {
    let mut command = Command::new(filler);
    command.arg(home.database()).arg(finished.to_string()).stdin(Stdio::null());
    let status = command.status().with_context(|| format!("start {}", filler.display()))?;
    ensure!(status.success(), "{} ended with {status}", filler.display());
    Ok(())
}

impl Growth {
    fn of(finished: u64) -> Self {
        let none = Series::default;
        Self { finished, run: none(), ready: none(), list: none(), show: none() }
    }

    fn look(&mut self, home: &Product) -> anyhow::Result<()> {
        let ran = home.run(&[], EXAMPLES.python)?;
        self.run.add(ran.wall_ms);
        self.ready.add(ran.view.timings_ms.ready.context("a completed run says when it was ready")?);
        self.list.add(home.time(&["ps", "--json"])?);
        self.show.add(home.time(&["show", "--json", &ran.view.id])?);
        Ok(())
    }
}
