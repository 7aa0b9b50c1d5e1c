//! Every place where an incarnation can be made to stand still, generated from the tables of steps and phases.
//!
//! A line added to one of those tables is therefore covered by every generated crash case.

use outlast_model::{BootStep, Edge, Hold, LauncherStep, Place, RunPhase, Walker};

/// A fault point, by the names the contract uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FaultPoint {
    hold: Hold,
}

impl FaultPoint {
    /// All fault points, in the order in which a life passes them.
    pub fn all() -> Vec<Self> {
        let edges = |place| [Edge::Before, Edge::After].map(|edge| Self { hold: Hold { place, edge } });
        Place::all().into_iter().flat_map(edges).collect()
    }

    /// Those of the runner's boot steps.
    pub fn of_boot() -> Vec<Self> {
        Self::all().into_iter().filter(|point| matches!(point.place(), Place::Boot(_))).collect()
    }

    /// Those that the start of a VM passes, with the step that comes next: the step itself, or the one after it. `None`
    /// behind the last, when it runs.
    pub fn of_a_vms_start() -> Vec<(Self, Option<BootStep>)> {
        let upcoming = |point: Self| match (point.hold.edge, point.hold.place) {
            (Edge::Before, Place::Boot(step)) => Some((point, Some(step))),
            (Edge::After, Place::Boot(step)) => Some((point, step.next_of(Walker::Vm))),
            (_, Place::Launcher(_) | Place::Run(_)) => None,
        };
        let passed = Self::of_boot().into_iter().filter(|point| point.hold.place.is_passed_by(Walker::Vm));
        passed.filter_map(upcoming).collect()
    }

    /// The fault point of that name, `STEP:before` or `STEP:after`.
    pub fn named(name: &str) -> Option<Self> {
        name.parse().ok().map(|hold| Self { hold })
    }

    /// `STEP:before` or `STEP:after`, as `OUTLAST_HOLD` takes it.
    pub fn name(self) -> String {
        self.hold.to_string()
    }

    /// The step or phase.
    pub fn place(self) -> Place {
        self.hold.place
    }

    /// Which side of it.
    pub fn edge(self) -> Edge {
        self.hold.edge
    }

    /// Whether a workload's life passes it.
    pub fn is_a_workloads(self) -> bool {
        self.hold.place.is_passed_by(Walker::Workload)
    }

    /// What is done next by whoever stands here in a workload's life: the place itself, or the one after it. `None`
    /// behind the last of the runner and behind the last of the launcher.
    pub fn upcoming(self) -> Option<Place> {
        match (self.hold.edge, self.hold.place) {
            (Edge::Before, place) => Some(place),
            (Edge::After, place) => place
                .next_of(Walker::Workload)
                .filter(|next| matches!(next, Place::Launcher(_)) == self.is_launchers()),
        }
    }

    /// The step's name.
    pub fn step(self) -> &'static str {
        self.hold.place.name()
    }

    /// The name of the step that comes after this one in a workload's life, if there is one.
    pub fn next_step(self) -> Option<&'static str> {
        self.hold.place.next_of(Walker::Workload).map(Place::name)
    }

    /// Whether it is the launcher that stands here.
    pub fn is_launchers(self) -> bool {
        matches!(self.hold.place, Place::Launcher(_))
    }

    /// Whether the runner's process exists when somebody stands here.
    pub fn has_runner(self) -> bool {
        self.is_behind(LauncherStep::Runner.into())
    }

    /// Whether the runner has been told who it is: then its life goes on beside a launcher that stands here.
    pub fn is_told(self) -> bool {
        self.is_behind(LauncherStep::Identity.into())
    }

    /// Whether the VMM lives when the runner stands here.
    pub fn has_vmm(self) -> bool {
        self.is_behind(BootStep::LaunchVmm.into()) && !self.is_behind(RunPhase::BuryVmm.into())
    }

    /// Whether the incarnation is already published as running when its runner stands here: from then on the
    /// program may have been sent, so an end here is `lost`; before, it is `not_started`.
    pub fn is_published(self) -> bool {
        self.is_behind(BootStep::Publish.into())
    }

    /// Whether the runner knows that the program was sent.
    pub fn is_sent(self) -> bool {
        self.is_behind(BootStep::StartProgram.into())
    }

    /// Whether the runner has heard of the program's end.
    pub fn is_decided(self) -> bool {
        self.is_behind(RunPhase::Program.into())
    }

    /// Whether the outcome is written down.
    pub fn is_over(self) -> bool {
        self.is_behind(RunPhase::Outcome.into())
    }

    /// Whether all of `place` has been done.
    fn is_behind(self, place: Place) -> bool {
        match self.hold.edge {
            Edge::Before => self.hold.place > place,
            Edge::After => self.hold.place >= place,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_two_fault_points_that_can_be_named() {
        let all = FaultPoint::all();
        assert_eq!(all.len(), 2 * Place::all().len());
        assert!(all.iter().all(|point| FaultPoint::named(&point.name()) == Some(*point)));
        assert!(all.last().is_some_and(|point| point.upcoming().is_none()));
        assert_eq!(FaultPoint::of_boot().len(), 2 * BootStep::ALL.len());
    }

    #[test]
    fn a_boot_is_published_once_and_stays_so() {
        let published: Vec<bool> = FaultPoint::all().iter().map(|point| point.is_published()).collect();
        assert!(published.is_sorted() && !published[0] && published[published.len() - 1]);
        let first = FaultPoint::all()[published.iter().filter(|published| !**published).count()];
        assert_eq!(first.name(), "publish:after");
    }

    #[test]
    fn a_vmm_lives_from_its_launch_to_its_burial() {
        let has = |name| FaultPoint::named(name).is_some_and(FaultPoint::has_vmm);
        assert!(has("launch-vmm:after") && has("program:after") && has("bury-vmm:before"));
        assert!(!has("launch-vmm:before") && !has("bury-vmm:after") && !has("leave:after"));
    }
}
