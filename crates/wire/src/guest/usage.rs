//! What a guest uses of itself, as the agent's own program prints it: a line `NAME NUMBER` each. All of it is a claim.

/// The argument of the agent's own program ([`super::copy::PROGRAM`]) that prints it.
pub const USAGE: &str = "usage";

/// Lines that are looked at, at most.
const MOST_LINES: usize = 64;

/// What a guest uses; `None` is what it does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Its memory in bytes.
    pub memory_total: Option<u64>,
    /// What programs could still have of that.
    pub memory_available: Option<u64>,
    /// Processes that ran or waited for a disk, on average of the last minute, times a hundred.
    pub load_1_percent: Option<u64>,
    /// Likewise of the last five minutes.
    pub load_5_percent: Option<u64>,
    /// Likewise of the last fifteen minutes.
    pub load_15_percent: Option<u64>,
    /// Processes and threads that there are.
    pub threads: Option<u64>,
    /// The size of its root file system in bytes.
    pub root_total: Option<u64>,
    /// What root could still write there.
    pub root_free: Option<u64>,
}

impl Usage {
    /// The lines.
    pub fn print(&self) -> String {
        let lines =
            self.fields().into_iter().filter_map(|(name, value)| Some(format!("{name} {}\n", value?)));
        lines.collect()
    }

    /// Reads what was printed. What is not known here is passed over.
    pub fn parse(text: &str) -> Self {
        let mut usage = Self::default();
        for line in text.lines().take(MOST_LINES) {
            let Some((name, value)) = line.split_once(' ') else { continue };
            if let Some(field) = usage.field(name) {
                *field = value.parse().ok();
            }
        }
        usage
    }

    fn fields(&self) -> [(&'static str, Option<u64>); 8] {
        [
            ("memory_total", self.memory_total),
            ("memory_available", self.memory_available),
            ("load_1_percent", self.load_1_percent),
            ("load_5_percent", self.load_5_percent),
            ("load_15_percent", self.load_15_percent),
            ("threads", self.threads),
            ("root_total", self.root_total),
            ("root_free", self.root_free),
        ]
    }

    fn field(&mut self, name: &str) -> Option<&mut Option<u64>> {
        Some(match name {
            "memory_total" => &mut self.memory_total,
            "memory_available" => &mut self.memory_available,
            "load_1_percent" => &mut self.load_1_percent,
            "load_5_percent" => &mut self.load_5_percent,
            "load_15_percent" => &mut self.load_15_percent,
            "threads" => &mut self.threads,
            "root_total" => &mut self.root_total,
            "root_free" => &mut self.root_free,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_printed_is_read_and_rubbish_is_passed_over() {
        let usage = Usage {
            memory_total: Some(1),
            memory_available: Some(2),
            load_1_percent: Some(3),
            load_5_percent: Some(4),
            load_15_percent: Some(5),
            threads: Some(6),
            root_total: Some(7),
            root_free: None,
        };
        assert_eq!(Usage::parse(&usage.print()), usage);
        assert_eq!(Usage::parse("later 5\nthreads many\nno number"), Usage::default());
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(text in any::<String>()) {
            Usage::parse(&text);
        }
    }
}
