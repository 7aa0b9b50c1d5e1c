//! `outlast image add`.

use super::{DONE, Form};
use crate::args::AddArgs;
use crate::failure::Failure;
use crate::output::progress::{Build, Notices};
use crate::output::{human, json, note};
use outlast_control::Site;
use outlast_control::own_image::{self, Addition, Trial};
use outlast_model::Memory;
use outlast_wire::exit_code::FailureKind;

pub(super) fn add(site: &Site, args: AddArgs, form: Form) -> Result<u8, Failure> {
    let min_machine = args.min_memory.parse::<Memory>();
    let addition = Addition {
        min_machine: min_machine
            .map_err(|error| Failure::new(FailureKind::BadInput, format!("--min-memory: {error}")))?,
        name: args.name,
        kernel: args.kernel,
        root_fs: args.rootfs,
        modules: args.modules,
        replace: args.replace,
    };
    let trial = if args.no_boot { Trial::None } else { Trial::Boot };
    let mut progress = Build::of(&addition.name);
    let report = &mut |phase, done, total, detail: &str| progress.show(phase, done, total, detail);
    let mut notices = Notices::default();
    let view = own_image::add(site, &addition, trial, report, &mut |notice| notices.show(notice))?;
    drop(progress);
    let tried = if trial == Trial::Boot { "it boots" } else { "not tried" };
    note(&format!("{}: added, {}, {tried}", view.name, human::bytes(view.bytes)));
    if form == Form::Json {
        json(&view)?;
    }
    Ok(DONE)
}
