//! What the agent does for the host besides running programs: the guest's clock, randomness and identity,
//! its disk, files in, trees out, power off. Each is a function from a request to an answer; streams and frames are
//! not known here.

mod clock;
mod entropy;
mod home;
mod identity;
mod place;
mod power;
mod receiving;
mod tree;

pub(crate) use clock::{clock, uptime_ms};
pub(crate) use entropy::Generator;
pub(crate) use home::{Home, SettleError};
pub(crate) use identity::{Facts, Nameplate};
pub(crate) use place::make_directory;
pub(crate) use power::power_off;
pub(crate) use receiving::Receiving;
pub(crate) use tree::Tree;
