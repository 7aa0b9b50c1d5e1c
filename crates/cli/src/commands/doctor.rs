//! `outlast doctor`.

use super::{DONE, Form};
use crate::args::DoctorArgs;
use crate::failure::Failure;
use crate::output::progress::Notices;
use crate::output::{json, note, table};
use outlast_control::{Mend, Site};
use outlast_wire::exit_code::other;
use outlast_wire::view::{DoctorView, LeakView};

pub(super) fn doctor(site: &Site, args: &DoctorArgs, form: Form) -> Result<u8, Failure> {
    let mend = if args.fix { Mend::Yes } else { Mend::No };
    let mut notices = Notices::default();
    let view = outlast_control::doctor(site, mend, &mut |notice| notices.show(notice))?;
    drop(notices);
    match form {
        Form::Json => json(&view)?,
        Form::Text => print(&view)?,
    }
    Ok(exit_code(&view))
}

fn print(view: &DoctorView) -> Result<(), Failure> {
    let row = |check: &outlast_wire::view::CheckView| {
        vec![
            check.name.clone(),
            check.status.clone(),
            check.found.clone(),
            check.fix.clone().unwrap_or_default(),
        ]
    };
    table(
        &["CHECK", "STATUS", "FOUND", "FIX"],
        view.checks.iter().map(row).collect(),
        "nothing was looked at",
    )?;
    if view.leaks.is_empty() {
        note("nothing is left behind by anything that is over");
        return Ok(());
    }
    let leak = |leak: &LeakView| {
        let removed = if leak.removed { "removed" } else { "still there" };
        vec![leak.kind.clone(), leak.name.clone(), removed.to_owned()]
    };
    table(&["LEFT BEHIND", "NAME", ""], view.leaks.iter().map(leak).collect(), "")?;
    if view.leaks.iter().any(|leak| !leak.removed) {
        note("remove it with: outlast doctor --fix");
    }
    Ok(())
}

/// Looking is done; what was seen decides.
fn exit_code(view: &DoctorView) -> u8 {
    if !outlast_control::can_run(view) {
        return other::HOST;
    }
    if view.leaks.iter().any(|leak| !leak.removed) { other::FAILED } else { DONE }
}
