//! What people write on the command line: sizes, durations, fault points, ids, assignments, image names.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outlast_model::spec::EnvVar;
use outlast_model::unit::UnitError;
use outlast_model::{Age, Hold, IncarnationId, Memory, Timeout, WorkloadId, limit::MEMORY_STEP};
use outlast_wire::guest::guest_words;
use std::fmt::{Debug, Display};
use std::str::FromStr;

fuzz_target!(|text: &str| {
    if let Some(memory) = read::<Memory>(text) {
        assert!(memory.bytes() > 0 && memory.mib() >= memory.bytes() / Memory::MIB);
        let rounded = memory.rounded_up_to(MEMORY_STEP);
        let fits = memory.bytes().checked_next_multiple_of(MEMORY_STEP.bytes());
        assert!(rounded >= memory && (fits.is_none() || rounded.bytes() % MEMORY_STEP.bytes() == 0));
    }
    if let Some(timeout) = read::<Timeout>(text) {
        assert!(!timeout.duration().is_zero() && timeout.duration() <= Timeout::MAX);
        assert_eq!(Timeout::from_millis(timeout.millis()), Some(timeout));
    }
    sums_and_overflows_are_told_apart(text);
    read::<Age>(text);
    read::<Hold>(text);
    read::<WorkloadId>(text);
    read::<IncarnationId>(text);
    match EnvVar::parse(text) {
        Ok(variable) => assert!(variable.assignment() == text && !variable.name().is_empty()),
        Err(error) => short(&error.to_string()),
    }
    let words = guest_words(text);
    assert!(words.chars().count() <= 300 && !words.chars().any(char::is_control));
});

/// Reads it; what was read is written in one way only, which is read as the same.
fn read<T>(text: &str) -> Option<T>
where
    T: FromStr<Err: Display> + Display + Debug + PartialEq,
{
    match text.parse::<T>() {
        Ok(value) => {
            let written = value.to_string();
            let again = written.parse::<T>().ok();
            assert_eq!(again.as_ref(), Some(&value), "{text:?} is written as {written:?}");
            assert_eq!(again.map(|value| value.to_string()), Some(written), "written twice it differs");
            Some(value)
        }
        Err(error) => {
            short(&error.to_string());
            None
        }
    }
}

/// An error repeats only the beginning of what was written, however much that is; the longest names every fault point.
fn short(text: &str) {
    assert!(text.chars().count() < 500, "{text}");
}

/// With a unit that exists, a number is zero, too large or good, whatever its length.
fn sums_and_overflows_are_told_apart(text: &str) {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    if digits.is_empty() {
        return;
    }
    let is_zero = digits.bytes().all(|digit| digit == b'0');
    let (size, timeout) = (format!("{digits}M").parse::<Memory>(), format!("{digits}s").parse::<Timeout>());
    if is_zero {
        assert!(
            matches!(size, Err(UnitError::Zero { .. })) && matches!(timeout, Err(UnitError::Zero { .. }))
        );
    } else {
        assert!(matches!(size, Ok(_) | Err(UnitError::TooLarge { .. })), "{size:?}");
        assert!(matches!(timeout, Ok(_) | Err(UnitError::TooLarge { .. })), "{timeout:?}");
    }
}
