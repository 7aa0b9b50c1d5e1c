//! Units: memory, durations and vCPU counts, checked when they are read.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;
use thiserror::Error;

/// A text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UnitError {
    /// No number, or an unknown unit.
    #[error("'{text}' is not a size (examples: 64M, 256MiB, 1G)")]
    Size {
        /// What was written.
        text: String,
    },
    /// No number, or an unknown unit.
    #[error("'{text}' is not a duration (examples: 500ms, 30s, 5m, 1h)")]
    Duration {
        /// What was written.
        text: String,
    },
    /// The number is zero.
    #[error("{what} must be more than zero")]
    Zero {
        /// Which quantity.
        what: &'static str,
    },
    /// The number does not fit.
    #[error("'{text}' is too large")]
    TooLarge {
        /// What was written.
        text: String,
    },
}

/// An amount of memory or disk in bytes, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Memory(NonZeroU64);

impl Memory {
    /// One mebibyte.
    pub const MIB: u64 = 1024 * 1024;

    /// From bytes; `None` for zero.
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        match NonZeroU64::new(bytes) {
            Some(bytes) => Some(Self(bytes)),
            None => None,
        }
    }

    /// From mebibytes; `None` for zero and for what does not fit.
    pub const fn from_mib(mib: u64) -> Option<Self> {
        match mib.checked_mul(Self::MIB) {
            Some(bytes) => Self::from_bytes(bytes),
            None => None,
        }
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0.get()
    }

    /// In mebibytes, rounded up.
    pub const fn mib(self) -> u64 {
        self.bytes().div_ceil(Self::MIB)
    }

    /// The sum; saturates.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.bytes()))
    }

    /// Rounded up to a multiple of `step`; unchanged where no larger multiple fits.
    #[must_use]
    pub const fn rounded_up_to(self, step: Self) -> Self {
        match self.bytes().checked_next_multiple_of(step.bytes()) {
            Some(bytes) => match Self::from_bytes(bytes) {
                Some(rounded) => rounded,
                None => self,
            },
            None => self,
        }
    }
}

impl FromStr for Memory {
    type Err = UnitError;

    /// Reads `64M`, `64MiB`, `64m`, `1G`, `1048576` (bytes); all units are powers of 1024.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (digits, unit) = split(text).ok_or_else(|| UnitError::Size { text: shorten(text) })?;
        let factor: u64 = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kb" | "kib" => 1024,
            "m" | "mb" | "mib" => Self::MIB,
            "g" | "gb" | "gib" => 1024 * Self::MIB,
            "t" | "tb" | "tib" => 1024 * 1024 * Self::MIB,
            _ => return Err(UnitError::Size { text: shorten(text) }),
        };
        let bytes = number(digits).and_then(|number| number.checked_mul(factor));
        let bytes = bytes.ok_or_else(|| UnitError::TooLarge { text: shorten(text) })?;
        Self::from_bytes(bytes).ok_or(UnitError::Zero { what: "a size" })
    }
}

impl fmt::Display for Memory {
    /// The largest unit that divides it evenly: `256M`, `1G`, `2T`, `100K`, `1023`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.bytes();
        let units = [(1024 * 1024 * Self::MIB, "T"), (1024 * Self::MIB, "G"), (Self::MIB, "M"), (1024, "K")];
        match units.iter().find(|(size, _)| bytes % size == 0) {
            Some((size, unit)) => write!(out, "{}{unit}", bytes / size),
            None => write!(out, "{bytes}"),
        }
    }
}

/// A limit on time, never zero, at most [`Timeout::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timeout(Duration);

impl Timeout {
    /// The longest that may be asked for: thirty days.
    pub const MAX: Duration = Duration::from_secs(30 * 24 * 3600);

    /// From milliseconds; `None` for zero and for more than [`Timeout::MAX`].
    pub const fn from_millis(ms: u64) -> Option<Self> {
        let duration = Duration::from_millis(ms);
        if ms == 0 || duration.as_millis() > Self::MAX.as_millis() { None } else { Some(Self(duration)) }
    }

    /// As a duration.
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// In milliseconds.
    pub fn millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl FromStr for Timeout {
    type Err = UnitError;

    /// Reads `500ms`, `30s`, `5m`, `1h`, `2d`; a bare number is seconds.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (digits, unit) = split(text).ok_or_else(|| UnitError::Duration { text: shorten(text) })?;
        let factor: u64 = match unit {
            "ms" => 1,
            "" | "s" | "sec" => 1000,
            "m" | "min" => 60 * 1000,
            "h" => 3600 * 1000,
            "d" => 24 * 3600 * 1000,
            _ => return Err(UnitError::Duration { text: shorten(text) }),
        };
        let ms = number(digits).and_then(|number| number.checked_mul(factor));
        if ms == Some(0) {
            return Err(UnitError::Zero { what: "a timeout" });
        }
        ms.and_then(Self::from_millis).ok_or_else(|| UnitError::TooLarge { text: shorten(text) })
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.millis();
        match ms {
            _ if ms % 3_600_000 == 0 => write!(out, "{}h", ms / 3_600_000),
            _ if ms % 60_000 == 0 => write!(out, "{}m", ms / 60_000),
            _ if ms % 1000 == 0 => write!(out, "{}s", ms / 1000),
            _ => write!(out, "{ms}ms"),
        }
    }
}

/// How long ago something was used last; zero is any age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Age(Duration);

impl Age {
    /// From days.
    pub const fn from_days(days: u32) -> Self {
        // A u32 of days is far from the end of a u64 of seconds.
        Self(Duration::from_secs(days as u64 * 24 * 3600))
    }

