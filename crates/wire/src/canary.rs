//! What a canary boot found out about an accelerator, remembered in `LIBRARY/canary/`.

use serde::{Deserialize, Serialize};

/// The version of this format that is written and read.
pub const VERSION: u32 = 1;

/// A decided canary. One that could not be tried is not written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryRecord {
    /// Format version ([`VERSION`]).
    pub version: u32,
    /// The boot of the host it is good for.
    pub boot_id: String,
    /// The host's kernel release.
    pub kernel: String,
    /// Digest of the VMM root.
    pub vmm_digest: String,
    /// Whether a guest booted.
    pub usable: bool,
    /// Why not.
    pub reason: String,
    /// The incarnation that tried, whose evidence says more.
    pub incarnation: String,
    /// When, in nanoseconds since the Unix epoch.
    pub unix_ns: u64,
    /// The result may be the fault of a busy host, and is good until CLOCK_BOOTTIME is this, in nanoseconds; absent
    /// when it is good for as long as this boot of the host lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_monotonic_ns: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_frozen() {
        let record = CanaryRecord {
            version: VERSION,
            boot_id: "b".to_owned(),
            kernel: "6.1".to_owned(),
            vmm_digest: "d".to_owned(),
            usable: false,
            reason: "timed out".to_owned(),
            incarnation: "i".to_owned(),
            unix_ns: 1,
            until_monotonic_ns: None,
        };
        let text = r#"{"version":1,"boot_id":"b","kernel":"6.1","vmm_digest":"d","usable":false,"reason":"timed out","incarnation":"i","unix_ns":1}"#;
        assert_eq!(serde_json::to_string(&record).unwrap(), text);
        assert_eq!(serde_json::from_str::<CanaryRecord>(text).unwrap(), record);
    }
}
