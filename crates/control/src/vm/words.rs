//! How a VM's state is told in a sentence. Pure.

use outlast_model::{DeathCause, VmState};
use outlast_store::VmRow;
use outlast_wire::record::DeathRecord;

/// Why a VM of which nothing lives is not running.
pub(super) fn why_not_running(vm: &VmRow) -> String {
    match (vm.state, &vm.failed_start, &vm.death) {
        (VmState::Created, _, _) => "it was never started".to_owned(),
        (VmState::Failed, Some(failed), _) => {
            format!("its last start failed at {}: {}", failed.step, failed.cause)
        }
        (_, _, Some(death)) => how_it_ended(death),
        (state, _, None) => state.name().to_owned(),
    }
}

/// The cause of a death and its time: `VMM killed by signal 9 at 12:03:11`. The time is UTC.
pub(super) fn how_it_ended(death: &DeathRecord) -> String {
    format!("{} at {}", cause(death), time_of_day(death.unix_ns))
}

fn cause(death: &DeathRecord) -> String {
    let signalled = death.signal.map(|signal| DeathCause::VmmSignalled { signal });
    let exited = death.exit_code.map(|code| DeathCause::VmmExited { code });
    match signalled.or(exited).filter(|cause| cause.name() == death.cause) {
        Some(cause) => cause.to_string(),
        None => death.cause.replace('_', " "),
    }
}

/// Hours, minutes and seconds of a moment, in UTC.
fn time_of_day(unix_ns: u64) -> String {
    let second = unix_ns / 1_000_000_000 % 86_400;
    format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn death(cause: &DeathCause) -> DeathRecord {
        DeathRecord::new(cause, Vec::new(), (12 * 3600 + 3 * 60 + 11) * 1_000_000_000 + 5, "runner")
    }

    #[test]
    fn a_death_is_told_with_its_cause_and_time() {
        let told = |cause: DeathCause| how_it_ended(&death(&cause));
        assert_eq!(told(DeathCause::VmmSignalled { signal: 9 }), "VMM killed by signal 9 at 12:03:11");
        assert_eq!(told(DeathCause::VmmExited { code: 1 }), "VMM exited with code 1 at 12:03:11");
        assert_eq!(told(DeathCause::HostRebooted), "host rebooted at 12:03:11");
        assert_eq!(told(DeathCause::Stopped), "stopped at 12:03:11");
    }
}
