//! `outlast completions` and `outlast man`, both made from the definition of the command line.

use super::DONE;
use crate::args::Cli;
use crate::failure::Failure;
use crate::output::{facts, note};
use clap::CommandFactory;
use outlast_wire::exit_code::FailureKind;
use std::path::Path;

pub(super) fn completions(shell: clap_complete::Shell) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "outlast", &mut script);
    facts(&String::from_utf8_lossy(&script))?;
    Ok(DONE)
}

pub(super) fn man(directory: &Path) -> Result<u8, Failure> {
    let made =
        std::fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(Cli::command(), directory));
    made.map_err(|error| {
        let message = format!("cannot write man pages into {}: {error}", directory.display());
        Failure::new(FailureKind::Failed, message)
    })?;
    note(&format!("man pages are in {}", directory.display()));
    Ok(DONE)
}
