//! `outlast-e2e-init PROGRAM ARGUMENT…`: runs one program in fresh namespaces, as the child of a PID 1 that
//! reaps. Everything it does is in `outlast_e2e::init`; this file only turns its answer into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    outlast_e2e::init::main()
}
