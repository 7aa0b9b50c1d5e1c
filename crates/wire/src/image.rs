//! Manifests as they stand on disk: of an image, of a guest kernel shared by images, of the lean kernel, of a VMM
//! root, and the stamps that say which file was verified when.
//!
//! These are our own records: they only grow, so unknown fields are kept out of the way rather than refused,
//! and a `format` newer than ours is refused by the reader, not here. Nothing here judges what it holds:
//! `outlast_machine::image` and `outlast_machine::vmm_root` turn these forms into checked types, which is the
//! validation, and they own the files.

use serde::{Deserialize, Serialize};

/// The image manifest format that this build writes, and the newest it reads.
pub const IMAGE_FORMAT: u32 = 1;
/// The VMM root manifest format that this build writes, and the newest it reads.
pub const VMM_ROOT_FORMAT: u32 = 1;
/// The kernel manifest format that this build writes, and the newest it reads.
pub const KERNEL_FORMAT: u32 = 1;
/// The lean kernel manifest format that this build writes, and the newest it reads.
pub const LEAN_KERNEL_FORMAT: u32 = 1;

/// `manifest.json` of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageManifest {
    /// See [`IMAGE_FORMAT`].
    pub format: u32,
    /// The name it was built under: `python`.
    pub name: String,
    /// SHA-256 over everything that decides how it behaves; names the directory in the image store.
    pub digest: String,
    /// When it was built, in seconds since the Unix epoch, as the host's clock said. Not part of the digest.
    pub created: u64,
    /// What the root file system was made from.
    pub distribution: Distribution,
    /// The guest kernel.
    pub kernel: KernelVersion,
    /// Every file of the image with its hash.
    pub parts: Vec<Part>,
    /// How source code is run; absent for an image that only runs commands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Runtime>,
    /// How much memory it needs with the kernel in it.
    pub memory: MemoryNeeds,
    /// How much it needs with the lean kernel; absent in images from before there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_lean: Option<MemoryNeeds>,
    /// Every package in the root file system.
    pub packages: Vec<Package>,
}

/// Where packages came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distribution {
    /// `debian`.
    pub id: String,
    /// `bookworm`.
    pub suite: String,
    /// The archive lines, in the form of sources.list(5), without options.
    pub sources: Vec<String>,
}

/// Which kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelVersion {
    /// What `uname -r` says in the guest.
    pub release: String,
    /// The distribution's package.
    pub package: String,
    /// The package's version.
    pub version: String,
}

/// One file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The file's name in the image directory.
    pub name: String,
    /// 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

/// How an image runs source code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// `python`.
    pub name: String,
    /// What the source is called in the guest's working directory: `main.py`.
    pub file_name: String,
    /// File name endings, without the dot, by which this runtime is chosen.
    pub extensions: Vec<String>,
    /// Program and leading arguments; the file's name and the user's arguments follow.
    pub command: Vec<String>,
    /// Environment of every program, as `KEY=VALUE`; what the user asks for wins.
    pub env: Vec<String>,
    /// What is run once, as the guest user, before a template is saved.
    pub warm_up: Vec<String>,
}

/// How much memory an image needs, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryNeeds {
    /// The smallest limit a program may be given.
    pub min_limit: u64,
    /// The smallest machine that boots.
    pub min_machine: u64,
    /// What kernel, agent and file systems take of any machine, beside the program's limit.
    pub reserve: u64,
    /// What they take more of a larger one: one byte for so many of the limit; zero for nothing.
    pub reserve_share: u64,
}

/// One installed package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// `kernel.json` of a guest kernel in the library, shared by the images built from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelManifest {
    /// See [`KERNEL_FORMAT`].
    pub format: u32,
    /// Which kernel it is.
    pub kernel: KernelVersion,
    /// The kernel and its modules.
    pub parts: Vec<Part>,
    /// The modules in the order in which they load.
    pub modules: Vec<String>,
}

/// `manifest.json` of the guest kernel that outlast builds itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeanKernelManifest {
    /// See [`LEAN_KERNEL_FORMAT`].
    pub format: u32,
    /// SHA-256 of the kernel; names the directory.
    pub digest: String,
    /// When it was built, in seconds since the Unix epoch.
    pub created: u64,
    /// Where its source and compiler came from.
    pub distribution: Distribution,
    /// Which kernel: its release, and the package of its source.
    pub kernel: KernelVersion,
    /// SHA-256 of the configuration that was asked for.
    pub options_sha256: String,
    /// The compiler and the linker.
    pub tools: Vec<Package>,
    /// The kernel, and the whole configuration it was made with.
    pub parts: Vec<Part>,
}

/// `manifest.json` of a VMM root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmmRootManifest {
    /// See [`VMM_ROOT_FORMAT`].
    pub format: u32,
    /// Which VMM: `qemu`.
    pub vmm: String,
    /// The first line of what it says about its version.
    pub version_line: String,
    /// The version: `10.0.2`.
    pub version: String,
    /// The binary's path inside the root.
    pub binary: String,
    /// SHA-256 of the binary.
    pub binary_sha256: String,
    /// SHA-256 over every path of the tree with its kind, mode, size and content.
    pub digest: String,
    /// Bytes of all files.
    pub size: u64,
    /// When it was built, in seconds since the Unix epoch.
    pub created: u64,
    /// What it was made from.
    pub distribution: Distribution,
    /// Every package that was unpacked.
    pub packages: Vec<Package>,
}

/// `LIBRARY/verified/….json`: this very file, unchanged since, had this hash.
///
/// Good for one boot of the host: a file changed behind a stopped system's back is hashed again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// The file's device number.
    pub device: u64,
    /// The file's inode.
    pub inode: u64,
    /// The file's length in bytes.
    pub size: u64,
    /// The inode's last change, in nanoseconds since the Unix epoch; it cannot be set by a program.
    pub changed_ns: i128,
    /// SHA-256 of the content.
    pub sha256: String,
}

