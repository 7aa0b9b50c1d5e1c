//! The checked manifest of an image: what [`outlast_wire::image::ImageManifest`] becomes once it makes sense.
//!
//! Conversion is validation: after it, digests are digests, the parts are the ones an image has, names cannot leave
//! the image's directory, and the memory numbers agree with each other. Whether the files really have these
//! hashes is asked in [`super::library`].

use super::digest::{Digest, DigestError};
use super::recipe::KERNEL_PACKAGE;
use outlast_model::limit::MEMORY_STEP;
use outlast_model::spec::EnvError;
use outlast_model::{Memory, spec::EnvVar};
use outlast_wire::image as wire;
use std::fmt::Write as _;
use std::num::NonZeroU64;
use thiserror::Error;

/// A manifest does not parse or does not make sense.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// Not the JSON that was expected.
    #[error("its manifest does not parse")]
    Json(#[from] serde_json::Error),
    /// Written by a newer outlast.
    #[error("its format is {found}, this outlast reads up to {known}")]
    Format {
        /// In the manifest.
        found: u32,
        /// The newest known.
        known: u32,
    },
    /// A digest is none.
    #[error("its digest is none")]
    Digest(#[from] DigestError),
    /// A part is missing or there twice.
    #[error("it should have the part '{name}' exactly once")]
    Part {
        /// The part.
        name: &'static str,
    },
    /// A memory number is zero or they contradict each other.
    #[error("its memory numbers make no sense")]
    Memory,
    /// The name is not one.
    #[error("its name '{name}' is not an image name")]
    Name {
        /// The name.
        name: String,
    },
    /// A runtime's program or file name is empty or could leave the working directory.
    #[error("its runtime '{name}' has no command or a bad file name")]
    Runtime {
        /// The runtime.
        name: String,
    },
    /// A runtime's environment is none.
    #[error("its runtime's environment is bad")]
    Env(#[from] EnvError),
    /// The digest in it is not that of its content.
    #[error("its digest is not that of its content")]
    Forged,
}

/// The files of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartKind {
    /// The ELF kernel.
    Kernel,
    /// The kernel modules, a cpio archive.
    Modules,
    /// The root file system, a squashfs.
    RootFs,
}

impl PartKind {
    /// Every kind, in the order of the manifest.
    pub const ALL: [Self; 3] = [Self::Kernel, Self::Modules, Self::RootFs];

    /// The file's name in the image's directory.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Kernel => "vmlinux",
            Self::Modules => "modules.cpio",
            Self::RootFs => "rootfs.squashfs",
        }
    }

    /// What it may be called: images that people add may have another file system than built ones.
    fn file_names(self) -> &'static [&'static str] {
        match self {
            Self::Kernel => &["vmlinux"],
            Self::Modules => &["modules.cpio"],
            Self::RootFs => &["rootfs.squashfs", "rootfs.ext4"],
        }
    }
}

/// One file of an image: what it is, what it hashes to, and its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Which file.
    pub kind: PartKind,
    /// What it is called in the image's directory.
    pub file_name: &'static str,
    /// SHA-256 of its content.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// How an image runs source code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// Its name.
    pub name: String,
    /// What the source is called in the guest's working directory.
    pub file_name: String,
    /// File name endings by which it is chosen.
    pub extensions: Vec<String>,
    /// Program and leading arguments, never empty; the file's name and the user's arguments follow.
    pub command: Vec<String>,
    /// Environment of every program.
    pub env: Vec<EnvVar>,
    /// Run once before a template is saved; empty when nothing is.
    pub warm_up: Vec<String>,
}

/// How much memory an image needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryNeeds {
    /// The smallest limit a program may be given.
    pub min_limit: Memory,
    /// The smallest machine that boots.
    pub min_machine: Memory,
    /// What the guest itself takes of any machine.
    pub reserve: Memory,
    /// What it takes more of a larger one: one byte for so many of the limit.
    pub reserve_share: Option<NonZeroU64>,
}

/// QEMU's q35 puts what a machine has beyond this above 4 GiB (`hw/i386/pc_q35.c`: all of it below when it is less than
/// 0xb0000000), and a Linux guest with memory there sets [`BOUNCE_BUFFERS`] aside for devices that cannot reach it.
const BELOW_4G: u64 = 0xb000_0000;
/// swiotlb's default (Linux `include/linux/swiotlb.h`, `IO_TLB_DEFAULT_SIZE`).
const BOUNCE_BUFFERS: u64 = 64 * Memory::MIB;

