//! What VMs that do nothing take of the host's memory, alone and beside others of the same template.

use super::Results;
use crate::memory::{self, Memory};
use crate::product::{Product, Sleeper};
use crate::statistics::Series;

/// How many run at once.
const COUNTS: [usize; 3] = [1, 4, 8];

/// Memory in MiB while `clones` VMs of one template run.
#[derive(Debug)]
pub(crate) struct Residence {
    /// How many.
    pub(crate) clones: usize,
    /// Proportional set size of the VMMs.
    pub(crate) vmm_pss: Series,
    /// Resident set size of the VMMs.
    pub(crate) vmm_rss: Series,
    /// What nobody shares with them.
    pub(crate) vmm_private: Series,
    /// Proportional set size of the runners.
    pub(crate) runner_pss: Series,
    /// Resident set size of the runners.
    pub(crate) runner_rss: Series,
}

pub(super) fn measure(product: &Product, results: &mut Results) -> anyhow::Result<()> {
    let mut sleepers: Vec<Sleeper> = Vec::new();
    for clones in COUNTS {
        eprintln!("memory of {clones} at once");
        while sleepers.len() < clones {
            sleepers.push(product.start_sleeper(&[])?);
        }
        results.residence.push(look(&sleepers)?);
    }
    sleepers.iter().try_for_each(|sleeper| product.kill(&sleeper.id))
}

fn look(sleepers: &[Sleeper]) -> anyhow::Result<Residence> {
    let of = |pid: fn(&Sleeper) -> u32| {
        sleepers
            .iter()
            .map(|sleeper| memory::of_process(pid(sleeper)))
            .collect::<anyhow::Result<Vec<Memory>>>()
    };
    let (vmms, runners) = (of(|sleeper| sleeper.vmm)?, of(|sleeper| sleeper.runner)?);
    Ok(Residence {
        clones: sleepers.len(),
        vmm_pss: vmms.iter().map(|memory| memory.pss).collect(),
        vmm_rss: vmms.iter().map(|memory| memory.rss).collect(),
        vmm_private: vmms.iter().map(|memory| memory.private).collect(),
        runner_pss: runners.iter().map(|memory| memory.pss).collect(),
        runner_rss: runners.iter().map(|memory| memory.rss).collect(),
    })
}
