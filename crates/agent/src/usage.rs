//! What this guest uses of itself, printed for the host: the agent's own program run as a program of the guest. What
//! cannot be learned is left out.

use outlast_wire::guest::usage::Usage;

/// What is used at this moment.
pub(crate) fn look() -> Usage {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let mut usage = of(&read("/proc/meminfo"), &read("/proc/loadavg"));
    if let Ok(root) = rustix::fs::statvfs("/") {
        usage.root_total = root.f_blocks.checked_mul(root.f_frsize);
        usage.root_free = root.f_bavail.checked_mul(root.f_frsize);
    }
    usage
}

/// What meminfo and loadavg say (proc(5)).
fn of(memory: &str, load: &str) -> Usage {
    let kib = |name: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    };
    let mut loads = load.split_whitespace();
    let mut percent = || loads.next().and_then(hundredths);
    let averages = [percent(), percent(), percent()];
    let threads = loads.next().and_then(|running| running.split_once('/')?.1.parse().ok());
    Usage {
        memory_total: kib("MemTotal"),
        memory_available: kib("MemAvailable"),
        load_1_percent: averages[0],
        load_5_percent: averages[1],
        load_15_percent: averages[2],
        threads,
        root_total: None,
        root_free: None,
    }
}

/// `1.07` is 107.
fn hundredths(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.')?;
    let part = part.get(..2)?.parse::<u64>().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(100)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let memory = "MemTotal:         235 kB\nMemFree: 1 kB\nMemAvailable:     117 kB\n";
        let usage = of(memory, "1.07 0.50 12.00 2/61 345\n");
        assert_eq!((usage.memory_total, usage.memory_available), (Some(235 * 1024), Some(117 * 1024)));
        assert_eq!((usage.load_1_percent, usage.load_5_percent), (Some(107), Some(50)));
        assert_eq!((usage.load_15_percent, usage.threads), (Some(1200), Some(61)));
        assert_eq!(of("rubbish", "x 1.2"), Usage::default());
        assert!(look().memory_total.is_some() && look().root_total.is_some());
    }
}
