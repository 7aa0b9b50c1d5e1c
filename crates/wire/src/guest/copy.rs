//! What the host and the agent's own program say to each other about a copy: arguments, exit codes, lines.
//!
//! ```text
//!   /proc/1/exe pack SOURCE paced                  a tar on its standard output, and on its input a byte for every
//!                                                  [`STEP`] that was taken of it: it is never [`WINDOW`] ahead
//!   /proc/1/exe unpack DESTINATION one NAME        a tar on its standard input, of one thing of this name
//!   /proc/1/exe unpack DESTINATION contents        …, of what is in a directory
//!   /proc/1/exe unpack DESTINATION anything        …, of anybody's
//! ```
//!
//! It runs as a program like any other ([`super::Exec`]). Everything it says is a claim.

/// The agent's own program, whatever the guest's root is.
pub const PROGRAM: &str = "/proc/1/exe";
/// Send.
pub const PACK: &str = "pack";
/// Wait for whoever takes it.
pub const PACED: &str = "paced";
/// So much may be sent that nobody has taken yet, in bytes.
pub const WINDOW: u64 = 8 * STEP;
/// What is taken is told in steps of so many bytes.
pub const STEP: u64 = 1 << 20;
/// Take in.
pub const UNPACK: &str = "unpack";
/// One file or directory, whose name follows.
pub const ONE: &str = "one";
/// What is in a directory.
pub const CONTENTS: &str = "contents";
/// Whatever comes.
pub const ANYTHING: &str = "anything";

/// Exit code: it did not work.
pub const FAILED: u8 = 1;
/// Exit code: the arguments are not understood.
pub const USAGE: u8 = 2;
/// Exit code: what was to be copied, or where to, is not there.
pub const MISSING: u8 = 3;
/// Exit code: what is at the destination does not go with what came.
pub const CONFLICT: u8 = 4;

/// How a line on standard error begins that names something that is no part of the copy.
pub const LEFT_OUT: &str = "left out: ";
