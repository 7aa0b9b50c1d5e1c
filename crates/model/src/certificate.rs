//! What is certified after every boot, clone, restore and resume, before anything may run.

use std::time::Duration;

/// How far the guest's clock is from the host's, as an interval: the truth lies somewhere inside.
///
/// The host reads its clock, asks the guest for its own, and reads its clock again. The guest's reading was
/// taken at some moment in between, so `guest - host` lies between `guest - after` and `guest - before`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockInterval {
    /// Lower bound of guest minus host, in nanoseconds.
    pub low_ns: i64,
    /// Upper bound of guest minus host, in nanoseconds.
    pub high_ns: i64,
}

impl ClockInterval {
    /// From the host's two readings and the guest's one, all in nanoseconds since the Unix epoch.
    pub fn measured(before_ns: u64, guest_ns: u64, after_ns: u64) -> Self {
        Self { low_ns: difference(guest_ns, after_ns), high_ns: difference(guest_ns, before_ns) }
    }

    /// Whether the whole interval lies within `bound` of zero. An inverted interval (the host's clock was
    /// stepped back during the measurement) is never within anything.
    pub fn is_within(self, bound: Duration) -> bool {
        let bound = i64::try_from(bound.as_nanos()).unwrap_or(i64::MAX);
        self.low_ns <= self.high_ns && self.low_ns >= -bound && self.high_ns <= bound
    }
}

fn difference(a: u64, b: u64) -> i64 {
    let wide = i128::from(a) - i128::from(b);
    i64::try_from(wide).unwrap_or(if wide < 0 { i64::MIN } else { i64::MAX })
}

/// The proof that an incarnation was fit to run when it was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The agent's version, as it said.
    pub agent_version: String,
    /// The guest kernel's release, as it said.
    pub guest_kernel: String,
    /// The measured offset of the guest's clock.
    pub clock: ClockInterval,
    /// How many samples the clock took.
    pub clock_samples: u32,
    /// How many bytes of host entropy the guest acknowledged before anything else ran.
    pub entropy_bytes: u32,
    /// The guest's host name, read back.
    pub host_name: String,
    /// The guest's machine id, read back.
    pub machine_id: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_true_offset_lies_inside(host in 1u64 << 40..1 << 62, offset in -1_000_000_000i64..1_000_000_000, out in 0u64..1_000_000, back in 0u64..1_000_000) {
            let read_at = host + out;
            let guest = read_at.checked_add_signed(offset).unwrap();
            let interval = ClockInterval::measured(host, guest, read_at + back);
            prop_assert!(interval.low_ns <= offset && offset <= interval.high_ns);
        }
    }

    #[test]
    fn a_host_clock_stepped_back_is_not_within_anything() {
        let interval = ClockInterval::measured(2_000, 1_500, 1_000);
        assert!(!interval.is_within(Duration::from_secs(3600)));
    }

    #[test]
    fn both_ends_must_be_within() {
        assert!(ClockInterval { low_ns: -50, high_ns: 50 }.is_within(Duration::from_nanos(50)));
        assert!(!ClockInterval { low_ns: -51, high_ns: 50 }.is_within(Duration::from_nanos(50)));
        assert!(!ClockInterval { low_ns: 0, high_ns: 51 }.is_within(Duration::from_nanos(50)));
    }
}
