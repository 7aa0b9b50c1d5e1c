//! What is done in a case and what must come of it; or why the case makes no sense.

use super::cause::Cause;
use super::{Case, Fault, Start};
use outlast_prove::{BootStep, FaultPoint, LauncherStep, Place, RunPhase};

/// What becomes of a combination.
#[derive(Debug, Clone, Copy)]
pub enum Plan {
    /// It is run.
    Do {
        /// The real cause of an error or a timeout; a death needs none.
        cause: Option<Cause>,
        /// What must come of it.
        expected: Expected,
    },
    /// It cannot happen, and why.
    Senseless(&'static str),
}

/// The one right outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// It never ran, and got as far as this step.
    NotStarted(BootStep),
    /// Nobody can know.
    Lost,
    /// Its runner was killed while it worked: whether it was published decides.
    AsFarAsItGot,
    /// It ran to its end.
    Completed,
    /// It ran to its end after the clone had been given up for a cold boot.
    CompletedCold,
    /// Its time was over.
    TimedOut,
}

impl Expected {
    /// The outcome's kind; `None` when the store must be asked how far it got.
    pub fn kind(self) -> Option<&'static str> {
        match self {
            Self::NotStarted(_) => Some("not_started"),
            Self::Lost => Some("lost"),
            Self::Completed | Self::CompletedCold => Some("completed"),
            Self::TimedOut => Some("timed_out"),
            Self::AsFarAsItGot => None,
        }
    }
}

/// Plans a case.
pub fn plan(case: Case) -> Plan {
    let Case { start, point, fault } = case;
    if !point.is_a_workloads() {
        return Plan::Senseless(A_VMS);
    }
    match fault {
        Fault::Launcher => launcher_killed(point),
        Fault::Runner => runner_killed(point),
        Fault::Both | Fault::Vmm if point.is_told() && point.is_launchers() => Plan::Senseless(BESIDE),
        Fault::Both | Fault::Vmm if !point.has_vmm() => Plan::Senseless(NO_VMM),
        // A dead VMM changes nothing for a dead runner.
        Fault::Both => plan(Case { fault: Fault::Runner, ..case }),
        Fault::Vmm => vmm_killed(start, point),
        Fault::Error => failing(point, error),
        Fault::Timeout => failing(point, |upcoming| timeout(start, upcoming)),
    }
}

const BESIDE: &str =
    "the runner works beside the held launcher: where it is then is luck; its own points hold it";
const A_VMS: &str = "these are cases of workloads, and only VMs walk that step";
const NO_VMM: &str = "no VMM lives at that point";

fn done(expected: Expected) -> Plan {
    Plan::Do { cause: None, expected }
}

fn caused(cause: Cause, expected: Expected) -> Plan {
    Plan::Do { cause: Some(cause), expected }
}

fn launcher_killed(point: FaultPoint) -> Plan {
    match point.place() {
        // A runner that was told who it is needs its launcher no more.
        Place::Launcher(_) if point.is_told() => done(Expected::Completed),
        Place::Launcher(_) => done(Expected::NotStarted(BootStep::Claim)),
        Place::Boot(_) | Place::Run(_) => Plan::Senseless("the launcher has left before that point"),
    }
}

fn runner_killed(point: FaultPoint) -> Plan {
    if !point.has_runner() {
        return Plan::Senseless("there is no runner yet");
    }
    match (point.place(), point.upcoming()) {
        (Place::Launcher(_), _) if point.is_told() => Plan::Senseless(BESIDE),
        (Place::Launcher(_), _) => done(Expected::NotStarted(BootStep::Claim)),
        (Place::Boot(_) | Place::Run(_), _) if point.is_over() => done(Expected::Completed),
        (Place::Boot(_) | Place::Run(_), _) if point.is_published() => done(Expected::Lost),
        (Place::Boot(_) | Place::Run(_), Some(Place::Boot(step))) => done(Expected::NotStarted(step)),
        (Place::Boot(_) | Place::Run(_), _) => done(Expected::Lost),
    }
}

fn vmm_killed(start: Start, point: FaultPoint) -> Plan {
    done(match (start, point.upcoming()) {
        (Start::Clone, Some(Place::Boot(BootStep::StartGuest | BootStep::AgentHello))) => {
            Expected::CompletedCold
        }
        // What was sent off to the store is carried out; the death is seen right after.
        (_, Some(Place::Boot(BootStep::Publish))) => Expected::NotStarted(BootStep::StartProgram),
        (_, Some(Place::Boot(step))) => Expected::NotStarted(step),
        (_, _) if point.is_decided() => Expected::Completed,
        (_, _) => Expected::Lost,
    })
}

fn failing(point: FaultPoint, plan: impl FnOnce(Place) -> Plan) -> Plan {
    match point.upcoming() {
        Some(upcoming) => plan(upcoming),
        None => Plan::Senseless("nothing is done behind that point"),
    }
}

