//! What changed between two inventories, and what that comes to.

use super::{Item, Kind};
use outlast_model::Verdict;
use std::fmt;

/// The difference of two inventories.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// There now, and not before.
    pub appeared: Vec<Item>,
    /// There before, and not now.
    pub vanished: Vec<Item>,
    /// Kinds that could not be read in full in one of the two, each with the reason.
    pub undecided: Vec<(Kind, String)>,
    /// Kinds this host offers no way to look at, each with the reason.
    pub not_inspected: Vec<(Kind, String)>,
}

impl Difference {
    /// Fail when something appeared or vanished, else unknown when something could not be read. Kinds that
    /// are not inspected do not change it; whoever reports must name them.
    pub fn verdict(&self) -> Verdict {
        if !self.appeared.is_empty() || !self.vanished.is_empty() {
            Verdict::Fail
        } else if !self.undecided.is_empty() {
            Verdict::Unknown
        } else {
            Verdict::Pass
        }
    }

    /// Those things of this kind that appeared.
    pub fn appeared_of(&self, kind: Kind) -> impl Iterator<Item = &Item> {
        self.appeared.iter().filter(move |item| item.kind() == kind)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}", self.verdict())?;
        for item in &self.appeared {
            writeln!(out, "  appeared: {item}")?;
        }
        for item in &self.vanished {
            writeln!(out, "  vanished: {item}")?;
        }
        for (kind, reason) in &self.undecided {
            writeln!(out, "  undecided: {kind}: {reason}")?;
        }
        for (kind, reason) in &self.not_inspected {
            writeln!(out, "  not inspected: {kind}: {reason}")?;
        }
        Ok(())
    }
}
