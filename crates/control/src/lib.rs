//! The operations that people ask for: run, follow, kill, show, templates, images, doctor.
//!
//! Synchronous throughout: it waits with poll(2) for what happens (files that change, processes that end,
//! signals), always with a deadline. It speaks no HTTP and never starts a VMM: only runners do, and it starts
//! those. Nothing here prints, and nothing reads the environment: settings come in resolved, by [`Site`] and
//! [`RunRequest`].
//!
//! ```text
//!   run:  request ─► archive ─► incarnation (ground) ─► accelerator, template ─► run ─► birth ─► launch ─► follow
//!   VMs:  vm (create, start, exec, stop, remove …)
//!   else: workload (find, kill) · show · logs · audit · image · template · prune (evidence) · doctor
//!   all:  reconcile what they touch
//! ```
//!
//! Reading order: [`Site`], `request`, `archive`, `incarnation`, `accelerator`, `template`, `run`, `birth`,
//! `launch`, `follow`, `reconcile`, [`vm`], then the rest in any order.

mod accelerator;
mod archive;
pub mod audit;
mod birth;
mod clock;
mod doctor;
mod error;
mod evidence;
mod follow;
mod handback;
pub mod image;
mod incarnation;
mod launch;
mod lock;
mod logs;
mod notice;
pub mod own_image;
mod prune;
mod reconcile;
mod request;
mod run;
mod runner_link;
mod show;
mod site;
mod template;
#[cfg(test)]
mod testing;
pub mod vm;
mod wait;
mod workload;

pub use accelerator::{Accelerator, AcceleratorChoice, AcceleratorError};
pub use archive::{Archive, ArchiveError, RefusedArchive};
pub use doctor::{Mend, can_run, doctor};
pub use error::{Error, chain};
pub use follow::{Finished, FollowError, Sink, pass_on, takes_more};
pub use handback::hand_back;
pub use launch::LaunchError;
pub use logs::{AfterLog, Extent, Log, logs};
pub use notice::{Notice, Notify};
pub use outlast_machine::disk::DiskError;
pub use outlast_machine::host::HostError;
pub use outlast_machine::image::LibraryError;
pub use outlast_machine::sys::signal::{HANG_UP, Interrupts, RESIZED};
pub use outlast_store::StoreError;
pub use prune::{Pruning, prune};
pub use reconcile::ReconcileError;
pub use request::{DEFAULT_MEMORY, DEFAULT_TIMEOUT, RequestError, RunRequest, Stdin, What};
pub use run::{Accepted, KeptEvidence, run};
pub use runner_link::LinkError;
pub use show::{List, list, run_view, show};
pub use site::{Bounds, Site, SiteError, our_uid};
pub use template::{TemplateError, list as list_templates, remove as remove_template};
pub use vm::VmError;
pub use workload::{WorkloadError, kill};
