//! What a VM is to be: its name, its machine and its disk, checked.

use crate::limit::{DISK_LEAST, DISK_MOST, NAME_BYTES};
use crate::unit::{Memory, VcpuCount};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// A text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "'{text}' is not a name (1 to {NAME_BYTES} lower-case letters, digits and dashes, no dash at either end)"
)]
pub struct NameError {
    text: String,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                if is_label(text) {
                    return Ok(Self(text.to_owned()));
                }
                Err(NameError { text: text.chars().take(NAME_BYTES + 1).collect() })
            }
        }
    };
}

name!(
    /// The name of a VM, and the host name of its guest: an RFC 1123 label in lower case.
    VmName
);
name!(
    /// The name of a snapshot of a VM; the rules are those of [`VmName`].
    SnapshotName
);

fn is_label(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=NAME_BYTES).contains(&text.len())
        && text.bytes().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// How a VM's disk lies on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiskFormat {
    /// Byte for byte, with holes where nothing was written.
    Raw,
    /// QEMU's own format.
    Qcow2,
}

/// A text names no format.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{text}' is not a disk format (raw or qcow2)")]
pub struct UnknownFormat {
    text: String,
}

impl DiskFormat {
    /// All formats.
    pub const ALL: &[Self] = &[Self::Raw, Self::Qcow2];

    /// The word stored and shown, and QEMU's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

impl fmt::Display for DiskFormat {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

impl FromStr for DiskFormat {
    type Err = UnknownFormat;
    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        let found = Self::ALL.iter().copied().find(|format| format.name() == text);
        found.ok_or_else(|| UnknownFormat { text: text.chars().take(40).collect() })
    }
}

/// A VM cannot be like this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum VmSpecError {
    /// Sizes come in whole mebibytes.
    #[error("{what} of {size} is not a whole number of MiB")]
    NotWhole {
        /// Which size: `a disk`, `memory`.
        what: &'static str,
        /// What was asked for.
        size: Memory,
    },
    /// A disk is smaller than a file system needs.
    #[error("a disk of {size} is too small (at least {DISK_LEAST})")]
    DiskTooSmall {
        /// What was asked for.
        size: Memory,
    },
    /// A disk is larger than any may be.
    #[error("a disk of {size} is too large (at most {DISK_MOST})")]
    DiskTooLarge {
        /// What was asked for.
        size: Memory,
    },
}

/// A VM's own disk, on which everything it writes stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DiskSpec {
    format: DiskFormat,
    size: Memory,
}

impl DiskSpec {
    /// A disk of `size` as the guest sees it.
    ///
    /// # Errors
    /// [`VmSpecError`] unless the size is whole mebibytes, from [`DISK_LEAST`] to [`DISK_MOST`].
    pub fn new(format: DiskFormat, size: Memory) -> Result<Self, VmSpecError> {
        if size < DISK_LEAST {
            return Err(VmSpecError::DiskTooSmall { size });
        }
        if size > DISK_MOST {
            return Err(VmSpecError::DiskTooLarge { size });
        }
        whole("a disk", size)?;
        Ok(Self { format, size })
    }

    /// How it lies on the host.
    pub const fn format(&self) -> DiskFormat {
        self.format
    }

    /// Its size as the guest sees it.
    pub const fn size(&self) -> Memory {
        self.size
    }
}

/// A VM as it will be started each time. Every value is resolved; nobody reads a setting later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmSpec {
    image: String,
    vcpus: VcpuCount,
    memory: Memory,
    disk: DiskSpec,
}

impl VmSpec {
    /// A machine with `memory` (the machine's, not a program's) that boots `image` over its own disk. Whether the image
    /// is there, and content with so little memory, is not asked here.
    ///
    /// # Errors
    /// [`VmSpecError::NotWhole`] unless the memory is whole mebibytes.
    pub fn new(image: String, vcpus: VcpuCount, memory: Memory, disk: DiskSpec) -> Result<Self, VmSpecError> {
        whole("memory", memory)?;
        Ok(Self { image, vcpus, memory, disk })
    }

    /// The image's name.
    pub fn image(&self) -> &str {
        &self.image
    }

    /// vCPUs.
    pub const fn vcpus(&self) -> VcpuCount {
        self.vcpus
    }

    /// The machine's memory.
    pub const fn memory(&self) -> Memory {
        self.memory
    }

    /// Its own disk.
    pub const fn disk(&self) -> DiskSpec {
        self.disk
    }
}

fn whole(what: &'static str, size: Memory) -> Result<(), VmSpecError> {
    if size.bytes() % Memory::MIB == 0 { Ok(()) } else { Err(VmSpecError::NotWhole { what, size }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The rule of RFC 1123 in other words: what is left between letters and digits is dashes.
        #[test]
        fn names_are_labels(text in "[-a-cA-C0-2_. é]{0,66}|[-a-c0]{60,66}|-?[a-c]{1,3}-?") {
            let words_and_dashes = !text.is_empty()
                && text.len() < 64
                && text.trim_matches('-') == text
                && text.split('-').all(|word| word.chars().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase()));
            prop_assert_eq!(text.parse::<VmName>().is_ok(), words_and_dashes, "{}", text);
            if let Ok(name) = text.parse::<VmName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }

        #[test]
        fn no_text_panics(text in ".{0,90}") {
            let _ = text.parse::<VmName>();
            let _ = text.parse::<SnapshotName>();
            let _ = text.parse::<DiskFormat>();
        }

        #[test]
        fn a_disk_is_refused_or_as_asked_for(bytes in 1u64..(32 << 40), mib: bool) {
            let size = Memory::from_bytes(if mib { (bytes >> 20).max(1) << 20 } else { bytes }).unwrap();
            let whole = size.bytes() % (1 << 20) == 0;
            let fits = size.bytes() >= 64 << 20 && size.bytes() <= 16 << 40;
            match DiskSpec::new(DiskFormat::Raw, size) {
                Ok(disk) => prop_assert!(whole && fits && disk.size() == size),
                Err(_) => prop_assert!(!whole || !fits),
            }
        }
    }

    #[test]
    fn refusals_say_the_numbers() {
        let disk = |mib| DiskSpec::new(DiskFormat::Qcow2, Memory::from_mib(mib).unwrap());
        assert_eq!(disk(1).unwrap_err().to_string(), "a disk of 1M is too small (at least 64M)");
        let large = disk(16 * 1024 * 1024 + 1).unwrap_err().to_string();
        assert_eq!(large, "a disk of 16777217M is too large (at most 16T)");
        assert!(disk(64).is_ok() && disk(16 * 1024 * 1024).is_ok());
        let odd = Memory::from_bytes(Memory::MIB * 100 + 1).unwrap();
        let odd = VmSpec::new("base".to_owned(), VcpuCount::ONE, odd, disk(64).unwrap());
        assert_eq!(odd.unwrap_err().to_string(), "memory of 104857601 is not a whole number of MiB");
        assert!("qcow3".parse::<DiskFormat>().is_err());
        for format in DiskFormat::ALL {
            assert_eq!(format.name().parse(), Ok(*format));
        }
    }
}
