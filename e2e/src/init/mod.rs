//! One test, alone: fresh PID, mount, network, IPC, UTS and cgroup namespaces around one program.
//!
//! ```text
//!   test process ── outside (host's namespaces; waits, then removes the cgroups)
//!                     └── inside = PID 1 (mounts, /proc, reaps orphans, forwards the exit code)
//!                           └── the same test again, and everything the product starts
//! ```
//!
//! A test therefore sees only its own processes, links, mounts and cgroups, and can compare inventories of
//! everything while other tests run beside it. Should it be killed, the kernel takes the rest along: PID 1
//! dies with `outside`, and the namespaces with PID 1.
//!
//! Not here: what a test does ([`crate::lab`]) and who starts this ([`crate::entry`]).

mod cgroup;
mod inside;
mod outside;

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

/// Set, to any value, for programs that run inside.
pub const INSIDE: &str = "OUTLAST_E2E_INSIDE";

/// The first argument of the process that becomes PID 1. Nobody types it.
const AS_INIT: &str = "--as-pid-1";

/// The exit code of `outlast-e2e-init` itself when it could not do its work.
pub const FAILED: u8 = 125;

/// Runs one of the two roles; the program and its arguments come from the command line.
pub fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let is_init = arguments.first().is_some_and(|first| first == AS_INIT);
    let ended = if is_init { inside::main(&arguments.split_off(1)) } else { outside::main(&arguments) };
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("outlast-e2e-init: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

/// The exit code that stands for a wait status, the way shells do it.
fn code_of(exit: Option<i32>, signal: Option<i32>) -> u8 {
    let number = exit.or(signal.map(|signal| 128 + signal));
    number.and_then(|number| u8::try_from(number).ok()).unwrap_or(FAILED)
}
