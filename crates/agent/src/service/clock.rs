//! The guest's real-time clock, set from the host, and how long the kernel has been running.
//! How good the setting is gets measured by the host, which knows the round trip.

use crate::refusal::Reason;
use outlast_wire::guest::{Clock, ClockRead};
use rustix::io::Errno;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use thiserror::Error;

const NS_PER_S: u64 = 1_000_000_000;

/// The clock could not be set or read.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum ClockError {
    /// clock_settime.
    #[error("set the clock to {0} ns")]
    Set(u64, #[source] Errno),
    /// The clock stands before 1970 or after 2554.
    #[error("clock reads {0} s")]
    Range(i64),
}

impl Reason for ClockError {
    fn errno(&self) -> i32 {
        match self {
            Self::Set(_, source) => source.raw_os_error(),
            Self::Range(_) => Errno::RANGE.raw_os_error(),
        }
    }
}

/// Sets the clock when asked to, and reads it as the last thing.
pub(crate) fn clock(request: Clock) -> Result<ClockRead, ClockError> {
    if request.set_unix_ns != 0 {
        let time =
            to_timespec(request.set_unix_ns).ok_or(ClockError::Set(request.set_unix_ns, Errno::RANGE))?;
        clock_settime(ClockId::Realtime, time)
            .map_err(|source| ClockError::Set(request.set_unix_ns, source))?;
    }
    let now = clock_gettime(ClockId::Realtime);
    from_timespec(now).map(|unix_ns| ClockRead { unix_ns }).ok_or(ClockError::Range(now.tv_sec))
}

/// Milliseconds since the kernel started, time spent suspended included.
pub(crate) fn uptime_ms() -> u64 {
    from_timespec(clock_gettime(ClockId::Boottime)).unwrap_or(0) / 1_000_000
}

fn to_timespec(ns: u64) -> Option<Timespec> {
    Some(Timespec { tv_sec: i64::try_from(ns / NS_PER_S).ok()?, tv_nsec: i64::try_from(ns % NS_PER_S).ok()? })
}

fn from_timespec(time: Timespec) -> Option<u64> {
    let seconds = u64::try_from(time.tv_sec).ok()?;
    seconds.checked_mul(NS_PER_S)?.checked_add(u64::try_from(time.tv_nsec).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_the_way_through_the_kernels_form() {
        for ns in [0, 1, 999_999_999, NS_PER_S, u64::MAX] {
            assert_eq!(to_timespec(ns).and_then(from_timespec), Some(ns));
        }
        assert_eq!(from_timespec(Timespec { tv_sec: -1, tv_nsec: 0 }), None);
    }

    #[test]
    fn reading_sets_nothing() {
        let before = clock(Clock { set_unix_ns: 0 }).unwrap();
        let after = clock(Clock { set_unix_ns: 0 }).unwrap();
        assert!(before.unix_ns <= after.unix_ns);
    }
}
