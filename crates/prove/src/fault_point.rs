//! Every place where a runner can be made to stand still, generated from the table of boot steps.
//!
//! A step added to that table is therefore covered by every generated fault case, or the case list is red.

use outlast_model::{BootStep, Edge, Hold};

/// A fault point, by the names the contract uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultPoint {
    hold: Hold,
}

impl FaultPoint {
    /// All fault points, in the order in which a boot passes them.
    pub fn all() -> Vec<Self> {
        let edges = |step| [Edge::Before, Edge::After].map(|edge| Self { hold: Hold { step, edge } });
        BootStep::ALL.iter().copied().flat_map(edges).collect()
    }

    /// The fault point of that name, `STEP:before` or `STEP:after`.
    pub fn named(name: &str) -> Option<Self> {
        name.parse().ok().map(|hold| Self { hold })
    }

    /// `STEP:before` or `STEP:after`, as `OUTLAST_HOLD` takes it.
    pub fn name(self) -> String {
        self.hold.to_string()
    }

    /// The step's name.
    pub fn step(self) -> &'static str {
        self.hold.step.name()
    }

    /// The name of the step that comes after this one, if there is one.
    pub fn next_step(self) -> Option<&'static str> {
        let position = BootStep::ALL.iter().position(|step| *step == self.hold.step)?;
        BootStep::ALL.get(position + 1).map(|step| step.name())
    }

    /// Whether the incarnation is already published as running when it stands here: from then on the
    /// program may have been sent, so an end here is `lost`; before, it is `not_started`.
    pub fn is_published(self) -> bool {
        match self.hold.edge {
            Edge::Before => self.hold.step > BootStep::Publish,
            Edge::After => self.hold.step >= BootStep::Publish,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_has_two_fault_points_that_can_be_named() {
        let all = FaultPoint::all();
        assert_eq!(all.len(), 2 * BootStep::ALL.len());
        assert!(all.iter().all(|point| FaultPoint::named(&point.name()) == Some(*point)));
        assert!(all.last().is_some_and(|point| point.next_step().is_none()));
    }

    #[test]
    fn a_boot_is_published_once_and_stays_so() {
        let published: Vec<bool> = FaultPoint::all().iter().map(|point| point.is_published()).collect();
        assert!(published.is_sorted() && !published[0] && published[published.len() - 1]);
        let first = FaultPoint::all()[published.iter().filter(|published| !**published).count()];
        assert_eq!(first.name(), "publish:after");
    }
}
