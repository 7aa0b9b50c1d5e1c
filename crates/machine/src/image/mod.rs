//! Images: what guests boot from. Built from Debian packages, named by digest, never changed once they have a name.
//!
//! ```text
//!   recipe ---> rootfs (mmdebstrap, mksquashfs) ----.
//!   kernel package ---> bzimage, modules -----------+--> manifest --> shelf: made aside, published by rename
//!
//!   kernel source ---> lean: the kernel that every image of ours boots once it is built
//!
//!   library:  list, open (a lease), check (stamps), verify (every byte), remove
//!   bootable: an image and the kernel it boots
//!   leftover: what collects beside what has a name
//!   boot:     modules, where there are some, + agent = the initramfs of a boot
//! ```
//!
//! Invariants, as absences: no file below a `.store` is ever written to; nothing is visible that is not whole and
//! synced; nothing in here starts a VMM or knows a guest's protocol; nothing reads the environment.

pub mod boot;
pub mod bootable;
pub mod build;
pub mod bzimage;
pub mod digest;
pub mod elf;
pub mod error;
pub mod filesystem;
pub mod lean;
pub mod leftover;
pub mod library;
pub mod manifest;
pub mod modules;
pub mod own;
pub mod progress;
pub mod recipe;
pub mod source;
pub mod staleness;
pub mod stamp;
pub mod verify;

mod kernel;
mod lock;
mod newc;
pub(crate) mod packages;
pub(crate) mod program;
mod rootfs;
pub(crate) mod shelf;
mod subordinate;
pub(crate) mod tree;
pub(crate) mod trust;

pub use boot::{Initramfs, initramfs};
pub use bootable::Bootable;
pub use build::build;
pub use digest::Digest;
pub use error::LibraryError;
pub use library::{Image, Listed, find, let_others_read, list, list_all, open, remove, sweep, verify};
pub use manifest::{Manifest, MemoryNeeds, PartKind, Runtime};
pub use progress::{Phase, Progress};
pub use recipe::Recipe;
pub use shelf::{Lease, Solitude};
pub use source::Mirror;
pub use subordinate::{NoSubordinateIds, become_root_of_own_namespace, subordinate_ids};
pub use trust::require_own;
