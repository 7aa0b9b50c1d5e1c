//! `outlast-e2e-hostile`: an agent that does one wrong thing. Everything it does is in `outlast_e2e::hostile`.

use std::process::ExitCode;

fn main() -> ExitCode {
    outlast_e2e::hostile::main()
}
