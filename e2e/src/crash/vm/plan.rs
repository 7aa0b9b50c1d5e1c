//! What is done in a case and what must come of it; or why the case makes no sense.

use super::{Case, Fault, Way};
use crate::crash::Cause;
use outlast_prove::BootStep;

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

/// The one right end of a beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// It did not start, and got as far as this step.
    Failed(BootStep),
    /// It runs.
    Runs,
    /// It runs, after the clone had been given up for a cold boot.
    RunsCold,
    /// It was published, whoever asked may have been told so, and it has ended.
    Ended,
}

/// Plans a case.
pub fn plan(case: Case) -> Plan {
    match (case.fault, case.upcoming) {
        (Fault::Runner, Some(step)) => done(Expected::Failed(step)),
        (Fault::Runner, None) => done(Expected::Ended),
        (Fault::Vmm, _) if !case.point.has_vmm() => Plan::Senseless("no VMM lives at that point"),
        (Fault::Vmm, upcoming) => done(vmm_killed(case.way, upcoming)),
        (Fault::Client, Some(_)) => done(Expected::Runs),
        (Fault::Client, None) => Plan::Senseless("whoever asked has its answer by then, and has gone"),
        (Fault::Error, Some(step)) => error(case.way, step),
        (Fault::Timeout, Some(step)) => timeout(case.way, step),
        (Fault::Error | Fault::Timeout, None) => {
            Plan::Senseless("no step of a boot is done behind that point")
        }
    }
}

fn done(expected: Expected) -> Plan {
    Plan::Do { cause: None, expected }
}

fn caused(cause: Cause, expected: Expected) -> Plan {
    Plan::Do { cause: Some(cause), expected }
}

fn vmm_killed(way: Way, upcoming: Option<BootStep>) -> Expected {
    match (way, upcoming) {
        (Way::Start, Some(BootStep::StartGuest | BootStep::AgentHello)) => Expected::RunsCold,
        // What was sent off to the store is carried out; the death is seen right after.
        (_, Some(BootStep::Publish) | None) => Expected::Ended,
        (_, Some(step)) => Expected::Failed(step),
    }
}

const WORKLOADS: &str = "only workloads walk that step";

/// The error of each step: a real cause, made while somebody stands before it.
fn error(way: Way, upcoming: BootStep) -> Plan {
    let failed = |cause| caused(cause, Expected::Failed(upcoming));
    match upcoming {
        BootStep::Claim | BootStep::Publish => failed(Cause::DiskFull),
        BootStep::RunDirectory => failed(Cause::RunGone),
        BootStep::Disks => failed(Cause::InitramfsGone),
        BootStep::LaunchVmm => failed(Cause::VmDiskGone),
        BootStep::StartGuest => Plan::Senseless(
            "what it awaits was begun with the launch (a state that cannot be read: template_faults), and fails by the VMM's death (vmm_killed) or silence (timeout)",
        ),
        BootStep::AgentHello => Plan::Senseless(
            "its connection was there before the VMM was: it breaks by the VMM's death (vmm_killed) or is silent (timeout)",
        ),
        BootStep::Certify => Plan::Senseless(
            "its only peer is the guest, which dies (vmm_killed), is silent (timeout) or lies (the hostile guests)",
        ),
        BootStep::Settle => match way {
            Way::Start | Way::Cold => failed(Cause::VmDiskDamaged),
            Way::Restore => {
                Plan::Senseless("its guest is on its disk already, and reads nothing of it for that")
            }
        },
        BootStep::Inputs | BootStep::StartProgram => Plan::Senseless(WORKLOADS),
    }
}

/// The timeout of each step.
fn timeout(way: Way, upcoming: BootStep) -> Plan {
    let failed = |cause| caused(cause, Expected::Failed(upcoming));
    let restored = |cause| match way {
        Way::Start => caused(cause, Expected::RunsCold),
        Way::Cold | Way::Restore => failed(cause),
    };
    match upcoming {
        BootStep::Claim | BootStep::RunDirectory => failed(Cause::HeldTooLong),
        BootStep::Disks => match way {
            Way::Start | Way::Cold => failed(Cause::BootDeadline),
            Way::Restore => failed(Cause::RestoreDeadline),
        },
        BootStep::LaunchVmm => match way {
            Way::Start | Way::Cold => restored(Cause::FileNeverOpens),
            Way::Restore => Plan::Senseless(
                "the one file it waits for was read to its end a moment before, when its checksum was compared",
            ),
        },
        BootStep::StartGuest | BootStep::AgentHello => restored(Cause::VmmStopped),
        BootStep::Certify | BootStep::Settle => failed(Cause::VmmStopped),
        BootStep::Publish => failed(Cause::StoreLocked),
        BootStep::Inputs | BootStep::StartProgram => Plan::Senseless(WORKLOADS),
    }
}
