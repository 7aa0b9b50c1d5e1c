//! `outlast run`.

use super::Form;
use super::request::{Plan, plan};
use crate::args::RunArgs;
use crate::failure::Failure;
use crate::output::progress::{Notices, warn};
use crate::output::stream::{Nowhere, OwnStreams};
use crate::output::{facts, json, json_unless, note};
use outlast_control::{Accepted, Finished, Interrupts, Sink, Site};
use outlast_model::Outcome;
use outlast_wire::exit_code::{FailureKind, of_outcome, run as codes};
use outlast_wire::view::AcceptedView;
use std::path::Path;

pub(super) fn run(site: &Site, args: RunArgs, form: Form) -> Result<u8, Failure> {
    let detach = args.detach;
    let Plan { request, output_dir } = plan(args, std::io::stdin().lock())?;
    if site.ignores_hold() {
        warn("OUTLAST_HOLD is ignored: this home is not marked for proofs");
    }
    let mut notices = Notices::default();
    let mut accepted = outlast_control::run(site, request, &mut |notice| notices.show(notice))?;
    if accepted.existing {
        note(&format!("workload {} was accepted with this key before", accepted.id));
    }
    if detach {
        return print_id(&accepted, form);
    }
    let warned = !notices.warnings.is_empty();
    drop(notices);
    let _kept = accepted.keep_evidence();
    follow(site, accepted, (form, warned), output_dir.as_deref())
}

fn print_id(accepted: &Accepted, form: Form) -> Result<u8, Failure> {
    let id = accepted.id.to_string();
    match form {
        Form::Text => facts(&format!("{id}\n"))?,
        Form::Json => json(&AcceptedView { id, existing: accepted.existing })?,
    }
    Ok(0)
}

fn follow(
    site: &Site,
    accepted: Accepted,
    (form, warned): (Form, bool),
    output_dir: Option<&Path>,
) -> Result<u8, Failure> {
    let id = accepted.id;
    // After the runner was started: it must not inherit a mask. What is not ours does not end with us.
    let interrupts = if accepted.existing { None } else { Interrupts::block().ok() };
    let sink: &mut dyn Sink = match form {
        Form::Text => &mut OwnStreams::default(),
        Form::Json => &mut Nowhere,
    };
    let finished = accepted.follow(site, sink, interrupts.as_ref())?;
    tell(&finished, warned);
    let handed_back = output_dir.map_or(Ok(()), |directory| hand_back(site, &finished, directory));
    if let Err(failure) = &handed_back {
        failure.tell();
    }
    if form == Form::Json {
        let mut view = outlast_control::run_view(site, id, &finished.outcome)?;
        view.outputs_error = handed_back.as_ref().err().map(|failure| failure.message().to_owned());
        if !json_unless(interrupts.as_ref(), &view)? {
            note(&format!("interrupted; see: outlast show {id}"));
            return Ok(codes::OURS);
        }
    }
    // A program that did well and whose files are missing has not done what was asked for; one that failed has its
    // own code to tell.
    if handed_back.is_err() && finished.outcome == Outcome::Completed {
        return Ok(codes::OURS);
    }
    Ok(of_outcome(&finished.outcome))
}

/// What there is to say beside the output: nothing, when all is well.
fn tell(finished: &Finished, warned: bool) {
    if finished.truncated_bytes > 0 {
        warn(&format!("output truncated, {} bytes dropped", finished.truncated_bytes));
    }
    if finished.output_pruned {
        let id = finished.workload;
        warn(&format!(
            "this was run before as workload {id}, whose output has been pruned since; its outcome is kept"
        ));
    }
    if let Some(because) = finished.fell_back.as_ref().filter(|_| !warned) {
        warn(&format!("it booted cold: {because}"));
    }
    if finished.outcome != Outcome::Completed {
        note(&format!("outlast: workload {}: {}", finished.workload, finished.outcome));
    }
}

fn hand_back(site: &Site, finished: &Finished, directory: &Path) -> Result<(), Failure> {
    let workload = finished.workload;
    if outlast_control::hand_back(site, workload, directory)?.is_some() {
        return Ok(());
    }
    let (target, outcome) = (directory.display(), &finished.outcome);
    let message = if finished.output_pruned {
        format!(
            "the files of workload {workload} have been pruned: none came to {target}; it ended as {outcome}"
        )
    } else {
        format!("no files came back from workload {workload} to {target}; it ended as {outcome}")
    };
    Err(Failure::new(FailureKind::Failed, message).hint(format!("outlast show {workload}")))
}
