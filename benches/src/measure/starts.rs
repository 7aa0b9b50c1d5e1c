//! How long it takes until a guest is there: floor, product and peer in turn.

use super::{EXAMPLES, Extent, Results};
use crate::floor::Floor;
use crate::libvirt;
use crate::product::{Product, Ran};
use crate::recipe::Recipe;
use crate::schedule::interleaved;
use crate::timeline::Timeline;
use anyhow::{Context as _, ensure};

/// Clones: the floor, `outlast run`, libvirt's restore.
pub(super) fn clones(
    product: &Product,
    extent: Extent,
    (clone, boot): (&Recipe, &Recipe),
    results: &mut Results,
) -> anyhow::Result<()> {
    let libvirt = peer(extent, boot, results);
    let kinds = if libvirt.is_some() { 3 } else { 2 };
    eprintln!("clones, {} × {kinds}", extent.runs);
    let mut floor = Floor::start(clone)?;
    floor.measure()?;
    for kind in interleaved(kinds, extent.runs) {
        match (kind, &libvirt) {
            (0, _) => {
                let marks = floor.measure()?;
                results.floor_clone.add(marks.answered);
                results.floor_clone_timeline.add_stretches(marks.stretches());
            }
            (2, Some(libvirt)) => results.libvirt.add(libvirt.restore()?),
            (_, _) => add_clone(product, results)?,
        }
    }
    Ok(())
}

/// The guest of a cold boot under libvirt, where there is one; why not is said once.
pub(super) fn peer(extent: Extent, boot: &Recipe, results: &mut Results) -> Option<libvirt::Saved> {
    let said = results.skipped.iter().any(|(what, _)| what == "libvirt");
    if said {
        return None;
    }
    if !extent.libvirt {
        results.skipped.push(("libvirt".to_owned(), "left out by --no-libvirt".to_owned()));
        return None;
    }
    let kvm = boot.option("-accel").is_some_and(|accelerator| accelerator.starts_with("kvm"));
    match libvirt::Saved::make(boot, kvm) {
        Ok(saved) => {
            results.libvirt_versions = Some(saved.versions.clone());
            if !results.command_lines.iter().any(|(what, _)| what == "libvirt") {
                results.command_lines.push(("libvirt".to_owned(), saved.definition.clone()));
            }
            Some(saved)
        }
        Err(error) => {
            eprintln!("skipped: libvirt: {error:#}");
            results.skipped.push(("libvirt".to_owned(), format!("{error:#}")));
            None
        }
    }
}

fn add_clone(product: &Product, results: &mut Results) -> anyhow::Result<()> {
    let ran = product.run(&[], EXAMPLES.python)?;
    let (ready, exec) = started_as(&ran, "clone")?;
    results.clone_ready.add(ready);
    results.clone_exec.add(exec);
    results.clone_wall.add(ran.wall_ms);
    results.clone_rest.add(ran.wall_ms - ready - exec);
    let journal = product.journal(&ran.view.id)?;
    let certified = Timeline::certified(ran.began_unix_ns, &journal);
    results.clone_certified.add(certified.context("the journal says when the guest was certified")?);
    results.clone_timeline.add(ran.began_unix_ns, &journal);
    Ok(())
}

/// Cold boots: the floor and `outlast run --cold`.
pub(super) fn boots(
    product: &Product,
    extent: Extent,
    boot: &Recipe,
    results: &mut Results,
) -> anyhow::Result<()> {
    eprintln!("cold boots, {} × 2", extent.runs);
    let mut floor = Floor::start(boot)?;
    floor.measure()?;
    for kind in interleaved(2, extent.runs) {
        if kind == 0 {
            let marks = floor.measure()?;
            results.floor_boot.add(marks.answered);
            results.floor_boot_timeline.add_stretches(marks.stretches());
        } else {
            let ran = product.run(&["--cold"], EXAMPLES.python)?;
            results.boot_ready.add(started_as(&ran, "boot")?.0);
            results.boot_wall.add(ran.wall_ms);
            results.boot_timeline.add(ran.began_unix_ns, &product.journal(&ran.view.id)?);
        }
    }
    Ok(())
}

/// Ready and exec of a run that started the way it was meant to; a silent fall back would spoil the numbers.
fn started_as(ran: &Ran, wanted: &str) -> anyhow::Result<(f64, f64)> {
    let how = ran.view.started_from.as_deref();
    ensure!(how == Some(wanted), "{} started from {how:?}: {:?}", ran.view.id, ran.view.fell_back);
    let timings = &ran.view.timings_ms;
    timings.ready.zip(timings.exec).context("a completed run says how long it took")
}

/// Node and Go from clones. Python's hello is measured with the clones.
pub(super) fn hellos(product: &Product, extent: Extent, results: &mut Results) -> anyhow::Result<()> {
    eprintln!("node and go, {} × 2", extent.runs);
    for kind in interleaved(2, extent.runs) {
        let ran = product.run(&[], EXAMPLES.others[kind])?;
        let series = if kind == 0 { &mut results.node_wall } else { &mut results.go_wall };
        started_as(&ran, "clone")?;
        series.add(ran.wall_ms);
    }
    Ok(())
}