    /// As a duration.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Age {
    type Err = UnitError;

    /// Reads `0`, `90s`, `30m`, `12h`, `30d`, `4w`; a bare number is seconds.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (digits, unit) = split(text).ok_or_else(|| UnitError::Duration { text: shorten(text) })?;
        let factor: u64 = match unit {
            "" | "s" | "sec" => 1,
            "m" | "min" => 60,
            "h" => 3600,
            "d" => 24 * 3600,
            "w" => 7 * 24 * 3600,
            _ => return Err(UnitError::Duration { text: shorten(text) }),
        };
        let seconds = number(digits).and_then(|number| number.checked_mul(factor));
        let seconds = seconds.ok_or_else(|| UnitError::TooLarge { text: shorten(text) })?;
        Ok(Self(Duration::from_secs(seconds)))
    }
}

impl fmt::Display for Age {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let units = [(24 * 3600, "d"), (3600, "h"), (60, "m")];
        match units.iter().find(|(size, _)| seconds > 0 && seconds % size == 0) {
            Some((size, unit)) => write!(out, "{}{unit}", seconds / size),
            None => write!(out, "{seconds}s"),
        }
    }
}

/// How many virtual CPUs, 1 to [`VcpuCount::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VcpuCount(u8);

impl VcpuCount {
    /// The most the guest kernel is built for.
    pub const MAX: u8 = 32;
    /// One.
    pub const ONE: Self = Self(1);

    /// `None` for zero and for more than [`VcpuCount::MAX`].
    pub const fn new(count: u32) -> Option<Self> {
        if count == 0 || count > Self::MAX as u32 {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most MAX, which is a u8")]
        Some(Self(count as u8))
    }

    /// As a number.
    pub const fn get(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Display for VcpuCount {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// Digits, of which there is at least one, and the rest.
fn split(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    (!digits.is_empty()).then_some((digits, unit.trim()))
}

/// What digits say; `None` when it does not fit in 64 bits.
fn number(digits: &str) -> Option<u64> {
    digits.parse().ok()
}

fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!("256M".parse::<Memory>().unwrap().bytes(), 256 * 1024 * 1024);
        assert_eq!("1GiB".parse::<Memory>().unwrap().mib(), 1024);
        assert_eq!("4096".parse::<Memory>().unwrap().bytes(), 4096);
    }

    #[test]
    fn zero_rubbish_and_overflow_are_told_apart() {
        assert_eq!("0M".parse::<Memory>(), Err(UnitError::Zero { what: "a size" }));
        assert!(matches!("M".parse::<Memory>(), Err(UnitError::Size { .. })));
        assert!(matches!("-1M".parse::<Memory>(), Err(UnitError::Size { .. })));
        assert!(matches!("99999999999999T".parse::<Memory>(), Err(UnitError::TooLarge { .. })));
        assert_eq!("0".parse::<Timeout>(), Err(UnitError::Zero { what: "a timeout" }));
        assert!(matches!("99999999999999999999".parse::<Memory>(), Err(UnitError::TooLarge { .. })));
        assert!(matches!("31d".parse::<Timeout>(), Err(UnitError::TooLarge { .. })));
        assert!(matches!("99999999999999999999s".parse::<Timeout>(), Err(UnitError::TooLarge { .. })));
        assert!(matches!("5 parsecs".parse::<Timeout>(), Err(UnitError::Duration { .. })));
    }

    #[test]
    fn no_timeout_is_longer_than_the_longest() {
        assert_eq!("30d".parse::<Timeout>().map(Timeout::duration), Ok(Timeout::MAX));
        assert!(matches!("2592000001ms".parse::<Timeout>(), Err(UnitError::TooLarge { .. })));
        assert_eq!(Timeout::from_millis(2_592_000_999), None);
    }

    #[test]
    fn vcpus_have_both_bounds() {
        assert_eq!(VcpuCount::new(0), None);
        assert_eq!(VcpuCount::new(33), None);
        assert_eq!(VcpuCount::new(32).map(VcpuCount::get), Some(32));
    }

    proptest! {
        #[test]
        fn sizes_survive_being_written_and_read(bytes in 1u64..) {
            let memory = Memory::from_bytes(bytes).unwrap();
            prop_assert_eq!(memory.to_string().parse::<Memory>().unwrap(), memory);
        }

        #[test]
        fn timeouts_survive_being_written_and_read(ms in 1u64..2_592_000_000) {
            let timeout = Timeout::from_millis(ms).unwrap();
            prop_assert_eq!(timeout.to_string().parse::<Timeout>().unwrap(), timeout);
        }

        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let _ = text.parse::<Memory>();
            let _ = text.parse::<Timeout>();
        }

        #[test]
        fn rounding_never_makes_less(bytes in 1u64.., step in 1u64..(1 << 40)) {
            let (memory, step) = (Memory::from_bytes(bytes).unwrap(), Memory::from_bytes(step).unwrap());
            prop_assert!(memory.rounded_up_to(step) >= memory);
        }
    }

    #[test]
    fn ages_are_read_and_written_and_may_be_zero() {
        let read = |text: &str| text.parse::<Age>().unwrap().duration().as_secs();
        assert_eq!(
            (read("0"), read("90"), read("30m"), read("2d"), read("4w")),
            (0, 90, 1800, 172_800, 2_419_200)
        );
        for text in ["30d", "12h", "90s", "0s"] {
            assert_eq!(text.parse::<Age>().unwrap().to_string(), text);
        }
        assert!("soon".parse::<Age>().is_err() && "1y".parse::<Age>().is_err());
        assert!("99999999999999999999d".parse::<Age>().is_err());
    }
}
