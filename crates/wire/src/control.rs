//! The runner's control socket: what a client may ask of a running incarnation.
//!
//! ```text
//!   frame  = length u32 BE · JSON[length]        length ≤ MAX_FRAME
//!   client → Greeting · Request*      runner → Greeting · Answer*     (one answer a request, in order)
//! ```
//!
//! A running runner survives an upgrade of the command line: both sides say their generation first, and a
//! client speaks the older one's. Unknown requests are answered, not hung up on.

use serde::{Deserialize, Serialize};

/// Longest JSON text in a frame, in bytes.
pub const MAX_FRAME: usize = 1024 * 1024;
/// The generation spoken by this build.
pub const GENERATION: u32 = 1;

/// First in both directions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// The sender's generation.
    pub generation: u32,
    /// The sender's version, for people.
    pub version: String,
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "request")]
pub enum Request {
    /// Are you there?
    Ping,
    /// Is the agent in the guest there? The runner asks it, whatever else it does meanwhile.
    Probe,
    /// End the workload now; its outcome is `killed`, unless it ended first.
    Kill,
}

/// What the runner answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum Answer {
    /// I am.
    Pong {
        /// The incarnation.
        incarnation: String,
        /// The workload's state as the runner knows it.
        state: String,
    },
    /// The guest's agent answered.
    Probed {
        /// How long the round trip through the guest took, in microseconds.
        round_trip_us: u64,
    },
    /// The request was taken; its effect follows, and is seen in the store.
    Accepted,
    /// The request was not taken.
    Refused {
        /// Why.
        cause: String,
    },
}
