//! The harness of the tests on real virtual machines. The tests themselves are in `e2e/tests/`.
//!
//! A test is a closure that gets a [`Lab`]: a home of its own, inside PID, mount, network and cgroup
//! namespaces of its own, with the shipped `outlast` binary to call.
//!
//! ```text
//!   on_lab(|lab| { lab.outlast(&["run", "hello.py"]).expect_code(0); })
//!     outside:  starts outlast-e2e-init with this same test            entry, init
//!     inside:   Lab::open → inventory → the closure → Lab::finish      lab
//!               finish: every workload over, inventory as before, doctor finds no leak, audit chain whole
//! ```
//!
//! There is nothing to remember: the closure's return finishes the lab, its panic prints the evidence. The
//! harness knows the command line and `outlast_wire`, and nothing of the product's insides.

#![allow(clippy::missing_panics_doc, reason = "panicking is how a test says no; every function here may")]

pub mod archive;
pub mod ballast;
pub mod call;
pub mod cgroups;
pub mod chaos;
pub mod control;
pub mod crash;
pub mod crowd;
pub mod deadline;
mod dice;
pub mod entry;
pub mod escape;
mod evidence;
pub mod file;
pub mod freezer;
pub mod guest_lab;
pub mod hostile;
pub mod init;
pub mod lab;
pub mod library;
pub mod process;
pub mod program;
pub mod setup;
pub mod skip;
pub mod systemd;
mod user;
pub mod vm;

pub use call::{Call, Output, Running};
pub use deadline::until;
pub use entry::alone;
pub use lab::Lab;
pub use process::Process;
pub use setup::{Setup, on_lab};
