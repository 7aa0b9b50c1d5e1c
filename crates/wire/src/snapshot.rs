//! A snapshot's manifest: what was saved of which VM, on what machine, and the digests of its parts.
//!
//! ```text
//!   DIRECTORY/manifest.json   this          written last
//!   DIRECTORY/machine         devices and memory, in the language of the VMM that wrote them
//!   DIRECTORY/disk            the VM's disk at that moment
//! ```
//!
//! Unlike our other records this one is read strictly: a snapshot is kept for long, carried about, and what is restored
//! from it is believed afterwards. It is only what this reader would itself write, to the byte, and its checksum is over
//! that. Whether the parts are what it says, and whether the machine is still the same, is the reader's question.

use crate::template::TemplateIngredients;
use crate::vm::VmSpecRecord;
use outlast_model::limit::SNAPSHOT_MANIFEST_BYTES;
use outlast_model::{SnapshotId, SnapshotName, VmId, VmSpec};
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::str::FromStr;
use thiserror::Error;

/// The version of this format that is written, and the only one that is read.
pub const FORMAT: u32 = 1;

/// SHA-256 of bytes, as 64 lower-case hexadecimal digits. Nothing is hashed in this crate.
pub type Sha256 = fn(&[u8]) -> String;

/// What a snapshot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotManifest {
    /// Its id.
    pub id: SnapshotId,
    /// The name it was given.
    pub name: SnapshotName,
    /// The VM it is of: it is restored to no other.
    pub vm: VmId,
    /// When its vCPUs stood still, in nanoseconds since the Unix epoch.
    pub taken_unix_ns: u64,
    /// What the VM was to be.
    pub spec: VmSpec,
    /// The machine it ran on: everything that must be equal for its state to mean the same. No warm-up is in it.
    pub machine: TemplateIngredients,
    /// The devices and the memory.
    pub machine_part: SnapshotPart,
    /// The disk.
    pub disk_part: SnapshotPart,
}

/// A file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotPart {
    /// 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Its length in bytes; holes count.
    pub bytes: u64,
}

/// Bytes are not a snapshot's manifest.
#[derive(Debug, Error)]
pub enum SnapshotManifestError {
    /// No manifest is so long.
    #[error("it is {bytes} bytes long, and no manifest has more than {SNAPSHOT_MANIFEST_BYTES}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not the JSON that was expected.
    #[error("it does not parse")]
    Json(#[from] serde_json::Error),
    /// Written by another outlast.
    #[error("it is of format {0}, and format {FORMAT} is the one that is known here")]
    Format(u32),
    /// Its checksum is that of other bytes.
    #[error("its checksum is not its own")]
    Checksum,
    /// It says nothing else than ours would, and otherwise.
    #[error("it is not written as outlast writes it")]
    Form,
    /// A value that none can have.
    #[error("its {field} is not a possible value")]
    Field {
        /// Which field.
        field: &'static str,
    },
}

/// As it stands on disk.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    format: u32,
    id: String,
    name: String,
    vm: String,
    taken_unix_ns: u64,
    spec: VmSpecRecord,
    machine: TemplateIngredients,
    parts: Parts,
    /// Of everything, with this field empty.
    sha256: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    machine: SnapshotPart,
    disk: SnapshotPart,
}

impl SnapshotManifest {
    /// The text of the file.
    ///
    /// # Errors
    /// [`SnapshotManifestError::Field`] and [`SnapshotManifestError::TooLong`] for what [`Self::parse`] would refuse.
    pub fn encode(&self, sha256: Sha256) -> Result<Vec<u8>, SnapshotManifestError> {
        must_be_digests(&self.machine_part, &self.disk_part)?;
        let mut record = Record {
            format: FORMAT,
            id: self.id.to_string(),
            name: self.name.to_string(),
            vm: self.vm.to_string(),
            taken_unix_ns: self.taken_unix_ns,
            spec: VmSpecRecord::from(&self.spec),
            machine: self.machine.clone(),
            parts: Parts { machine: self.machine_part.clone(), disk: self.disk_part.clone() },
            sha256: String::new(),
        };
        record.sha256 = checksum(&record, sha256)?;
        let text = written(&record)?;
        must_be_short(&text)?;
        Ok(text)
    }

