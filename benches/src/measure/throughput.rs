//! How many workloads a second, with some at once.

use super::{EXAMPLES, Extent, Results};
use crate::product::Product;
use crate::statistics::Series;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

/// How many run at once.
const LEVELS: [usize; 4] = [1, 2, 4, 8];

/// The long runs: so many workloads, so many at once.
const BURSTS: [(usize, usize); 2] = [(200, 1), (200, 8)];

/// What came of running some at once.
#[derive(Debug)]
pub(crate) struct Throughput {
    /// How many at once.
    pub(crate) parallel: usize,
    /// How many in all.
    pub(crate) workloads: usize,
    /// Completed workloads a second.
    pub(crate) per_second: f64,
    /// The whole process of each, in milliseconds.
    pub(crate) wall: Series,
}

pub(super) fn measure(product: &Product, extent: Extent, results: &mut Results) -> anyhow::Result<()> {
    for parallel in LEVELS {
        eprintln!("{} workloads, {parallel} at once", extent.runs.max(2 * parallel));
        results.throughput.push(level(product, extent.runs.max(2 * parallel), parallel)?);
    }
    for (workloads, parallel) in BURSTS.into_iter().filter(|_| extent.bursts) {
        eprintln!("{workloads} workloads, {parallel} at once");
        results.throughput.push(level(product, workloads, parallel)?);
    }
    Ok(())
}

fn level(product: &Product, workloads: usize, parallel: usize) -> anyhow::Result<Throughput> {
    let next = AtomicUsize::new(0);
    let work = || -> anyhow::Result<Vec<f64>> {
        let mut walls = Vec::new();
        while next.fetch_add(1, Ordering::Relaxed) < workloads {
            walls.push(product.run(&[], EXAMPLES.python)?.wall_ms);
        }
        Ok(walls)
    };
    let began = Instant::now();
    let walls = thread::scope(|scope| {
        let threads: Vec<_> = (0..parallel).map(|_| scope.spawn(work)).collect();
        let joined =
            threads.into_iter().map(|thread| thread.join().expect("a measuring thread does not panic"));
        joined.collect::<anyhow::Result<Vec<_>>>()
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let wall = walls.into_iter().flatten().collect();
    #[expect(clippy::cast_precision_loss, reason = "a few hundred workloads")]
    let per_second = workloads as f64 / seconds;
    Ok(Throughput { parallel, workloads, per_second, wall })
}
