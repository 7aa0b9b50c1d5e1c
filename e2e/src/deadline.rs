//! Waiting for a condition, with a deadline. The only place of the harness that lets time pass.

use std::time::{Duration, Instant};

/// How often a condition is looked at: often in the beginning, and then less and less. Looking costs what is waited for
/// its time.
const PERIODS: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(50)];

/// Waits until `condition` yields a value and returns it.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, condition: impl FnMut() -> Option<T>) -> T {
    match within(limit, condition) {
        Some(value) => value,
        None => panic!("{what}: not within {limit:?}"),
    }
}

/// Waits until `condition` yields a value; `None` when it has not within `limit`.
pub fn within<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    let deadline = began + limit;
    loop {
        let value = condition();
        if value.is_some() || Instant::now() >= deadline {
            return value;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        std::thread::sleep((began.elapsed() / 20).clamp(PERIODS[0], PERIODS[1]).min(left));
    }
}