    /// Reads the text of the file.
    ///
    /// # Errors
    /// [`SnapshotManifestError`] says what it is instead.
    pub fn parse(text: &[u8], sha256: Sha256) -> Result<Self, SnapshotManifestError> {
        /// Read first: another format need not parse as ours.
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        must_be_short(text)?;
        let Format { format } = serde_json::from_slice(text)?;
        if format != FORMAT {
            return Err(SnapshotManifestError::Format(format));
        }
        let mut record: Record = serde_json::from_slice(text)?;
        // Order matters: whatever was changed, it is the checksum that says so.
        let said = std::mem::take(&mut record.sha256);
        if checksum(&record, sha256)? != said {
            return Err(SnapshotManifestError::Checksum);
        }
        record.sha256 = said;
        if written(&record)? != text {
            return Err(SnapshotManifestError::Form);
        }
        Self::checked(record)
    }

    fn checked(record: Record) -> Result<Self, SnapshotManifestError> {
        let Parts { machine: machine_part, disk: disk_part } = record.parts;
        must_be_digests(&machine_part, &disk_part)?;
        let spec =
            VmSpec::try_from(&record.spec).map_err(|_| SnapshotManifestError::Field { field: "spec" })?;
        // The same value once more, or the VM's spec is compared with something that was not written.
        if VmSpecRecord::from(&spec) != record.spec {
            return Err(SnapshotManifestError::Field { field: "spec" });
        }
        Ok(Self {
            id: exactly("id", &record.id)?,
            name: exactly("name", &record.name)?,
            vm: exactly("vm", &record.vm)?,
            taken_unix_ns: record.taken_unix_ns,
            spec,
            machine: record.machine,
            machine_part,
            disk_part,
        })
    }
}

fn written(record: &Record) -> Result<Vec<u8>, SnapshotManifestError> {
    let mut text = serde_json::to_vec_pretty(record)?;
    text.push(b'\n');
    Ok(text)
}

/// Of a record whose own checksum is empty.
fn checksum(record: &Record, sha256: Sha256) -> Result<String, SnapshotManifestError> {
    Ok(sha256(&written(record)?))
}

fn must_be_short(text: &[u8]) -> Result<(), SnapshotManifestError> {
    let bytes = text.len();
    if bytes > SNAPSHOT_MANIFEST_BYTES { Err(SnapshotManifestError::TooLong { bytes }) } else { Ok(()) }
}

fn must_be_digests(machine: &SnapshotPart, disk: &SnapshotPart) -> Result<(), SnapshotManifestError> {
    let is_digest =
        |text: &str| text.len() == 64 && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    for (field, part) in [("machine's checksum", machine), ("disk's checksum", disk)] {
        if !is_digest(&part.sha256) {
            return Err(SnapshotManifestError::Field { field });
        }
    }
    Ok(())
}

