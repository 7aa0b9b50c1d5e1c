//! `outlast image`.

use super::{DONE, Form};
use crate::failure::Failure;
use crate::output::progress::Build;
use crate::output::{human, json, note, table};
use outlast_control::Site;
use outlast_control::image::{self, Built, KERNEL, Mirror, VMM};
use outlast_wire::exit_code::FailureKind;
use outlast_wire::view::{ImageView, RemovedView};

pub(super) fn build(site: &Site, names: &[String], mirror: &Mirror, form: Form) -> Result<u8, Failure> {
    image::check_names(names)?;
    let mut wanted = names.to_vec();
    let alone = |name: &String| name == VMM || name == KERNEL;
    if !wanted.iter().all(alone) && !wanted.iter().any(|name| name == VMM) && !image::has_vmm(site) {
        note("QEMU is not in the library yet: building vmm first");
        wanted.insert(0, VMM.to_owned());
    }
    let mut built = Vec::new();
    for name in wanted {
        let mut progress = Build::of(&name);
        let report = &mut |phase, done, total, detail: &str| progress.show(phase, done, total, detail);
        let Built { view, already } = image::build(site, &name, mirror, report)?;
        drop(progress);
        let what = if already { "already built" } else { "built" };
        note(&format!("{name}: {what}, {}", human::bytes(view.bytes)));
        built.push(view);
    }
    if form == Form::Json {
        json(&built)?;
    }
    Ok(DONE)
}

pub(super) fn ls(site: &Site, form: Form) -> Result<u8, Failure> {
    let images = image::list(site)?;
    if form == Form::Json {
        json(&images)?;
        return Ok(DONE);
    }
    let empty = "no images (build one with: outlast image build python)";
    table(
        &["NAME", "STATE", "DIGEST", "RUNTIME", "VERSION", "SIZE", "LEAST MEMORY", "BUILT"],
        images.iter().map(row).collect(),
        empty,
    )?;
    Ok(DONE)
}

fn row(view: &ImageView) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let short = |digest: &String| digest.get(..12).unwrap_or(digest).to_owned();
    vec![
        view.name.clone(),
        view.damage.as_ref().map_or_else(|| view.state.clone(), |damage| format!("damaged: {damage}")),
        or_dash(view.digest.as_ref().map(short)),
        or_dash(view.runtime.clone()),
        or_dash(view.version.clone()),
        human::bytes(view.bytes),
        or_dash(view.min_limit.map(human::bytes)),
        or_dash(view.created.map(|seconds| human::utc(seconds.saturating_mul(1_000_000_000)))),
    ]
}

pub(super) fn rm(site: &Site, names: &[String], form: Form) -> Result<u8, Failure> {
    for name in names {
        image::remove(site, name)?;
        match form {
            Form::Text => note(&format!("{name}: removed")),
            Form::Json => json(&RemovedView { removed: name.clone() })?,
        }
    }
    Ok(DONE)
}

pub(super) fn verify(site: &Site, names: Vec<String>, form: Form) -> Result<u8, Failure> {
    let names =
        if names.is_empty() { image::list(site)?.into_iter().map(|view| view.name).collect() } else { names };
    if names.is_empty() {
        let failure = Failure::new(FailureKind::NotFound, "there are no images to verify");
        return Err(failure.hint("outlast image build python"));
    }
    let mut verified = Vec::new();
    for name in names {
        let mut progress = Build::of(&name);
        let report = &mut |phase, done, total, detail: &str| progress.show(phase, done, total, detail);
        let view = image::verify(site, &name, report)?;
        drop(progress);
        note(&format!("{name}: every byte is as its manifest says"));
        verified.push(view);
    }
    if form == Form::Json {
        json(&verified)?;
    }
    Ok(DONE)
}
