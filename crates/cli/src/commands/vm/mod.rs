//! `outlast vm`: one file per group of its commands.

mod console;
mod copy;
mod create;
mod exec;
mod life;
mod list;
mod show;
mod snapshot;
mod talk;
mod terminal;

use super::{DONE, Form};
use crate::args::VmCommand;
use crate::failure::Failure;
use outlast_control::Site;
use outlast_wire::exit_code::FailureKind;

/// Does what was typed after `vm`; gives back the exit code.
pub(super) fn vm(site: &Site, command: VmCommand, form: Form) -> Result<u8, Failure> {
    match command {
        VmCommand::Create(args) => create::create(site, &args, form),
        VmCommand::Start(args) => life::start(site, &args, form),
        VmCommand::Stop(args) => life::stop(site, &args, form),
        VmCommand::Rm(args) => life::rm(site, &args, form),
        VmCommand::Ls => list::ls(site, form),
        VmCommand::Show(args) => show::show(site, &args, form),
        VmCommand::Exec(args) => exec::exec(site, &args, form),
        VmCommand::Cp(args) => copy::cp(site, &args, form),
        VmCommand::Ping(args) => talk::ping(site, &args, form),
        VmCommand::Console(args) => console::console(site, &args, form),
        VmCommand::Logs(args) => console::logs(site, &args, form),
        VmCommand::Stats(args) => talk::stats(site, &args, form),
        VmCommand::Pause(args) => talk::set_vcpus(site, &args, outlast_control::vm::Vcpus::Paused, form),
        VmCommand::Resume(args) => talk::set_vcpus(site, &args, outlast_control::vm::Vcpus::Running, form),
        VmCommand::Monitor(args) => talk::monitor(site, &args, form),
        VmCommand::Snapshot(args) => snapshot::take(site, &args, form),
        VmCommand::Snapshots(command) => snapshot::snapshots(site, &command, form),
        VmCommand::Restore(args) => snapshot::restore(site, &args, form),
    }
}

fn bad(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::BadInput, message)
}

fn shown(text: &str) -> String {
    text.chars().take(60).flat_map(char::escape_debug).collect()
}