/// A value that is written only in this way.
fn exactly<T: FromStr + Display>(field: &'static str, text: &str) -> Result<T, SnapshotManifestError> {
    let value: T = text.parse().map_err(|_| SnapshotManifestError::Field { field })?;
    if value.to_string() == text { Ok(value) } else { Err(SnapshotManifestError::Field { field }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlast_model::unit::{Memory, VcpuCount};
    use outlast_model::{DiskFormat, DiskSpec};
    use proptest::prelude::*;

    /// No SHA-256, but of the same form, and another for other bytes as a rule.
    fn hash(bytes: &[u8]) -> String {
        let fold = |seed: u64| {
            bytes.iter().fold(seed, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3).rotate_left(5)
            })
        };
        [fold(1), fold(2), fold(3), fold(4)].map(|part| format!("{part:016x}")).concat()
    }

    fn manifest() -> SnapshotManifest {
        let mib = |count| Memory::from_mib(count).unwrap();
        let disk = DiskSpec::new(DiskFormat::Qcow2, mib(1024)).unwrap();
        SnapshotManifest {
            id: SnapshotId::from_parts(1_700_000_000_000, 5),
            name: "before-upgrade".parse().unwrap(),
            vm: VmId::from_parts(1_600_000_000_000, 7),
            taken_unix_ns: 1_700_000_000_123_456_789,
            spec: VmSpec::new("base".to_owned(), VcpuCount::new(1).unwrap(), mib(256), disk).unwrap(),
            machine: TemplateIngredients {
                generation: 1,
                image: "base".to_owned(),
                image_digest: "aa".repeat(32),
                initramfs_digest: "bb".repeat(32),
                command_line: "console=ttyS0".to_owned(),
                backend: "qemu".to_owned(),
                vmm_digest: "cc".repeat(32),
                topology: "q35 1".to_owned(),
                accelerator: "tcg".to_owned(),
                cpu_model: "max".to_owned(),
                host_cpu: "emulated".to_owned(),
                vcpus: 1,
                memory: 256 << 20,
                warm_up: Vec::new(),
                lean_kernel: None,
            },
            machine_part: SnapshotPart { sha256: "dd".repeat(32), bytes: 70_000_000 },
            disk_part: SnapshotPart { sha256: "ee".repeat(32), bytes: 1 << 30 },
        }
    }

    /// What is written here today is read by another version tomorrow, or refused by its number.
    #[test]
    fn the_format_is_frozen() {
        let text = manifest().encode(hash).unwrap();
        insta::assert_snapshot!("snapshot_manifest_1", String::from_utf8(text.clone()).unwrap());
        assert_eq!(SnapshotManifest::parse(&text, hash).unwrap(), manifest());
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let text = manifest().encode(hash).unwrap();
        for at in 0..text.len() {
            for bit in [0x01, 0x20] {
                let mut changed = text.clone();
                changed[at] ^= bit;
                assert!(SnapshotManifest::parse(&changed, hash).is_err(), "byte {at} is not missed");
            }
        }
    }

    #[test]
    fn what_says_the_same_in_other_words_is_refused() {
        let text = String::from_utf8(manifest().encode(hash).unwrap()).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let compact = serde_json::to_vec(&value).unwrap();
        assert!(matches!(SnapshotManifest::parse(&compact, hash), Err(SnapshotManifestError::Form)));
        // In a part whose other readers pass unknown fields over.
        let more = text.replace("\"generation\": 1,", "\"generation\": 1,\n    \"unknown\": 1,");
        assert!(matches!(SnapshotManifest::parse(more.as_bytes(), hash), Err(SnapshotManifestError::Form)));
        let twice = text.replace("\"format\": 1,", "\"format\": 1,\n  \"format\": 1,");
        assert!(matches!(
            SnapshotManifest::parse(twice.as_bytes(), hash),
            Err(SnapshotManifestError::Json(_))
        ));
    }

    #[test]
    fn another_format_is_told_by_its_number_and_a_flood_by_its_length() {
        let newer = br#"{"format": 2, "whatever": true}"#;
        assert!(matches!(SnapshotManifest::parse(newer, hash), Err(SnapshotManifestError::Format(2))));
        let flood = vec![b' '; SNAPSHOT_MANIFEST_BYTES + 1];
        assert!(matches!(SnapshotManifest::parse(&flood, hash), Err(SnapshotManifestError::TooLong { .. })));
    }

    /// Even with a checksum that is right: whoever can write one is not believed for it.
    #[test]
    fn values_that_none_can_have_are_refused() {
        let with = |change: fn(&mut Record)| {
            let text = manifest().encode(hash).unwrap();
            let mut record: Record = serde_json::from_slice(&text).unwrap();
            change(&mut record);
            record.sha256 = String::new();
            record.sha256 = checksum(&record, hash).unwrap();
            SnapshotManifest::parse(&written(&record).unwrap(), hash)
        };
        let changes: [fn(&mut Record); 7] = [
            |record| record.id = record.id.to_uppercase(),
            |record| record.name = "../../etc".to_owned(),
            |record| record.vm = "x".to_owned(),
            |record| record.spec.memory = 1,
            |record| record.spec.disk.format = "vmdk".to_owned(),
            |record| record.parts.disk.sha256 = "EE".repeat(32),
            |record| record.parts.machine.sha256 = String::new(),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let refused = with(change);
            assert!(matches!(refused, Err(SnapshotManifestError::Field { .. })), "{number}: {refused:?}");
        }
        with(|_| {}).unwrap();
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = SnapshotManifest::parse(&bytes, hash);
        }

        #[test]
        fn what_is_accepted_is_written_the_same(at in 0usize..1024, byte: u8) {
            let mut text = manifest().encode(hash).unwrap();
            if let Some(place) = text.get_mut(at) {
                *place = byte;
            }
            if let Ok(read) = SnapshotManifest::parse(&text, hash) {
                prop_assert_eq!(read.encode(hash).unwrap(), text);
            }
        }
    }
}
