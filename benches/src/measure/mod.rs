//! The measurements, each group in a file of its own, and what they come to.

mod deaths;
mod growth;
mod residence;
mod starts;
mod throughput;
mod vms;

pub(crate) use growth::Growth;
pub(crate) use residence::Residence;
pub(crate) use throughput::Throughput;
pub(crate) use vms::Vms;

use crate::product::Product;
use crate::recipe::Recipe;
use crate::statistics::Series;
use crate::timeline::Timeline;
use anyhow::ensure;
use std::path::Path;

/// Everything that was measured. Milliseconds where nothing else is said.
#[derive(Debug, Default)]
pub(crate) struct Results {
    /// Bare QEMU, restoring: start of QEMU → agent answers.
    pub(crate) floor_clone: Series,
    /// Bare QEMU, booting: start of QEMU → agent answers.
    pub(crate) floor_boot: Series,
    /// Where the floor's time goes, and what certification would add to it: restoring.
    pub(crate) floor_clone_timeline: Timeline,
    /// The same, booting.
    pub(crate) floor_boot_timeline: Timeline,
    /// libvirt, restoring: command → agent answers.
    pub(crate) libvirt: Series,
    /// `outlast run` by clone: request accepted → certified.
    pub(crate) clone_ready: Series,
    /// The same from the start of the command's process.
    pub(crate) clone_certified: Series,
    /// `outlast run` of Python's hello by clone: the whole process.
    pub(crate) clone_wall: Series,
    /// The program in the guest, as the host saw it.
    pub(crate) clone_exec: Series,
    /// The whole process without getting ready and without the program.
    pub(crate) clone_rest: Series,
    /// `outlast run --cold`: request accepted → certified.
    pub(crate) boot_ready: Series,
    /// `outlast run --cold`: the whole process.
    pub(crate) boot_wall: Series,
    /// Node's hello by clone: the whole process.
    pub(crate) node_wall: Series,
    /// Go's hello by clone: the whole process.
    pub(crate) go_wall: Series,
    /// VMM killed → the command that waited for it has returned.
    pub(crate) vmm_death: Series,
    /// Runner killed → VMM gone.
    pub(crate) runner_death: Series,
    /// What VMs take, by how many run at once.
    pub(crate) residence: Vec<Residence>,
    /// Workloads per second, by how many run at once.
    pub(crate) throughput: Vec<Throughput>,
    /// What finished workloads in the store cost, by how many there are.
    pub(crate) growth: Vec<Growth>,
    /// Long-lived VMs.
    pub(crate) vms: Vms,
    /// Where a clone's time goes.
    pub(crate) clone_timeline: Timeline,
    /// Where a cold boot's time goes.
    pub(crate) boot_timeline: Timeline,
    /// The command lines of the VMM, and definitions, by what they are for.
    pub(crate) command_lines: Vec<(String, String)>,
    /// What libvirt says it is.
    pub(crate) libvirt_versions: Option<String>,
    /// What was not measured, and why.
    pub(crate) skipped: Vec<(String, String)>,
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    /// Measurements of each thing.
    pub(crate) runs: usize,
    /// Whether libvirt is compared with.
    pub(crate) libvirt: bool,
    /// Whether the long runs of the throughput are made.
    pub(crate) bursts: bool,
    /// One group alone; otherwise all.
    pub(crate) only: Option<Group>,
}

/// Things that are measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Group {
    /// Floor, clone and libvirt, restoring.
    Clones,
    /// Floor and product, booting.
    Boots,
    /// Hello in the other languages.
    Hellos,
    /// What VMs take.
    Memory,
    /// How fast deaths are noticed.
    Deaths,
    /// Workloads a second.
    Throughput,
    /// What many finished workloads cost.
    Growth,
    /// Long-lived VMs.
    Vms,
}

/// The files that are run, by what they are written in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Examples {
    pub(crate) python: &'static str,
    /// Node and Go.
    pub(crate) others: [&'static str; 2],
}

/// Relative to the repository, where `./bench` starts this.
pub(crate) const EXAMPLES: Examples =
    Examples { python: "examples/hello.py", others: ["examples/hello.js", "examples/hello.go"] };

/// Measures everything. A measurement that fails ends it: a table with holes would be read as one without.
pub(crate) fn everything(
    product: &Product,
    filler: Option<&Path>,
    extent: Extent,
) -> anyhow::Result<Results> {
    let mut results = Results::default();
    warm_up(product, extent)?;
    let clone = recipe(product, &[])?;
    let boot = recipe(product, &["--cold"])?;
    results.command_lines.push(("clone".to_owned(), clone.text()));
    results.command_lines.push(("cold boot".to_owned(), boot.text()));
    let wanted = |group| extent.only.is_none_or(|only| only == group);
    if wanted(Group::Clones) {
        starts::clones(product, extent, (&clone, &boot), &mut results)?;
    }
    if wanted(Group::Boots) {
        starts::boots(product, extent, &boot, &mut results)?;
    }
    if wanted(Group::Hellos) {
        starts::hellos(product, extent, &mut results)?;
    }
    if wanted(Group::Memory) {
        residence::measure(product, &mut results)?;
    }
    if wanted(Group::Deaths) {
        deaths::measure(product, extent, &mut results)?;
    }
    if wanted(Group::Throughput) {
        throughput::measure(product, extent, &mut results)?;
    }
    if wanted(Group::Growth) {
        growth::measure(product, filler, extent, &mut results)?;
    }
    if wanted(Group::Vms) {
        let libvirt = starts::peer(extent, &boot, &mut results);
        vms::measure(product, filler, libvirt.as_ref(), extent, &mut results)?;
    }
    let litter = product.litter()?;
    ensure!(litter.is_empty(), "the measurements left things behind: {}", litter.join(", "));
    Ok(results)
}

/// Makes the templates and fills the page cache: both are paid once, not by every run.
fn warm_up(product: &Product, extent: Extent) -> anyhow::Result<()> {
    eprintln!("templates and page cache");
    let others =
        if extent.only.is_none_or(|only| only == Group::Hellos) { &EXAMPLES.others[..] } else { &[] };
    for file in [EXAMPLES.python].iter().chain(others) {
        for _ in 0..2 {
            product.run(&[], file)?;
        }
    }
    product.run(&["--cold"], EXAMPLES.python).map(drop)
}

/// How the product starts a VMM with these options.
fn recipe(product: &Product, options: &[&str]) -> anyhow::Result<Recipe> {
    let sleeper = product.start_sleeper(options)?;
    let recipe = Recipe::of_process(sleeper.vmm, &product.library());
    product.kill(&sleeper.id)?;
    recipe
}
