//! `outlast vm snapshot`, `vm snapshots ls|rm|verify` and `vm restore`.

use super::list::now_unix_ns;
use super::{DONE, Form};
use crate::args::{VmRestoreArgs, VmSnapshotArgs, VmSnapshotVerifyArgs, VmSnapshotsCommand};
use crate::failure::Failure;
use crate::output::progress::{Notices, warn};
use crate::output::{facts, human, json, table};
use outlast_control::Site;
use outlast_control::vm::snapshot::{self, OfLiving};
use outlast_wire::exit_code::FailureKind;
use outlast_wire::vm_snapshot_view::{SnapshotVerifiedView, SnapshotView, VmRestoredView, VmSnapshotView};
use std::time::Duration;

pub(super) fn take(site: &Site, args: &VmSnapshotArgs, form: Form) -> Result<u8, Failure> {
    let mut notices = Notices::default();
    let taken = snapshot::take(site, &args.name, &args.snapshot, &mut |notice| notices.show(notice));
    drop(notices);
    let view = taken?;
    match form {
        Form::Json => json(&view)?,
        Form::Text => facts(&taken_text(&view))?,
    }
    Ok(DONE)
}

fn taken_text(view: &VmSnapshotView) -> String {
    let size = human::bytes(view.snapshot.bytes);
    let still = match view.paused_us {
        0 => String::new(),
        us => format!(", {} stood still for {}", view.vm_name, human::duration(Duration::from_micros(us))),
    };
    format!("{} of {} is taken: {size}{still}\n", view.snapshot.name, view.vm_name)
}

pub(super) fn snapshots(site: &Site, command: &VmSnapshotsCommand, form: Form) -> Result<u8, Failure> {
    match command {
        VmSnapshotsCommand::Ls(args) => ls(site, &args.name, form),
        VmSnapshotsCommand::Rm(args) => rm(site, args, form),
        VmSnapshotsCommand::Verify(args) => verify(site, args, form),
    }
}

fn ls(site: &Site, name: &str, form: Form) -> Result<u8, Failure> {
    let views = snapshot::list(site, name)?;
    if form == Form::Json {
        json(&views)?;
        return Ok(DONE);
    }
    let now = now_unix_ns();
    let rows = views.iter().map(|view| row(view, now)).collect();
    table(
        &["NAME", "TAKEN", "SIZE", "STATE"],
        rows,
        &format!("no snapshots of {name} (outlast vm snapshot {name} NAME)"),
    )?;
    Ok(DONE)
}

fn row(view: &SnapshotView, now: u64) -> Vec<String> {
    let taken = match view.created_unix_ns {
        0 => "-".to_owned(),
        then => human::ago(then, now),
    };
    let state =
        view.damage.as_ref().map_or_else(|| view.state.clone(), |damage| format!("{}: {damage}", view.state));
    vec![view.name.clone(), taken, human::bytes(view.bytes), human::lines(&state)]
}

fn rm(site: &Site, args: &VmSnapshotArgs, form: Form) -> Result<u8, Failure> {
    let view = snapshot::remove(site, &args.name, &args.snapshot)?;
    match form {
        Form::Json => json(&view)?,
        Form::Text => facts(&format!("{} of {} is removed\n", view.removed, view.vm_name))?,
    }
    Ok(DONE)
}

/// Everything is told; that one is damaged is the exit code's to tell, too.
fn verify(site: &Site, args: &VmSnapshotVerifyArgs, form: Form) -> Result<u8, Failure> {
    let views = snapshot::verify(site, &args.name, args.snapshot.as_deref())?;
    match form {
        Form::Json => json(&views)?,
        Form::Text => facts(&views.iter().map(verified_text).collect::<String>())?,
    }
    let damaged = views.iter().any(|view| !view.whole);
    Ok(if damaged { FailureKind::Failed.exit_code() } else { DONE })
}

fn verified_text(view: &SnapshotVerifiedView) -> String {
    let read = human::bytes(view.bytes);
    match &view.damage {
        None => format!("{} of {} is whole: {read}\n", view.name, view.vm_name),
        Some(damage) => format!("{} of {} is damaged: {}\n", view.name, view.vm_name, human::lines(damage)),
    }
}

pub(super) fn restore(site: &Site, args: &VmRestoreArgs, form: Form) -> Result<u8, Failure> {
    if site.ignores_hold() {
        warn("OUTLAST_HOLD is ignored: this home is not marked for proofs");
    }
    let of_living = if args.force { OfLiving::Kill } else { OfLiving::Refuse };
    let mut notices = Notices::default();
    let restored =
        snapshot::restore(site, &args.name, &args.snapshot, of_living, &mut |notice| notices.show(notice));
    drop(notices);
    let view = restored?;
    match form {
        Form::Json => json(&view)?,
        Form::Text => facts(&restored_text(&view))?,
    }
    Ok(DONE)
}

fn restored_text(view: &VmRestoredView) -> String {
    let ready = view.started.timings_ms.ready.and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok());
    let took = ready.map(|took| format!(" in {}", human::duration(took))).unwrap_or_default();
    format!("{} runs, restored from {}{took}\n", view.started.name, view.restored_from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(damage: Option<&str>) -> SnapshotView {
        SnapshotView {
            name: "before".to_owned(),
            id: Some("01h".to_owned()),
            state: if damage.is_some() { "damaged" } else { "ready" }.to_owned(),
            damage: damage.map(str::to_owned),
            created_unix_ns: 1_000_000_000,
            bytes: 3 << 20,
        }
    }

    #[test]
    fn a_snapshot_that_was_taken_says_how_long_the_vm_stood_still() {
        let mut view = VmSnapshotView {
            vm: "01v".to_owned(),
            vm_name: "web".to_owned(),
            incarnation: "01i".to_owned(),
            snapshot: snapshot(None),
            paused_us: 250_000,
        };
        assert_eq!(taken_text(&view), "before of web is taken: 3.0 MiB, web stood still for 250 ms\n");
        view.paused_us = 0;
        assert_eq!(taken_text(&view), "before of web is taken: 3.0 MiB\n");
    }

    #[test]
    fn a_row_tells_what_is_wrong_and_nothing_that_a_terminal_would_obey() {
        assert_eq!(row(&snapshot(None), 3_000_000_000), ["before", "2.0 s ago", "3.0 MiB", "ready"]);
        let damaged = SnapshotView { created_unix_ns: 0, ..snapshot(Some("its \u{1b}[2J")) };
        assert_eq!(row(&damaged, 0), ["before", "-", "3.0 MiB", "damaged: its \\u{1b}[2J"]);
    }

    #[test]
    fn a_damaged_snapshot_is_told_with_its_part() {
        let mut view = SnapshotVerifiedView {
            vm_name: "web".to_owned(),
            name: "before".to_owned(),
            whole: true,
            part: None,
            damage: None,
            bytes: 1 << 30,
        };
        assert_eq!(verified_text(&view), "before of web is whole: 1.0 GiB\n");
        view.damage = Some("its disk has changed".to_owned());
        assert_eq!(verified_text(&view), "before of web is damaged: its disk has changed\n");
    }

    #[test]
    fn a_restore_says_from_what_and_how_fast() {
        let view: VmRestoredView = serde_json::from_value(serde_json::json!({
            "id": "01h", "name": "web", "incarnation": "01i", "already": false, "started_from": "restore",
            "timings_ms": {"ready": 312.0, "exec": null, "total": null}, "certificate": null,
            "restored_from": "before"
        }))
        .unwrap();
        assert_eq!(restored_text(&view), "web runs, restored from before in 312 ms\n");
    }
}
