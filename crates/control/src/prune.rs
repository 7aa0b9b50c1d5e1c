//! Removing what is of no more use, everywhere it collects: templates, the library's leftovers, evidence of runs
//! that are over. Which things those are, each part says for itself; nothing in use is ever among them.
//!
//! Pruning may be killed at any moment and done again: everything goes out of sight in one step before it is
//! removed, under a name by which the next pruning finds it.

use crate::error::{Error, chain};
use crate::site::Site;
use crate::{accelerator, evidence, template};
use outlast_machine::image::leftover;
use outlast_model::{Age, limit};
use outlast_wire::view::{PruneView, PrunedView};

/// What is to be pruned, and how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pruning {
    /// Templates.
    pub templates: bool,
    /// Superseded versions of images, kernels and VMM roots, old boot files, results of earlier boots of the host.
    pub library: bool,
    /// Evidence of runs that are over.
    pub evidence: bool,
    /// What was not used for so long goes; each part has an age of its own otherwise.
    pub older_than: Option<Age>,
    /// So many bytes of templates may stay.
    pub keep_bytes: Option<u64>,
    /// It is only looked.
    pub dry_run: bool,
}

/// Whether anything is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// It is only looked.
    Look,
    /// It is removed.
    Remove,
}

/// Something of no more use.
#[derive(Debug)]
pub(crate) struct Found(PrunedView);

impl Found {
    pub(crate) fn new(kind: &str, name: &str, bytes: u64, why: impl Into<String>) -> Self {
        let (kind, name) = (kind.to_owned(), name.to_owned());
        Self(PrunedView {
            kind,
            name,
            bytes,
            why: why.into(),
            removed: false,
            kept_because: None,
            error: None,
        })
    }

    pub(crate) fn removed(&mut self) {
        self.0.removed = true;
    }

    pub(crate) fn kept(&mut self, because: &str) {
        self.0.kept_because = Some(because.to_owned());
    }

    pub(crate) fn failed(&mut self, error: &dyn std::error::Error) {
        self.0.error = Some(chain(error));
    }
}

/// Everything that was found.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<PrunedView>);

impl Findings {
    pub(crate) fn add(&mut self, found: Found) {
        self.0.push(found.0);
    }

    #[cfg(test)]
    pub(crate) fn into_views(self) -> Vec<PrunedView> {
        self.0
    }
}

/// Finds what is of no more use and removes it, unless it is only to be looked at.
///
/// # Errors
/// A place cannot be read. What could not be removed is in the view, with the reason.
pub fn prune(site: &Site, pruning: Pruning) -> Result<PruneView, Error> {
    let how = if pruning.dry_run { How::Look } else { How::Remove };
    let mut findings = Findings::default();
    if pruning.evidence {
        evidence::prune(site, pruning.older_than, how, &mut findings)?;
    }
    if pruning.templates {
        let bounds = template::Bounds {
            older_than: pruning.older_than.unwrap_or(limit::TEMPLATE_AGE).duration(),
            keep_bytes: pruning.keep_bytes.unwrap_or(site.bounds().templates_bytes),
        };
        template::prune(site, bounds, how, &mut findings)?;
    }
    if pruning.library {
        library(site, pruning.older_than, how, &mut findings)?;
        accelerator::prune(site, how, &mut findings);
    }
    Ok(view(findings, pruning.dry_run))
}

fn library(site: &Site, age: Option<Age>, how: How, findings: &mut Findings) -> Result<(), Error> {
    let library = site.places().library();
    let older_than = age.unwrap_or(limit::TEMPLATE_AGE).duration();
    for leftover in leftover::find(&library, older_than)? {
        let mut found = Found::new(leftover.kind(), leftover.name(), leftover.bytes(), leftover.why());
        match (how, leftover.is_in_use()) {
            (How::Look | How::Remove, true) => found.kept("it is in use"),
            (How::Look, false) => {}
            (How::Remove, false) => match leftover.remove(&library) {
                Ok(true) => found.removed(),
                Ok(false) => found.kept("it is in use"),
                Err(error) => found.failed(&error),
            },
        }
        findings.add(found);
    }
    Ok(())
}

fn view(findings: Findings, dry_run: bool) -> PruneView {
    let counts = |found: &&PrunedView| found.removed || (dry_run && found.kept_because.is_none());
    let bytes = findings.0.iter().filter(counts).fold(0u64, |sum, found| sum.saturating_add(found.bytes));
    PruneView { dry_run, bytes, found: findings.0 }
}
