//! How a detached program in a VM ended, as its runner wrote it down: one JSON object in a file beside its log, there once
//! it is whole, and never changed. Where there is none and the VM has ended, nobody knows.

use crate::record::OutcomeRecord;
use serde::{Deserialize, Serialize};

/// The file's longest text that is read, in bytes: an outcome's cause is a sentence or two.
pub const LONGEST: u64 = 64 * 1024;

/// A program's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecEndRecord {
    /// How it ended.
    pub outcome: OutcomeRecord,
    /// Bytes of its output that were not kept.
    pub truncated_bytes: u64,
    /// When that was known, in nanoseconds since the Unix epoch.
    pub unix_ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlast_model::Outcome;

    #[test]
    fn what_was_written_down_stays_readable() {
        let outcome = OutcomeRecord::from(&Outcome::Exited { code: 3 });
        let record = ExecEndRecord { outcome, truncated_bytes: 5, unix_ns: 7 };
        let text =
            r#"{"outcome":{"kind":"failed","exit_code":3,"signal":null},"truncated_bytes":5,"unix_ns":7}"#;
        assert_eq!(serde_json::to_string(&record).unwrap(), text);
        assert_eq!(serde_json::from_str::<ExecEndRecord>(text).unwrap(), record);
    }
}