/// The error of each place: a real cause, made while somebody stands before it.
fn error(upcoming: Place) -> Plan {
    use Expected::{Completed, Lost, NotStarted};
    match upcoming {
        Place::Launcher(LauncherStep::Cgroup) => caused(Cause::CgroupsReadOnly, NotStarted(BootStep::Claim)),
        Place::Launcher(LauncherStep::Runner) => caused(Cause::NoMoreProcesses, NotStarted(BootStep::Claim)),
        Place::Launcher(LauncherStep::Identity) => {
            Plan::Senseless("its only peer is the runner, and only its death can fail it: runner_killed")
        }
        Place::Launcher(LauncherStep::Adopt) => caused(Cause::RunnersGroupGone, Expected::AsFarAsItGot),
        Place::Boot(step @ (BootStep::Claim | BootStep::Publish)) => {
            caused(Cause::DiskFull, NotStarted(step))
        }
        Place::Boot(step @ BootStep::RunDirectory) => caused(Cause::RunGone, NotStarted(step)),
        Place::Boot(step @ BootStep::Disks) => caused(Cause::InitramfsGone, NotStarted(step)),
        Place::Boot(step @ BootStep::LaunchVmm) => caused(Cause::RunDirectoryGone, NotStarted(step)),
        Place::Boot(BootStep::StartGuest) => Plan::Senseless(
            "it is one command on the VMM's monitor, which fails by the VMM's death (vmm_killed) or silence (timeout)",
        ),
        Place::Boot(BootStep::AgentHello) => Plan::Senseless(
            "its connection was there before the VMM was: it breaks by the VMM's death (vmm_killed) or is silent (timeout)",
        ),
        Place::Boot(BootStep::Certify) => Plan::Senseless(
            "its only peer is the guest, which dies (vmm_killed), is silent (timeout) or lies (the hostile guests)",
        ),
        Place::Boot(BootStep::Settle) => Plan::Senseless(A_VMS),
        Place::Boot(step @ BootStep::Inputs) => caused(Cause::InputUnreadable, NotStarted(step)),
        Place::Boot(step @ BootStep::StartProgram) => caused(Cause::StdinGone, NotStarted(step)),
        Place::Run(RunPhase::Program) => caused(Cause::DiskNearlyFull, Lost),
        Place::Run(RunPhase::Outputs) => caused(Cause::OutputsInTheWay, Completed),
        Place::Run(RunPhase::BuryVmm) => Plan::Senseless(
            "a process can be sent SIGKILL by its parent, always; it may not die of it: timeout",
        ),
        Place::Run(RunPhase::Outcome) => caused(Cause::DiskFull, Lost),
        Place::Run(RunPhase::Leave) => caused(Cause::CgroupInItsCgroup, Completed),
    }
}

/// The timeout of each place.
fn timeout(start: Start, upcoming: Place) -> Plan {
    use Expected::{Completed, CompletedCold, Lost, NotStarted, TimedOut};
    let if_clone = |clone, cold| if start == Start::Clone { clone } else { cold };
    match upcoming {
        Place::Launcher(LauncherStep::Adopt) => caused(Cause::LauncherStopped, Completed),
        Place::Launcher(_) => caused(Cause::LauncherStopped, NotStarted(BootStep::Claim)),
        Place::Boot(step @ (BootStep::Claim | BootStep::RunDirectory)) => {
            caused(Cause::HeldTooLong, NotStarted(step))
        }
        Place::Boot(step @ BootStep::Disks) => caused(Cause::BootDeadline, NotStarted(step)),
        Place::Boot(step @ BootStep::LaunchVmm) => {
            caused(Cause::FileNeverOpens, if_clone(CompletedCold, NotStarted(step)))
        }
        Place::Boot(step @ (BootStep::StartGuest | BootStep::AgentHello)) => {
            caused(Cause::VmmStopped, if_clone(CompletedCold, NotStarted(step)))
        }
        Place::Boot(step @ (BootStep::Certify | BootStep::Inputs)) => {
            caused(Cause::VmmStopped, NotStarted(step))
        }
        Place::Boot(BootStep::Settle) => Plan::Senseless(A_VMS),
        Place::Boot(step @ BootStep::Publish) => caused(Cause::StoreLocked, NotStarted(step)),
        Place::Boot(BootStep::StartProgram) => caused(Cause::VmmStopped, Lost),
        Place::Run(RunPhase::Program) => caused(Cause::ProgramDeadline, TimedOut),
        Place::Run(RunPhase::Outputs) => caused(Cause::VmmStopped, Completed),
        Place::Run(RunPhase::BuryVmm) => caused(Cause::VmmFrozen, Completed),
        Place::Run(RunPhase::Outcome) => caused(Cause::StoreLocked, Lost),
        Place::Run(RunPhase::Leave) => caused(Cause::StrangerInItsCgroup, Completed),
    }
}
