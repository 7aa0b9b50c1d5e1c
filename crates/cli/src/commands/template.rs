//! `outlast template`.

use super::{DONE, Form};
use crate::failure::Failure;
use crate::output::{human, json, note, table};
use outlast_control::Site;
use outlast_wire::view::{RemovedView, TemplateView};

pub(super) fn ls(site: &Site, form: Form) -> Result<u8, Failure> {
    let templates = outlast_control::list_templates(&site.places().library())?;
    if form == Form::Json {
        json(&templates)?;
        return Ok(DONE);
    }
    table(
        &["KEY", "STATE", "IMAGE", "ACCEL", "VCPUS", "MEMORY", "ON DISK", "MADE"],
        templates.iter().map(row).collect(),
        "no templates (the first run of an image makes one)",
    )?;
    Ok(DONE)
}

fn row(view: &TemplateView) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    // What was set aside is removed by the beginning of its key, too.
    let key = view.key.strip_prefix(".set-aside-").unwrap_or(&view.key);
    vec![
        key.get(..16).unwrap_or(key).to_owned(),
        view.state.clone(),
        or_dash(view.image.clone()),
        or_dash(view.accelerator.clone()),
        or_dash(view.vcpus.map(|count| count.to_string())),
        or_dash(view.memory.map(human::bytes)),
        human::bytes(view.bytes),
        or_dash(view.made_unix_ns.map(human::utc)),
    ]
}

pub(super) fn rm(site: &Site, key: &str, form: Form) -> Result<u8, Failure> {
    let removed = outlast_control::remove_template(&site.places().library(), key)?;
    match form {
        Form::Text => note(&format!("{removed}: removed")),
        Form::Json => json(&RemovedView { removed })?,
    }
    Ok(DONE)
}
