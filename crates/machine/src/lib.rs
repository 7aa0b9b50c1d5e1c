//! The host made safe: processes that are who they seem, control groups, namespaces, the jail of a VMM, the
//! drivers of VMMs, images, VMM roots and disks.
//!
//! Everything here is a mechanism: nothing knows the store, the guest protocol, workloads or outcomes. The only
//! `unsafe` of the host is in `sys`.
//!
//! Reading order: [`process`], [`cgroup`], [`namespace`], [`jail`], [`backend`], [`qemu`], [`console`], [`host`],
//! [`digest`], [`lock`], [`image`], [`vmm_root`], [`disk`].

pub mod backend;
pub mod cgroup;
pub mod console;
pub mod digest;
pub mod disk;
pub mod host;
pub mod image;
pub mod jail;
pub mod lock;
pub mod namespace;
pub mod process;
pub mod qemu;
pub mod sys;
pub mod vmm_root;