/// `LIBRARY/boot/….json`: what an assembled initramfs should hash to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootRecord {
    /// SHA-256 of the initramfs.
    pub sha256: String,
    /// Its length in bytes.
    pub size: u64,
    /// SHA-256 of the modules part it was made from.
    pub modules: String,
    /// SHA-256 of the agent it was made from.
    pub agent: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distribution() -> Distribution {
        Distribution {
            id: "debian".into(),
            suite: "bookworm".into(),
            sources: vec!["deb http://deb.debian.org/debian bookworm main".into()],
        }
    }

    fn image() -> ImageManifest {
        let part = |name: &str, size| Part { name: name.into(), sha256: "ab".repeat(32), size };
        ImageManifest {
            format: IMAGE_FORMAT,
            name: "python".into(),
            digest: "cd".repeat(32),
            created: 1_700_000_000,
            distribution: distribution(),
            kernel: KernelVersion {
                release: "6.1.0-56-cloud-amd64".into(),
                package: "linux-image-cloud-amd64".into(),
                version: "6.1.192-2".into(),
            },
            parts: vec![part("vmlinux", 53), part("modules.cpio", 2), part("rootfs.squashfs", 40)],
            runtime: Some(Runtime {
                name: "python".into(),
                file_name: "main.py".into(),
                extensions: vec!["py".into()],
                command: vec!["python3".into()],
                env: vec!["PYTHONUNBUFFERED=1".into()],
                warm_up: vec!["python3".into(), "-c".into(), "pass".into()],
            }),
            memory: MemoryNeeds {
                min_limit: 1 << 27,
                min_machine: 1 << 27,
                reserve: 96 << 20,
                reserve_share: 16,
            },
            memory_lean: None,
            packages: vec![Package { name: "python3".into(), version: "3.11.2-1+b1".into() }],
        }
    }

    fn vmm_root() -> VmmRootManifest {
        VmmRootManifest {
            format: VMM_ROOT_FORMAT,
            vmm: "qemu".into(),
            version_line: "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)".into(),
            version: "10.0.2".into(),
            binary: "/usr/bin/qemu-system-x86_64".into(),
            binary_sha256: "01".repeat(32),
            digest: "02".repeat(32),
            size: 66 << 20,
            created: 1_700_000_000,
            distribution: Distribution { suite: "trixie".into(), ..distribution() },
            packages: vec![Package { name: "qemu-system-x86".into(), version: "1:10.0.2+ds-2".into() }],
        }
    }

    /// The golden texts: a change here is a change of what lies on people's disks.
    #[test]
    fn the_formats_on_disk_are_frozen() {
        insta::assert_snapshot!("image_manifest_1", serde_json::to_string_pretty(&image()).unwrap());
        insta::assert_snapshot!("vmm_root_manifest_1", serde_json::to_string_pretty(&vmm_root()).unwrap());
        let kernel = KernelManifest {
            format: KERNEL_FORMAT,
            kernel: image().kernel,
            parts: image().parts[..2].to_vec(),
            modules: vec!["virtio_ring".into(), "virtio".into()],
        };
        insta::assert_snapshot!("kernel_manifest_1", serde_json::to_string_pretty(&kernel).unwrap());
        let lean = LeanKernelManifest {
            format: LEAN_KERNEL_FORMAT,
            digest: "cd".repeat(32),
            created: 1_700_000_000,
            distribution: distribution(),
            kernel: image().kernel,
            options_sha256: "ab".repeat(32),
            tools: image().packages,
            parts: image().parts[..1].to_vec(),
        };
        insta::assert_snapshot!("lean_kernel_manifest_1", serde_json::to_string_pretty(&lean).unwrap());
        let stamp = Stamp {
            boot_id: "b0".into(),
            device: 65_024,
            inode: 12,
            size: 53,
            changed_ns: 1_700_000_000_000_000_001,
            sha256: "ab".repeat(32),
        };
        insta::assert_snapshot!("stamp_1", serde_json::to_string(&stamp).unwrap());
        let boot = BootRecord { sha256: "ab".repeat(32), size: 9, modules: "cd".into(), agent: "ef".into() };
        insta::assert_snapshot!("boot_record_1", serde_json::to_string(&boot).unwrap());
    }

    #[test]
    fn an_image_says_what_it_needs_with_the_lean_kernel_only_when_it_knows() {
        let text = serde_json::to_string(&image()).unwrap();
        assert!(!text.contains("memory_lean"), "{text}");
        let knows = ImageManifest { memory_lean: Some(image().memory), ..image() };
        let text = serde_json::to_string(&knows).unwrap();
        assert_eq!(serde_json::from_str::<ImageManifest>(&text).unwrap(), knows);
    }

    #[test]
    fn a_field_of_a_later_version_is_no_obstacle() {
        let mut value = serde_json::to_value(image()).unwrap();
        value["from_the_future"] = serde_json::json!({ "a": 1 });
        value["parts"][0]["signature"] = serde_json::json!("x");
        assert_eq!(serde_json::from_value::<ImageManifest>(value).unwrap(), image());
    }

    #[test]
    fn every_form_survives_being_written_and_read() {
        let text = serde_json::to_string(&image()).unwrap();
        assert_eq!(serde_json::from_str::<ImageManifest>(&text).unwrap(), image());
        let text = serde_json::to_string(&vmm_root()).unwrap();
        assert_eq!(serde_json::from_str::<VmmRootManifest>(&text).unwrap(), vmm_root());
    }
}
