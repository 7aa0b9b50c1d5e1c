//! The clocks of the measurements.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Wall clock in nanoseconds since the Unix epoch: comparable with what the product writes down.
pub(crate) fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Milliseconds since `began`.
pub(crate) fn ms_since(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}
