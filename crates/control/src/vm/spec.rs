//! From what was written, by whoever wrote it where, to a checked spec that remembers it.
//!
//! ```text
//!   command line   over   file (`spec_file`)   over   defaults   ──►   VmSpec + origins
//! ```
//!
//! Everything is text until here, so that the same words mean the same on the command line and in a file. Whether the
//! image is there, and content with so little memory, is asked of the library, not here.

use outlast_model::near::near;
use outlast_model::unit::{Memory, UnitError, VcpuCount};
use outlast_model::vm_spec::{NameError, UnknownFormat, VmSpecError};
use outlast_model::{DiskSpec, VmName, VmSpec};
use outlast_wire::exit_code::FailureKind;
use outlast_wire::vm::Origins;
use std::collections::BTreeMap;
use thiserror::Error;

/// One value of a spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// The VM's name.
    Name,
    /// The image's.
    Image,
    /// Virtual CPUs.
    Vcpus,
    /// The machine's memory.
    Memory,
    /// The disk's size as the guest sees it.
    DiskSize,
    /// How the disk lies on the host.
    DiskFormat,
}

impl Field {
    /// All of them.
    pub const ALL: &[Self] =
        &[Self::Name, Self::Image, Self::Vcpus, Self::Memory, Self::DiskSize, Self::DiskFormat];

    /// Its name in files and in `vm show --spec`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Image => "image",
            Self::Vcpus => "vcpus",
            Self::Memory => "memory",
            Self::DiskSize => "disk.size",
            Self::DiskFormat => "disk.format",
        }
    }

    /// The field of that name; `disk` alone is its size.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = if name == "disk" { "disk.size" } else { name };
        Self::ALL.iter().copied().find(|field| field.name() == name)
    }

    /// What it is when nobody says anything; a name and an image must be said.
    const fn default(self) -> Option<&'static str> {
        match self {
            Self::Name | Self::Image => None,
            Self::Vcpus => Some("1"),
            Self::Memory => Some("256M"),
            Self::DiskSize => Some("1G"),
            Self::DiskFormat => Some("qcow2"),
        }
    }
}

/// A value as it was written, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The text.
    pub text: String,
    /// `command line`, or a file's name and line.
    pub origin: String,
}

/// What one place says of a VM.
pub type Words = BTreeMap<Field, Said>;

/// What a VM is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Its name.
    pub name: VmName,
    /// Its spec.
    pub spec: VmSpec,
    /// Where each value came from.
    pub origins: Origins,
}

/// Why nothing can be like what was written. Nothing was made.
#[derive(Debug, Error)]
pub enum SpecError {
    /// A value that must be said is not.
    #[error("the VM's {} is not said", field.name())]
    Missing {
        /// Which.
        field: Field,
    },
    /// No VM can be called so.
    #[error("{origin}")]
    Name {
        /// Where it was written.
        origin: String,
        /// Why not.
        source: NameError,
    },
    /// Not a size.
    #[error("{origin}: {}", field.name())]
    Size {
        /// Which.
        field: Field,
        /// Where it was written.
        origin: String,
        /// Why not.
        source: UnitError,
    },
    /// Not a number of vCPUs.
    #[error("{origin}: vcpus: '{text}' is not a number of vCPUs (1 to {})", VcpuCount::MAX)]
    Vcpus {
        /// Where it was written.
        origin: String,
        /// What was written.
        text: String,
    },
    /// Not a format.
    #[error("{origin}: disk.format")]
    Format {
        /// Where it was written.
        origin: String,
        /// Why not.
        source: UnknownFormat,
    },
    /// The values do not pass the checks.
    #[error("{origin}")]
    Checks {
        /// Where the value was written.
        origin: String,
        /// Why not.
        source: VmSpecError,
    },
    /// There is no such field.
    #[error("{origin}: there is no '{field}' (there are: {})", names())]
    UnknownField {
        /// Where it was written.
        origin: String,
        /// What was written.
        field: String,
        /// What it may have been meant to be.
        near: Option<&'static str>,
    },
}

impl SpecError {
    /// That `field` is none.
    pub(crate) fn unknown(field: &str, origin: String) -> Self {
        let like = near(field, Field::ALL.iter().map(|field| field.name()), 1).first().copied();
        let near = like.and_then(Field::from_name).map(Field::name);
        Self::UnknownField { origin, field: field.chars().take(40).collect(), near }
    }

    /// The kind, from which exit codes follow.
    pub fn kind(&self) -> FailureKind {
        FailureKind::BadInput
    }

    /// The next thing to write, where it is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownField { near: Some(near), .. } => Some(format!("did you mean '{near}'?")),
            Self::Missing { field: Field::Image } => {
                Some("name one with --image, as `outlast image ls` does".to_owned())
            }
            Self::Missing { .. }
            | Self::Name { .. }
            | Self::Size { .. }
            | Self::Vcpus { .. }
            | Self::Format { .. }
            | Self::Checks { .. }
            | Self::UnknownField { near: None, .. } => None,
        }
    }
}

fn names() -> String {
    Field::ALL.iter().map(|field| field.name()).collect::<Vec<_>>().join(", ")
}