impl MemoryNeeds {
    /// The machine for a program with this limit, in steps and never below the smallest. Were it smaller, a program
    /// that uses all of its limit would starve the whole guest, which livelocks, instead of meeting its own limit.
    pub fn machine_for(&self, limit: Memory) -> Memory {
        let share = self.reserve_share.map_or(0, |share| limit.bytes() / share);
        let needed = limit.plus(self.reserve).bytes().saturating_add(share);
        let bounce = if needed > BELOW_4G { BOUNCE_BUFFERS } else { 0 };
        let needed = Memory::from_bytes(needed.saturating_add(bounce)).unwrap_or(limit);
        needed.max(self.min_machine).rounded_up_to(MEMORY_STEP)
    }
}

/// A manifest that makes sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    record: wire::ImageManifest,
    digest: Digest,
    parts: [Part; 3],
    runtime: Option<Runtime>,
    memory: MemoryNeeds,
    memory_lean: Option<MemoryNeeds>,
}

impl Manifest {
    /// Reads and checks the JSON of a manifest.
    ///
    /// # Errors
    /// [`ManifestError`] says what is wrong with it.
    pub fn parse(json: &[u8]) -> Result<Self, ManifestError> {
        /// Read first: a newer format need not parse as ours.
        #[derive(serde::Deserialize)]
        struct Format {
            format: u32,
        }
        let Format { format } = serde_json::from_slice(json)?;
        check_format(format)?;
        Self::try_from(serde_json::from_slice::<wire::ImageManifest>(json)?)
    }

    /// The name it was built under.
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// What it is, whatever it is called.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its files.
    pub fn parts(&self) -> &[Part; 3] {
        &self.parts
    }

    /// One of its files.
    pub fn part(&self, kind: PartKind) -> Part {
        match kind {
            PartKind::Kernel => self.parts[0],
            PartKind::Modules => self.parts[1],
            PartKind::RootFs => self.parts[2],
        }
    }

    /// How it runs source code, when it does.
    pub fn runtime(&self) -> Option<&Runtime> {
        self.runtime.as_ref()
    }

    /// How much memory it needs with the kernel in it.
    pub fn memory(&self) -> MemoryNeeds {
        self.memory
    }

    /// How much memory it needs with the lean kernel. What an image from before that kernel does not know is no more
    /// than what it needs with its own.
    pub fn memory_lean(&self) -> MemoryNeeds {
        self.memory_lean.unwrap_or(self.memory)
    }

    /// Whether it boots the lean kernel where there is one: it was built from a recipe and has the distribution's
    /// kernel. One that came with a kernel of its own boots that and no other.
    pub fn takes_lean_kernel(&self) -> bool {
        self.record.kernel.package == KERNEL_PACKAGE
    }

    /// What `uname -r` says in a guest of the kernel in it.
    pub fn kernel_release(&self) -> &str {
        &self.record.kernel.release
    }

    /// As written: for what is only shown, such as packages and time of build.
    pub fn record(&self) -> &wire::ImageManifest {
        &self.record
    }
}

fn check_format(found: u32) -> Result<(), ManifestError> {
    let known = wire::IMAGE_FORMAT;
    if found > known { Err(ManifestError::Format { found, known }) } else { Ok(()) }
}

impl TryFrom<wire::ImageManifest> for Manifest {
    type Error = ManifestError;

    fn try_from(record: wire::ImageManifest) -> Result<Self, ManifestError> {
        check_format(record.format)?;
        if !is_image_name(&record.name) {
            return Err(ManifestError::Name { name: record.name.chars().take(80).collect() });
        }
        let digest: Digest = record.digest.parse()?;
        if content_digest(&record) != digest {
            return Err(ManifestError::Forged);
        }
        let [kernel, modules, root_fs] = PartKind::ALL.map(|kind| part(&record.parts, kind));
        let checked = |needs| memory(needs).ok_or(ManifestError::Memory);
        let (memory, memory_lean) = (checked(record.memory)?, record.memory_lean.map(checked).transpose()?);
        let runtime = record.runtime.clone().map(runtime).transpose()?;
        Ok(Self { digest, parts: [kernel?, modules?, root_fs?], runtime, memory, memory_lean, record })
    }
}

