//! `outlast prune`, `outlast image prune` and `outlast template prune`.

use super::{DONE, Form};
use crate::args::PruneArgs;
use crate::failure::Failure;
use crate::output::{human, json, note, table};
use outlast_control::{Pruning, Site};
use outlast_model::{Age, Memory};
use outlast_wire::exit_code::{FailureKind, other};
use outlast_wire::view::{PruneView, PrunedView};
use std::fmt::Display;
use std::str::FromStr;

/// What is pruned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// Templates.
    Templates,
    /// What collects in the library beside images and templates.
    Images,
    /// All of it, and evidence.
    Everything,
}

pub(super) fn prune(site: &Site, what: What, args: &PruneArgs, form: Form) -> Result<u8, Failure> {
    let pruning = Pruning {
        templates: what != What::Images,
        library: what != What::Templates,
        evidence: what == What::Everything,
        older_than: quantity::<Age>(args.age.older_than.as_deref(), "--older-than")?,
        keep_bytes: quantity::<Memory>(args.keep_size.as_deref(), "--keep-size")?.map(Memory::bytes),
        dry_run: args.age.dry_run,
    };
    let view = outlast_control::prune(site, pruning)?;
    if form == Form::Json {
        json(&view)?;
    } else {
        tell(&view)?;
    }
    // What is in use stays by design; what could not be removed although nobody uses it is a failure.
    let failed = view.found.iter().any(|found| found.error.is_some());
    Ok(if failed { other::FAILED } else { DONE })
}

fn quantity<T: FromStr<Err: Display>>(text: Option<&str>, option: &str) -> Result<Option<T>, Failure> {
    let Some(text) = text else { return Ok(None) };
    match text.parse() {
        Ok(value) => Ok(Some(value)),
        Err(error) => Err(Failure::new(FailureKind::BadInput, format!("{option}: {error}"))),
    }
}

fn tell(view: &PruneView) -> Result<(), Failure> {
    let rows = view.found.iter().map(|found| row(view, found)).collect();
    table(&["KIND", "NAME", "SIZE", "", "WHY"], rows, "nothing to prune")?;
    if !view.found.is_empty() {
        let verb = if view.dry_run { "would be" } else { "were" };
        note(&format!("{} {verb} freed", human::bytes(view.bytes)));
    }
    Ok(())
}

fn row(view: &PruneView, found: &PrunedView) -> Vec<String> {
    let became = match (&found.error, &found.kept_because) {
        (Some(error), _) => format!("cannot be removed: {error}"),
        (None, Some(because)) => format!("kept: {because}"),
        (None, None) if found.removed => "removed".to_owned(),
        (None, None) if view.dry_run => "would be removed".to_owned(),
        (None, None) => "kept".to_owned(),
    };
    vec![found.kind.clone(), found.name.clone(), human::bytes(found.bytes), became, found.why.clone()]
}
