//! `outlast-runner`: one incarnation's whole life in one small process.
//!
//! Three programs in one file, because they are three moments of one life:
//!
//! ```text
//!   launch ──spawns──► run (PID 1 of its namespaces) ──spawns──► jail ──execs──► the VMM
//!   (exits)            (the runner)                              (confines itself)
//! ```
//!
//! It knows nothing of HTTP and nothing of other VMs. People do not call it; `outlast` does.

mod arguments;
mod birth;
mod boot;
mod certify;
mod clock;
mod control;
mod copying;
mod decision;
mod ending;
mod event;
pub mod handback;
mod heartbeat;
mod hold;
mod incarnation;
mod init;
mod inputs;
mod journal;
mod ladder;
mod launch;
mod lease;
mod ledger;
pub mod link;
mod output;
mod probe;
mod program;
mod template;
mod vm;

use arguments::Command;
use std::process::ExitCode;

/// The program `outlast-runner`, which `main.rs` only calls: as a library, what hears a guest can be tried from outside
/// with bytes that no guest would send.
pub fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .init();
    let command = match arguments::parse(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(error) => return failed(&anyhow::Error::new(error)),
    };
    let result = match command {
        Command::Version => version(),
        Command::Try => launch::attempt().map_err(anyhow::Error::new),
        Command::TryInside => launch::attempt_inside().map_err(anyhow::Error::new),
        Command::Launch(order) => launch::launch(&order).map_err(anyhow::Error::new),
        Command::Run(order) => incarnation::run(&order).map_err(anyhow::Error::new),
        Command::Jail { spec } => Err(anyhow::Error::new(outlast_machine::jail::enter(spec))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

#[expect(clippy::print_stdout, reason = "the version is the fact that was asked for")]
#[expect(clippy::unnecessary_wraps, reason = "an arm of the match in main")]
fn version() -> anyhow::Result<()> {
    println!("outlast-runner {}", env!("CARGO_PKG_VERSION"));
    Ok(())
}

fn failed(error: &anyhow::Error) -> ExitCode {
    // Standard error is the incarnation's runner.log.
    eprintln!("outlast-runner: {error:#}");
    ExitCode::FAILURE
}
