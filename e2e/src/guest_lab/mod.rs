//! The guest lab: a whole Linux machine of a test's own, in which the shipped binaries run.
//!
//! For what this host cannot be: one whose `/dev/kvm` works, one with nothing but cgroup v2. The machine is emulated by the library's own QEMU with nested SVM, so `/dev/kvm` works in there.
//!
//! ```text
//!   test ─ Suite ─► system    Debian packages, once: kernel, modules, root file system   target/guest-lab/
//!                   payload   binaries under test, the library's VMM and one image       a disk, per run
//!                   machine   QEMU: two disks, console ► console.log, records ► records.log
//!                     └ guest  first as /init (modules, mounts), then as the one who runs the suite's cases
//!                   record    plan, begin, case …, end: judged by the host against the suite it asked for
//! ```
//!
//! What is green is told by the records alone: a guest that panics, hangs, powers off, runs a case less or says
//! anything twice is red. A case is a closure that gets a [`crate::Lab`], like any test here.
//!
//! Not here: what is tested (`cases`), and which test runs which suite (`e2e/tests/`).

pub mod cases;
pub mod guest;
mod initramfs;
mod machine;
mod payload;
pub mod record;
mod suite;
mod system;

pub use machine::run;
pub use suite::{Case, Cgroups, Suite};
