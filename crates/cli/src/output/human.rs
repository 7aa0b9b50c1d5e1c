//! Sizes, durations and times as people read them. Pure.

use std::time::Duration;

/// Bytes, in the largest unit in which they are at least one.
pub(crate) fn bytes(bytes: u64) -> String {
    let units = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, size)| bytes >= *size) {
        Some((unit, size)) => {
            // Tenths, without a detour over floating point.
            let tenths = bytes / (size / 10).max(1);
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

/// A duration, roughly: two digits are enough to know.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..1 => format!("{} ms", duration.as_millis()),
        1..10 => format!("{}.{} s", seconds, duration.subsec_millis() / 100),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// How long ago a moment was; both in nanoseconds since the Unix epoch.
pub(crate) fn ago(then: u64, now: u64) -> String {
    format!("{} ago", duration(Duration::from_nanos(now.saturating_sub(then))))
}

/// A moment in UTC, as RFC 3339 writes it, to the second.
pub(crate) fn utc(unix_ns: u64) -> String {
    let seconds = unix_ns / 1_000_000_000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day of a number of days since 1970-01-01 (Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", civil_from_days, for days that are not negative).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

/// A command on one line, shortened, with nothing in it that a terminal would obey.
pub(crate) fn command(argv: &[String], most: usize) -> String {
    let text: String = argv.join(" ").chars().flat_map(visible).collect();
    if text.chars().count() <= most {
        return text;
    }
    let mut short: String = text.chars().take(most.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// Lines as they are, with nothing in them that a terminal would obey.
pub(crate) fn lines(text: &str) -> String {
    text.chars().flat_map(|c| if c == '\n' { vec![c] } else { visible(c) }).collect()
}

fn visible(c: char) -> Vec<char> {
    if c.is_control() { c.escape_debug().collect() } else { vec![c] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_short() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(256 << 20), "256.0 MiB");
        assert_eq!(duration(Duration::from_millis(250)), "250 ms");
        assert_eq!(duration(Duration::from_millis(1250)), "1.2 s");
        assert_eq!(duration(Duration::from_secs(3599)), "59 min");
        assert_eq!(duration(Duration::from_secs(400_000)), "4 days");
        assert_eq!(ago(5, 3), "0 ms ago");
    }

    #[test]
    fn moments_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400_000_000_000), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_700_000_000_000_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(utc(4_102_444_799_000_000_000), "2099-12-31T23:59:59Z");
    }

    #[test]
    fn a_command_cannot_write_to_the_terminal() {
        let argv = ["a".to_owned(), "\u{1b}[2J".to_owned()];
        assert_eq!(command(&argv, 40), "a \\u{1b}[2J");
        assert_eq!(lines("a\u{1b}[2J\r\nb"), "a\\u{1b}[2J\\r\nb");
        assert_eq!(command(&["x".repeat(50)], 10).chars().count(), 10);
    }
}
