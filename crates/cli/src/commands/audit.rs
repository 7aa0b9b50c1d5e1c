//! `outlast audit verify` and `outlast events`.

use super::{DONE, Form};
use crate::args::{AuditVerifyArgs, EventsArgs};
use crate::failure::Failure;
use crate::output::{facts, human, json, json_line};
use outlast_control::Site;
use outlast_control::audit;
use outlast_wire::exit_code::other;
use outlast_wire::view::EventView;
use std::fmt::Write;

pub(super) fn verify(site: &Site, args: &AuditVerifyArgs, form: Form) -> Result<u8, Failure> {
    let kept = args.since.as_deref().map(str::parse).transpose().map_err(outlast_control::Error::Audit)?;
    let view = audit::verify(site, kept)?;
    if form == Form::Json {
        json(&view)?;
    } else {
        let mut text = String::new();
        for finding in &view.findings {
            let _ = writeln!(text, "{finding}");
        }
        if view.unlisted > 0 {
            let _ = writeln!(text, "and {} more findings", view.unlisted);
        }
        let verdict = if view.intact { "intact" } else { "NOT INTACT" };
        let _ = writeln!(text, "{verdict}: {} events, head {}", view.count, view.head);
        facts(&text)?;
    }
    Ok(if view.intact { DONE } else { other::FAILED })
}

pub(super) fn events(site: &Site, args: &EventsArgs, form: Form) -> Result<u8, Failure> {
    let mut printing = Ok(());
    audit::events(site, args.after, args.follow, &mut |event| {
        printing = match form {
            Form::Json => json_line(&event),
            Form::Text => facts(&line(&event)),
        };
        printing.is_ok()
    })?;
    printing.map(|()| DONE)
}

fn line(event: &EventView) -> String {
    let time = human::utc(event.unix_ns);
    format!("{:>6}  {time}  {:<26} {}  {}\n", event.seq, event.kind, event.subject, event.body)
}
