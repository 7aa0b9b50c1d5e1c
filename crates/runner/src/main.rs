//! `outlast-runner`, the program. All of it is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    outlast_runner::main()
}
