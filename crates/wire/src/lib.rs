//! Every byte that crosses a process, a version or a disk.
//!
//! Only this crate (and the settings of the command line) derives serde. Wire types are not our types:
//! conversion to a type of `outlast_model` is validation. Nothing here touches a file or a socket, and no
//! policy is decided here.
//!
//! Reading order: [`paths`], [`identity`], [`intent`], [`guest`], [`control`], [`journal`],
//! [`output_log`], [`record`], [`vm`], [`image`], [`template`], [`snapshot`], [`canary`], [`view`], [`vm_view`],
//! [`vm_live_view`], [`vm_snapshot_view`], [`exit_code`];
//! `base64` is how bytes travel in JSON.

mod base64;
pub mod canary;
pub mod control;
pub mod exec_end;
pub mod exit_code;
pub mod guest;
pub mod identity;
pub mod image;
pub mod intent;
pub mod journal;
pub mod output_log;
pub mod paths;
pub mod record;
pub mod snapshot;
pub mod template;
pub mod view;
pub mod vm;
pub mod vm_live_view;
pub mod vm_snapshot_view;
pub mod vm_view;
