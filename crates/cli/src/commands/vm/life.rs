//! `outlast vm start`, `stop` and `rm`.

use super::{DONE, Form, bad, shown};
use crate::args::{VmRmArgs, VmStartArgs, VmStopArgs};
use crate::failure::Failure;
use crate::output::progress::{Notices, warn};
use crate::output::{facts, human, json};
use outlast_control::vm::{Removal, StartRequest, StopRequest};
use outlast_control::{AcceleratorChoice, Site};
use outlast_model::Timeout;
use outlast_wire::vm_view::{VmStartedView, VmStoppedView};
use std::time::Duration;

pub(super) fn start(site: &Site, args: &VmStartArgs, form: Form) -> Result<u8, Failure> {
    let accelerator = match args.accel.as_str() {
        "auto" => AcceleratorChoice::Auto,
        "kvm" => AcceleratorChoice::Kvm,
        "tcg" => AcceleratorChoice::Tcg,
        other => {
            return Err(bad(format!("--accel does not know '{}'; it knows auto, kvm, tcg", shown(other))));
        }
    };
    if site.ignores_hold() {
        warn("OUTLAST_HOLD is ignored: this home is not marked for proofs");
    }
    let mut notices = Notices::default();
    let request = StartRequest { accelerator, cold: args.cold };
    let started = outlast_control::vm::start(site, &args.name, request, &mut |notice| notices.show(notice));
    drop(notices);
    let view = started?;
    match form {
        Form::Json => json(&view)?,
        Form::Text => facts(&started_text(&view))?,
    }
    Ok(DONE)
}

fn started_text(view: &VmStartedView) -> String {
    if view.already {
        return format!("{} is already running\n", view.name);
    }
    let from = match view.started_from.as_deref() {
        Some("clone") => " from a template",
        Some("restore") => " from a snapshot",
        Some(_) => " cold",
        None => "",
    };
    let ready = view.timings_ms.ready.and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok());
    let took = ready.map(|took| format!(" in {}", human::duration(took))).unwrap_or_default();
    format!("{} runs, started{from}{took}\n", view.name)
}

pub(super) fn stop(site: &Site, args: &VmStopArgs, form: Form) -> Result<u8, Failure> {
    let mut request = StopRequest { force: args.force, ..StopRequest::default() };
    if let Some(text) = &args.timeout {
        let timeout: Timeout = text.parse().map_err(|error| bad(format!("--timeout: {error}")))?;
        request.within = timeout.duration();
    }
    let view = outlast_control::vm::stop(site, &args.name, request)?;
    match form {
        Form::Json => json(&view)?,
        Form::Text => facts(&stopped_text(&view))?,
    }
    Ok(DONE)
}

fn stopped_text(view: &VmStoppedView) -> String {
    if view.already {
        return format!("{} is already stopped\n", view.name);
    }
    let how = match view.rung.as_deref() {
        Some("agent") => ": its guest powered off",
        Some("vmm") => ": its VMM powered it off",
        Some("term") => ": its VMM ended on SIGTERM",
        Some("kill") => ": its VMM was killed",
        Some(_) | None => "",
    };
    let cause = view.death.as_ref().map(|death| death.cause.replace('_', " "));
    let cause = cause.filter(|cause| cause != "stopped").map(|cause| format!(" ({cause})"));
    format!("{} is stopped{how}{}\n", view.name, cause.unwrap_or_default())
}

pub(super) fn rm(site: &Site, args: &VmRmArgs, form: Form) -> Result<u8, Failure> {
    let removal = Removal { stop: args.force.then(StopRequest::default), keep_disks: args.keep_disks };
    let view = outlast_control::vm::remove(site, &args.name, removal)?;
    match form {
        Form::Json => json(&view)?,
        Form::Text => {
            let kept = view.kept.as_ref().map(|path| format!("; its disk is kept: {path}"));
            facts(&format!("{} is removed{}\n", view.removed, kept.unwrap_or_default()))?;
        }
    }
    Ok(DONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stopped(already: bool, rung: Option<&str>) -> String {
        let (id, name) = ("01h".to_owned(), "web".to_owned());
        stopped_text(&VmStoppedView { id, name, already, rung: rung.map(str::to_owned), death: None })
    }

    #[test]
    fn a_stop_says_which_rung_worked() {
        assert_eq!(stopped(true, None), "web is already stopped\n");
        assert_eq!(stopped(false, Some("agent")), "web is stopped: its guest powered off\n");
        assert_eq!(stopped(false, Some("kill")), "web is stopped: its VMM was killed\n");
        assert_eq!(stopped(false, None), "web is stopped\n");
    }

    #[test]
    fn a_start_says_from_what_and_how_fast() {
        let mut view: VmStartedView = serde_json::from_value(serde_json::json!({
            "id": "01h", "name": "web", "incarnation": "01i", "already": false, "started_from": "clone",
            "timings_ms": {"ready": 312.0, "exec": null, "total": null}, "certificate": null
        }))
        .unwrap();
        assert_eq!(started_text(&view), "web runs, started from a template in 312 ms\n");
        view.already = true;
        assert_eq!(started_text(&view), "web is already running\n");
    }
}