/// Makes one spec of what several places say; those named first win.
///
/// # Errors
/// [`SpecError`] for the first value that cannot be.
pub fn resolve(places: &[&Words]) -> Result<Resolved, SpecError> {
    let mut origins = Origins::new();
    let mut said = |field: Field| -> Result<Said, SpecError> {
        let written = places.iter().find_map(|words| words.get(&field)).cloned();
        let default =
            || field.default().map(|text| Said { text: text.to_owned(), origin: "default".to_owned() });
        let said = written.or_else(default).ok_or(SpecError::Missing { field })?;
        origins.insert(field.name().to_owned(), said.origin.clone());
        Ok(said)
    };
    let Said { text, origin } = said(Field::Name)?;
    let name = text.parse().map_err(|source| SpecError::Name { origin, source })?;
    let image = said(Field::Image)?.text;
    let vcpus = vcpus(said(Field::Vcpus)?)?;
    let (memory, of_memory) = size(Field::Memory, said(Field::Memory)?)?;
    let (disk_size, of_disk) = size(Field::DiskSize, said(Field::DiskSize)?)?;
    let Said { text, origin } = said(Field::DiskFormat)?;
    let format = text.parse().map_err(|source| SpecError::Format { origin, source })?;
    let checks = |origin| move |source| SpecError::Checks { origin, source };
    let disk = DiskSpec::new(format, disk_size).map_err(checks(of_disk))?;
    let spec = VmSpec::new(image, vcpus, memory, disk).map_err(checks(of_memory))?;
    Ok(Resolved { name, spec, origins })
}

fn vcpus(said: Said) -> Result<VcpuCount, SpecError> {
    let Said { text, origin } = said;
    let count = text.parse().ok().and_then(VcpuCount::new);
    count.ok_or(SpecError::Vcpus { origin, text: text.chars().take(40).collect() })
}

fn size(field: Field, said: Said) -> Result<(Memory, String), SpecError> {
    let Said { text, origin } = said;
    match text.parse() {
        Ok(size) => Ok((size, origin)),
        Err(source) => Err(SpecError::Size { field, origin, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlast_model::DiskFormat;

    fn words(origin: &str, values: &[(Field, &str)]) -> Words {
        let said = |text: &str| Said { text: text.to_owned(), origin: origin.to_owned() };
        values.iter().map(|(field, text)| (*field, said(text))).collect()
    }

    #[test]
    fn what_is_named_first_wins_and_is_remembered() {
        let line = words("command line", &[(Field::Name, "web"), (Field::Memory, "512M")]);
        let file =
            words("web.yaml:2", &[(Field::Image, "base"), (Field::Memory, "128M"), (Field::DiskSize, "2G")]);
        let Resolved { name, spec, origins } = resolve(&[&line, &file]).unwrap();
        assert_eq!((name.as_str(), spec.image(), spec.vcpus().get()), ("web", "base", 1));
        assert_eq!((spec.memory().mib(), spec.disk().size().mib()), (512, 2048));
        assert_eq!(spec.disk().format(), DiskFormat::Qcow2);
        let origin = |field: Field| origins[field.name()].as_str();
        assert_eq!((origin(Field::Memory), origin(Field::DiskSize)), ("command line", "web.yaml:2"));
        assert_eq!(origin(Field::DiskFormat), "default");
        assert_eq!(origins.len(), Field::ALL.len());
    }

    #[test]
    fn what_cannot_be_is_told_with_its_place() {
        let refused = |field, text| {
            let line = words("command line", &[(Field::Name, "web"), (Field::Image, "base")]);
            let bad = words("web.toml", &[(field, text)]);
            crate::error::chain(&resolve(&[&bad, &line]).unwrap_err())
        };
        assert_eq!(refused(Field::DiskSize, "1M"), "web.toml: a disk of 1M is too small (at least 64M)");
        assert!(refused(Field::DiskSize, "-1G").starts_with("web.toml: disk.size: '-1G' is not a size"));
        assert!(refused(Field::DiskSize, "17T").contains("too large (at most 16T)"));
        assert!(refused(Field::Memory, "100000001").contains("whole number of MiB"));
        assert!(refused(Field::Vcpus, "0").starts_with("web.toml: vcpus: '0' is not"));
        assert!(refused(Field::DiskFormat, "vmdk").contains("raw or qcow2"));
        assert!(refused(Field::Name, "Web").contains("is not a name"));
        let missing = resolve(&[&words("command line", &[(Field::Name, "web")])]).unwrap_err();
        assert!(matches!(missing, SpecError::Missing { field: Field::Image }) && missing.hint().is_some());
    }

    #[test]
    fn names_of_fields_are_read_back_and_slips_are_guessed() {
        for &field in Field::ALL {
            assert_eq!(Field::from_name(field.name()), Some(field));
            assert!(field.default().is_none_or(|text| !text.is_empty()));
        }
        assert_eq!(Field::from_name("disk"), Some(Field::DiskSize));
        let slip = SpecError::unknown("memroy", "web.yaml:1".to_owned());
        assert_eq!(slip.hint().as_deref(), Some("did you mean 'memory'?"));
    }
}
