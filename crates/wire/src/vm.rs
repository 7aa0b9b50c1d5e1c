//! What a VM is to be, written down: in the store, in `vm show --spec`, and for whoever keeps such files.

use outlast_model::unit::{Memory, VcpuCount};
use outlast_model::vm_spec::VmSpecError;
use outlast_model::{DiskFormat, DiskSpec, VmSpec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

/// A [`VmSpec`], written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpecRecord {
    /// The image's name.
    pub image: String,
    /// vCPUs.
    pub vcpus: u32,
    /// The machine's memory in bytes.
    pub memory: u64,
    /// Its own disk.
    pub disk: DiskRecord,
}

/// A [`DiskSpec`], written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRecord {
    /// `raw` or `qcow2`.
    pub format: String,
    /// Its size as the guest sees it, in bytes.
    pub size: u64,
}

/// Where each value of a spec came from, by its name there (`memory`, `disk.size`): `command line`, a file's name, or
/// `default`.
pub type Origins = BTreeMap<String, String>;

/// A record that no VM can be like.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadVmSpec {
    /// A field is out of range, or a word that is not one of its words.
    #[error("its {field} is not a possible value")]
    Field {
        /// Which field.
        field: &'static str,
    },
    /// The values do not pass the checks.
    #[error(transparent)]
    Spec(#[from] VmSpecError),
}

impl From<&VmSpec> for VmSpecRecord {
    fn from(spec: &VmSpec) -> Self {
        let disk = spec.disk();
        Self {
            image: spec.image().to_owned(),
            vcpus: spec.vcpus().get(),
            memory: spec.memory().bytes(),
            disk: DiskRecord { format: disk.format().name().to_owned(), size: disk.size().bytes() },
        }
    }
}

impl TryFrom<&VmSpecRecord> for VmSpec {
    type Error = BadVmSpec;

    fn try_from(record: &VmSpecRecord) -> Result<Self, BadVmSpec> {
        let bad = |field| BadVmSpec::Field { field };
        let vcpus = VcpuCount::new(record.vcpus).ok_or(bad("vcpus"))?;
        let memory = Memory::from_bytes(record.memory).ok_or(bad("memory"))?;
        let format: DiskFormat = record.disk.format.parse().map_err(|_| bad("disk format"))?;
        let size = Memory::from_bytes(record.disk.size).ok_or(bad("disk size"))?;
        Ok(Self::new(record.image.clone(), vcpus, memory, DiskSpec::new(format, size)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_spec_survives_being_written_and_read(
            vcpus in 1u32..16, memory in 1u64..4096, size in 64u64..100_000, qcow2: bool,
        ) {
            let format = if qcow2 { DiskFormat::Qcow2 } else { DiskFormat::Raw };
            let disk = DiskSpec::new(format, Memory::from_mib(size).unwrap()).unwrap();
            let (vcpus, memory) = (VcpuCount::new(vcpus).unwrap(), Memory::from_mib(memory).unwrap());
            let spec = VmSpec::new("base".to_owned(), vcpus, memory, disk).unwrap();
            let text = serde_json::to_string(&VmSpecRecord::from(&spec)).unwrap();
            let record: VmSpecRecord = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(VmSpec::try_from(&record), Ok(spec));
        }

        #[test]
        fn what_cannot_be_is_refused(vcpus: u32, memory: u64, size: u64, format in "raw|qcow2|vmdk") {
            let record = VmSpecRecord { image: String::new(), vcpus, memory, disk: DiskRecord { format, size } };
            if let Ok(spec) = VmSpec::try_from(&record) {
                prop_assert_eq!(VmSpecRecord::from(&spec), record);
            }
        }
    }
}
