//! `outlast`: runs code in fresh microVMs and tells honestly what became of it.
//!
//! Two stages: what was typed ([`args`]) and what will be done ([`settings`], [`commands`]). Everything that is
//! done is `outlast_control`'s; this crate reads the environment, prints, and decides the exit code, once.

mod args;
mod commands;
mod failure;
mod output;
mod settings;

use args::Cli;
use clap::Parser;
use failure::{Failure, Surface};
use settings::Settings;
use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let surface = Surface::of(&words);
    let cli = match Cli::try_parse_from(&words) {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(failure::show_usage(&error, surface)),
    };
    log_to_stderr();
    let ended = Settings::from_environment()
        .map_err(Failure::from)
        .and_then(|settings| commands::perform(cli, &settings));
    let code = match ended {
        Ok(code) => code,
        Err(failure) => failure.show(surface),
    };
    ExitCode::from(code)
}

/// Warnings of the libraries below, unless more is asked for with OUTLAST_LOG.
fn log_to_stderr() {
    use tracing_subscriber::{EnvFilter, fmt};
    let asked = std::env::var("OUTLAST_LOG").ok().filter(|text| !text.is_empty());
    let colours = output::style::stderr_has_colours();
    let show =
        fmt().with_writer(std::io::stderr).with_ansi(colours).with_target(false).without_time().compact();
    match asked {
        Some(filter) => show.with_env_filter(EnvFilter::new(filter)).init(),
        None => show.with_max_level(tracing::Level::WARN).init(),
    }
}
