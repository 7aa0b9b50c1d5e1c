//! What will be done: one file per group of commands.

mod add;
mod audit;
mod doctor;
mod image;
mod logs;
mod manual;
mod prune;
mod request;
mod run;
mod template;
mod vm;
mod workload;

use crate::args::{AuditCommand, Cli, Command, ImageCommand, PruneArgs, TemplateCommand};
use crate::failure::Failure;
use crate::settings::Settings;
use outlast_control::Site;
use outlast_wire::exit_code::FailureKind;

/// How facts are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// What commands other than `run` end with when all went well.
const DONE: u8 = outlast_wire::exit_code::other::DONE;

/// Does what was typed; gives back the exit code.
pub(crate) fn perform(cli: Cli, settings: &Settings) -> Result<u8, Failure> {
    let form = if cli.json { Form::Json } else { Form::Text };
    let site = Site::new(settings.places.clone(), settings.programs.clone())
        .with_hold(settings.hold)
        .with_bounds(settings.bounds);
    match cli.command {
        Command::Run(args) => run::run(&site, *args, form),
        Command::Ps(args) => workload::ps(&site, &args, form),
        Command::Show(args) => workload::show(&site, &args, form),
        Command::Kill(args) => workload::kill(&site, &args, form),
        Command::Logs(args) => logs::logs(&site, &args, form),
        Command::Doctor(args) => doctor::doctor(&site, &args, form),
        Command::Image(ImageCommand::Build(args)) => image::build(&site, &args, &settings.mirror, form),
        Command::Image(ImageCommand::Ls) => image::ls(&site, form),
        Command::Image(ImageCommand::Rm(args)) => image::rm(&site, &args.names, form),
        Command::Image(ImageCommand::Verify(args)) => image::verify(&site, args.names, form),
        Command::Image(ImageCommand::Import(_)) => Err(later("image import")),
        Command::Image(ImageCommand::Add(args)) => add::add(&site, args, form),
        Command::Template(TemplateCommand::Ls) => template::ls(&site, form),
        Command::Template(TemplateCommand::Rm(args)) => template::rm(&site, &args.key, form),
        Command::Template(TemplateCommand::Prune(args)) => {
            prune::prune(&site, prune::What::Templates, &args, form)
        }
        Command::Image(ImageCommand::Prune(age)) => {
            prune::prune(&site, prune::What::Images, &PruneArgs { age, keep_size: None }, form)
        }
        Command::Prune(args) => prune::prune(&site, prune::What::Everything, &args, form),
        Command::Audit(AuditCommand::Verify(args)) => audit::verify(&site, &args, form),
        Command::Events(args) => audit::events(&site, &args, form),
        Command::Completions(args) => manual::completions(args.shell),
        Command::Man(args) => manual::man(&args.directory),
        Command::Vm(args) => vm::vm(&site, args.command, form),
        Command::Serve(_) => Err(later("serve")),
        Command::Token(_) => Err(later("token")),
        Command::Network(_) => Err(later("network")),
        Command::Prove(_) => Err(later("prove")),
    }
}

fn later(name: &str) -> Failure {
    let message = format!(
        "'outlast {name}' is not available in this version (available: run, vm, ps, show, logs, kill, doctor, \
         image build|add|ls|rm|verify|prune, template, prune, audit, events)"
    );
    Failure::new(FailureKind::BadInput, message).hint("outlast --help")
}
