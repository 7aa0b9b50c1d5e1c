//! A plan for tests.

use crate::backend::{LaunchPlan, MemoryBacking};
use crate::cgroup::VmmCgroup;
use outlast_wire::intent::Machine;
use outlast_wire::paths::{Evidence, RunDirectory};

/// A machine with 256 MiB that boots from its kernel.
pub(super) fn plan() -> LaunchPlan {
    LaunchPlan {
        machine: Machine {
            backend: "qemu".to_owned(),
            accelerator: "tcg".to_owned(),
            cpu_model: "max".to_owned(),
            vcpus: 1,
            memory: 256 << 20,
            kernel: "/library/images/python/vmlinux".into(),
            initramfs: "/library/boot/0.cpio".into(),
            rootfs: Some("/library/images/python/rootfs.squashfs".into()),
            command_line: "console=ttyS0 quiet".to_owned(),
            vmm_root: "/library/vmm/qemu/root".into(),
            vmm_binary: "/usr/bin/qemu-system-x86_64".into(),
            vmm_version: "10.0.13".to_owned(),
            image: None,
            image_digest: None,
            scratch: None,
        },
        memory: MemoryBacking::Anonymous,
        incoming: None,
        run_directory: RunDirectory::at("/run/outlast/01jd00000000000000000000aa".into()),
        evidence: Evidence::at("/var/lib/outlast/incarnations/01jd00000000000000000000aa".into()),
        vmm_cgroup: VmmCgroup::none(),
        identity: None,
        jail_program: "/proc/self/exe".into(),
    }
}