/// SHA-256 over all that decides how an image behaves: not its name, its age or where it came from.
/// The lines are part of format 1; a later format may hash differently, this one may not change.
pub fn content_digest(record: &wire::ImageManifest) -> Digest {
    let mut text = String::from("outlast image 1\n");
    let mut line = |key: &str, values: &[&str]| {
        // Lengths stand before texts, so that no two lists read alike.
        let _ = write!(text, "{key}");
        for value in values {
            let _ = write!(text, " {}:{value}", value.len());
        }
        text.push('\n');
    };
    line("kernel", &[&record.kernel.release, &record.kernel.version]);
    for part in &record.parts {
        line("part", &[&part.name, &part.sha256, &part.size.to_string()]);
    }
    // Images from before the lean kernel have no second line, and keep their digests.
    for (key, memory) in [("memory", Some(record.memory)), ("memory-lean", record.memory_lean)] {
        let Some(memory) = memory else { continue };
        let numbers = [memory.min_limit, memory.min_machine, memory.reserve, memory.reserve_share];
        let numbers = numbers.map(|number| number.to_string());
        line(key, &numbers.each_ref().map(String::as_str));
    }
    if let Some(runtime) = &record.runtime {
        line("runtime", &[&runtime.name, &runtime.file_name]);
        for (key, list) in
            [("command", &runtime.command), ("env", &runtime.env), ("warm-up", &runtime.warm_up)]
        {
            line(key, &list.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
    Digest::of(text.as_bytes())
}

/// A name that can be a directory of ours: it never starts with a dot and holds no slash.
pub(crate) fn is_image_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    let starts_well =
        name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    starts_well && name.len() <= 64 && name.bytes().all(allowed)
}

fn part(parts: &[wire::Part], kind: PartKind) -> Result<Part, ManifestError> {
    let name = |part: &wire::Part| kind.file_names().iter().copied().find(|name| *name == part.name);
    let mut found = parts.iter().filter_map(|part| Some((part, name(part)?)));
    match (found.next(), found.next()) {
        (Some((part, file_name)), None) => {
            Ok(Part { kind, file_name, digest: part.sha256.parse()?, size: part.size })
        }
        _ => Err(ManifestError::Part { name: kind.file_name() }),
    }
}

fn memory(needs: wire::MemoryNeeds) -> Option<MemoryNeeds> {
    let needs = MemoryNeeds {
        min_limit: Memory::from_bytes(needs.min_limit)?,
        min_machine: Memory::from_bytes(needs.min_machine)?,
        reserve: Memory::from_bytes(needs.reserve)?,
        reserve_share: NonZeroU64::new(needs.reserve_share),
    };
    // No machine of this size exists; a sum that saturates would be nonsense later.
    let sane = Memory::from_mib(1 << 24)?;
    (needs.min_limit <= sane && needs.min_machine <= sane && needs.reserve <= sane).then_some(needs)
}

fn runtime(record: wire::Runtime) -> Result<Runtime, ManifestError> {
    let plain = |name: &str| !name.is_empty() && !name.starts_with(['.', '-']) && !name.contains(['/', '\0']);
    let no_zero = |texts: &[String]| texts.iter().all(|text| !text.contains('\0'));
    let good = plain(&record.name)
        && plain(&record.file_name)
        && no_zero(&record.command)
        && no_zero(&record.warm_up);
    if !good || record.command.first().is_none_or(String::is_empty) {
        return Err(ManifestError::Runtime { name: record.name });
    }
    let env = record.env.iter().map(|text| EnvVar::parse(text)).collect::<Result<_, _>>()?;
    let wire::Runtime { name, file_name, extensions, command, warm_up, .. } = record;
    Ok(Runtime { name, file_name, extensions, command, env, warm_up })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A manifest of three parts with these contents.
    pub(crate) fn record_of(name: &str, contents: [&[u8]; 3]) -> wire::ImageManifest {
        let parts = PartKind::ALL.iter().zip(contents).map(|(kind, content)| wire::Part {
            name: kind.file_name().to_owned(),
            sha256: Digest::of(content).to_string(),
            size: content.len() as u64,
        });
        let mut record = wire::ImageManifest {
            format: wire::IMAGE_FORMAT,
            name: name.to_owned(),
            digest: String::new(),
            created: 0,
            distribution: wire::Distribution {
                id: "debian".into(),
                suite: "bookworm".into(),
                sources: vec![],
            },
            kernel: wire::KernelVersion {
                release: "6.1".into(),
                package: "linux".into(),
                version: "6.1-1".into(),
            },
            parts: parts.collect(),
            runtime: Some(wire::Runtime {
                name: "python".into(),
                file_name: "main.py".into(),
                extensions: vec!["py".into()],
                command: vec!["python3".into()],
                env: vec!["A=b".into()],
                warm_up: vec![],
            }),
            memory: wire::MemoryNeeds {
                min_limit: 128 << 20,
                min_machine: 96 << 20,
                reserve: 96 << 20,
                reserve_share: 16,
            },
            memory_lean: None,
            packages: vec![],
        };
        record.digest = content_digest(&record).to_string();
        record
    }

    fn resealed(change: impl FnOnce(&mut wire::ImageManifest)) -> Result<Manifest, ManifestError> {
        let mut record = record_of("python", [b"a", b"b", b"c"]);
        change(&mut record);
        record.digest = content_digest(&record).to_string();
        Manifest::try_from(record)
    }

    #[test]
    fn a_good_manifest_is_read_whole() {
        let manifest = resealed(|_| {}).unwrap();
        assert_eq!(manifest.part(PartKind::RootFs).digest, Digest::of(b"c"));
        assert_eq!(manifest.runtime().unwrap().env[0].assignment(), "A=b");
    }

    /// Sizes at which a program that ate its whole limit was killed by it and the guest lived (stock kernel, QEMU).
    #[test]
    fn machines_are_large_enough_for_their_limits() {
        let memory = resealed(|_| {}).unwrap().memory();
        let table = [(64, 192), (128, 256), (256, 384), (512, 640), (1024, 1216), (2048, 2304), (4096, 4544)];
        for (limit, machine) in table {
            let limit = Memory::from_mib(limit).unwrap();
            assert_eq!(memory.machine_for(limit).mib(), machine, "for a limit of {limit}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(matches!(resealed(|r| r.name = "../x".into()), Err(ManifestError::Name { .. })));
        assert!(matches!(resealed(|r| r.parts.truncate(2)), Err(ManifestError::Part { .. })));
        assert!(matches!(resealed(|r| r.memory.reserve = 0), Err(ManifestError::Memory)));
        let runtime = |change: fn(&mut wire::Runtime)| resealed(|r| change(r.runtime.as_mut().unwrap()));
        assert!(matches!(runtime(|r| r.file_name = "a/b".into()), Err(ManifestError::Runtime { .. })));
        assert!(matches!(runtime(|r| r.command.clear()), Err(ManifestError::Runtime { .. })));
        assert!(matches!(runtime(|r| r.env.push("x".into())), Err(ManifestError::Env(_))));
    }

    #[test]
    fn a_later_format_is_refused_by_number_even_when_it_does_not_parse() {
        let error = Manifest::parse(br#"{"format": 9, "parts": "elsewhere"}"#).unwrap_err();
        assert!(matches!(error, ManifestError::Format { found: 9, .. }), "{error}");
    }

    #[test]
    fn every_fact_that_matters_changes_the_digest() {
        let base = record_of("python", [b"a", b"b", b"c"]);
        let same =
            [|r: &mut wire::ImageManifest| r.created = 7, |r: &mut wire::ImageManifest| r.name = "x".into()];
        for change in same {
            let mut record = base.clone();
            change(&mut record);
            assert_eq!(content_digest(&record), content_digest(&base));
        }
        let others: [fn(&mut wire::ImageManifest); 5] = [
            |r| r.kernel.version.push('1'),
            |r| r.parts[1].size += 1,
            |r| r.memory.reserve += 1,
            |r| r.runtime = None,
            |r| r.runtime.as_mut().unwrap().command.push("-u".into()),
        ];
        for change in others {
            let mut record = base.clone();
            change(&mut record);
            assert!(matches!(Manifest::try_from(record), Err(ManifestError::Forged)));
        }
    }

    proptest! {
        #[test]
        fn more_limit_is_never_less_machine(a in 1u64.., b in 1u64..) {
            let memory = resealed(|_| {}).unwrap().memory();
            let machine = |limit| memory.machine_for(Memory::from_bytes(limit).unwrap());
            prop_assert!(machine(a.min(b)) <= machine(a.max(b)));
            prop_assert!(machine(a).bytes() >= a);
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Manifest::parse(&bytes);
        }

        #[test]
        fn names_never_leave_their_directory(name in ".{0,70}") {
            if is_image_name(&name) {
                prop_assert!(!name.contains('/') && !name.starts_with('.') && !name.is_empty());
            }
        }
    }
}
