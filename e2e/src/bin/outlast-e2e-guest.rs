//! `outlast-e2e-guest`: the lab's program inside the guest. Everything it does is in
//! `outlast_e2e::guest_lab::guest`; this file only turns its answer into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    outlast_e2e::guest_lab::guest::main()
}
