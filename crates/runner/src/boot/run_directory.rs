//! Run directory: sockets and heartbeat, in a directory nobody else may enter. Also opens the output log,
//! which lies with the evidence and is kept.

use super::{Core, Presence, Stumble, chain};
use crate::control::ControlServer;
use crate::heartbeat::Heartbeat;
use crate::output::OutputLog;
use outlast_machine::backend::Backend;
use outlast_model::limit;
use outlast_wire::intent::Purpose;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::rc::Rc;

pub(super) fn make<B: Backend>(core: &mut Core<B>) -> Result<(), Stumble> {
    let said = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| Stumble::Failed(format!("cannot make {what}: {error}"))
    };
    let path = core.run_directory.path();
    DirBuilder::new().mode(0o700).create(path).map_err(said(&path.display().to_string()))?;
    let heartbeat = Heartbeat::start(&core.run_directory.heartbeat()).map_err(said("the heartbeat"))?;
    core.heartbeat = Some(heartbeat);
    let control = ControlServer::start(&core.run_directory.control_socket(), Rc::clone(&core.desk));
    core.control = Some(control.map_err(said("the control socket"))?);
    let output = OutputLog::create(&core.evidence.output_log(), output_limit(&core.intent.purpose));
    core.output = Some(output.map_err(said("the output log"))?);
    Ok(())
}

fn output_limit(purpose: &Purpose) -> u64 {
    match purpose {
        Purpose::Workload { program, .. } => program.output_limit,
        Purpose::Template { .. } | Purpose::Canary | Purpose::Vm { .. } => limit::CONSOLE_BYTES,
    }
}

pub(super) fn undo<B: Backend>(core: &mut Core<B>) -> Result<(), String> {
    core.control = None;
    core.heartbeat = None;
    match std::fs::remove_dir_all(core.run_directory.path()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(chain(&error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

pub(super) fn probe<B: Backend>(core: &Core<B>) -> Presence {
    match core.run_directory.path().try_exists() {
        Ok(true) => Presence::Present,
        Ok(false) => Presence::Absent,
        Err(_) => Presence::Unknown,
    }
}
