//! Measures outlast against the floor (bare QEMU driven by nothing) and against libvirt, and writes the tables.
//!
//! A black box like everybody outside: it starts the `outlast` command, reads what that prints with `--json`,
//! the journals it leaves and what Linux shows of its processes. It never asserts speed; it reports ratios of
//! one run on one machine, and says which promises they keep. Started by `./bench`.

mod clock;
mod floor;
mod host;
mod libvirt;
mod markdown;
mod measure;
mod memory;
mod mountinfo;
mod product;
mod recipe;
mod report;
mod schedule;
mod statistics;
mod target;
mod timeline;

use anyhow::Context as _;
use clap::Parser;
use measure::{EXAMPLES, Extent, Group};
use product::Product;
use std::fs;
use std::path::{Path, PathBuf};

/// Measures outlast against bare QEMU and libvirt.
#[derive(Debug, Parser)]
struct Arguments {
    /// The program to measure; its runner and agent lie beside it.
    #[arg(long, value_name = "FILE")]
    outlast: PathBuf,
    /// The library with the images.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/outlast/library")]
    library: PathBuf,
    /// Measurements of each thing.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Measure one group alone, and print what comes of it instead of writing it.
    #[arg(long, value_name = "GROUP")]
    only: Option<Group>,
    /// The program that fills a store, for the measurements with many finished workloads. They are left out
    /// without it.
    #[arg(long, value_name = "FILE")]
    filler: Option<PathBuf>,
    /// Leave out the long runs of 200 workloads.
    #[arg(long)]
    no_bursts: bool,
    /// Leave libvirt out even when it is there.
    #[arg(long)]
    no_libvirt: bool,
    /// The directory that holds performance.md, into which the tables are written, and gets performance.json.
    /// Without it the tables are printed.
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(floor::SUBCOMMAND) {
        return floor::main(&words.next().context("the floor needs a recipe")?);
    }
    measure(&Arguments::parse())
}

fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    let product = Product::new(&arguments.outlast, &arguments.library)?;
    let vmm = recipe::vmm_version(&product.library())?;
    let accelerator = product.run(&[], EXAMPLES.python)?.view.accelerator;
    let facts = host::Facts::gather(product.version()?, vmm, accelerator);
    let extent = Extent {
        runs: usize::from(arguments.runs),
        libvirt: !arguments.no_libvirt,
        bursts: !arguments.no_bursts,
        only: arguments.only,
    };
    let results = measure::everything(&product, arguments.filler.as_deref(), extent)?;
    let generated = report::markdown(&facts, &results);
    let Some(directory) = arguments.write.as_ref().filter(|_| arguments.only.is_none()) else {
        use std::io::Write as _;
        return writeln!(std::io::stdout(), "{generated}").context("print the tables");
    };
    write(directory, &generated, &report::json(&facts, &results))
}

fn write(directory: &Path, generated: &str, json: &serde_json::Value) -> anyhow::Result<()> {
    let document = directory.join("performance.md");
    let text = fs::read_to_string(&document).with_context(|| format!("read {}", document.display()))?;
    fs::write(&document, markdown::replaced(&text, generated)?)?;
    let values = directory.join("performance.json");
    fs::write(&values, format!("{}\n", serde_json::to_string_pretty(json)?))?;
    eprintln!("written: {} and {}", document.display(), values.display());
    Ok(())
}
