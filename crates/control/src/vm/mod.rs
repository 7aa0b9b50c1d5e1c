//! Long-lived VMs: what a new one is to be, from the command line and from files.

pub mod spec;
pub mod spec_file;
