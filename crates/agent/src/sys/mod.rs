//! The few system calls that rustix has no safe form of. All `unsafe` of the agent stands below this module,
//! each block with its argument; no policy is decided here.

pub(crate) mod entropy;
pub(crate) mod interfaces;
pub(crate) mod spawn;
pub(crate) mod watch;
