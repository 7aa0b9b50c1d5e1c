//! `outlast image`.

use super::{DONE, Form};
use crate::args::BuildArgs;
use crate::failure::Failure;
use crate::output::progress::Build;
use crate::output::{human, json, note, table};
use outlast_control::Site;
use outlast_control::image::{self, Built, KERNEL, Mirror, VMM};
use outlast_wire::exit_code::{FailureKind, other};
use outlast_wire::view::{ImageView, RemovedView};
use std::ffi::OsString;

/// An ordinary user's build is the same command once more, in a namespace: what is to be built is settled before.
pub(super) fn build(site: &Site, args: &BuildArgs, mirror: &Mirror, form: Form) -> Result<u8, Failure> {
    image::check_names(&args.names)?;
    let mut wanted = args.names.clone();
    let alone = |name: &String| name == VMM || name == KERNEL;
    if !args.in_namespace
        && !wanted.iter().all(alone)
        && !wanted.iter().any(|name| name == VMM)
        && !image::has_vmm(site)
    {
        note("QEMU is not in the library yet: building vmm first");
        wanted.insert(0, VMM.to_owned());
    }
    if image::builds_in_namespace() {
        let words = ["image", "build", "--in-namespace"].map(str::to_owned);
        let json = (form == Form::Json).then(|| "--json".to_owned());
        let arguments: Vec<_> = words.into_iter().chain(json).chain(wanted).map(OsString::from).collect();
        return Err(image::begin_in_namespace(site, &arguments).into());
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
    let all = names.is_empty();
    let names = if all { image::list(site)?.into_iter().map(|view| view.name).collect() } else { names };
    if names.is_empty() {
        let failure = Failure::new(FailureKind::NotFound, "there are no images to verify");
        return Err(failure.hint("outlast image build python"));
    }
    let mut verified = Vec::new();
    for name in names {
        let mut progress = Build::of(&name);
        let report = &mut |phase, done, total, detail: &str| progress.show(phase, done, total, detail);
        let result = image::verify(site, &name, report);
        drop(progress);
        verified.push(match result {
            Ok(view) => view,
            // One that is damaged does not keep the others from being looked at.
            Err(error) => image::as_damaged(&name, &error).ok_or(error)?,
        });
        told(verified.last());
    }
    if all {
        let mut progress = Build::of("boot files and templates");
        let report = &mut |phase, done, total, detail: &str| progress.show(phase, done, total, detail);
        let rest = image::verify_rest(site, report)?;
        drop(progress);
        for view in &rest {
            told(Some(view));
        }
        verified.extend(rest);
    }
    if form == Form::Json {
        json(&verified)?;
    }
    let damaged = verified.iter().any(|view| view.damage.is_some());
    Ok(if damaged { other::FAILED } else { DONE })
}

fn told(view: Option<&ImageView>) {
    let Some(view) = view else { return };
    match (&view.damage, &view.stale) {
        (Some(damage), _) => note(&format!("{}: damaged: {damage}", view.name)),
        (None, Some(stale)) => note(&format!(
            "{0}: whole, and stale: {stale}; renew it with: outlast image build {0}",
            view.name
        )),
        (None, None) => note(&format!("{}: every byte is as its manifest says", view.name)),
    }
}
