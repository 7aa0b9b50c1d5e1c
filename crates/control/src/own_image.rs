//! Images from a user's own kernel and root file system: stored, tried by a boot, and only then given their name.

use crate::accelerator::{self, AcceleratorChoice};
use crate::error::Error;
use crate::image::{BuildReport, own_view};
use crate::incarnation::{self, Ground, Made};
use crate::notice::Notify;
use crate::site::Site;
use outlast_machine::image::{Bootable, Image, Progress, own};
use outlast_model::{DeathCause, VcpuCount, timeout};
use outlast_store::IncarnationRow;
use outlast_wire::exit_code::FailureKind;
use outlast_wire::intent::{Machine, Purpose, Start};
use outlast_wire::view::ImageView;
use std::path::Path;
use thiserror::Error;

pub use outlast_machine::image::own::{Addition, AdditionError};

/// What the agent says on the console begins so.
const AGENT: &str = "outlast-agent: ";
/// With it a guest does not come up without its root file system, whose driver may be missing.
const ROOT_REQUIRED: &str = "outlast.root=/dev/vda";

/// Of a guest's console so many lines from its end are shown.
const LAST_LINES: usize = 12;

/// Whether an image is tried before it gets its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trial {
    /// It is booted once, and must answer.
    Boot,
    /// It is believed.
    None,
}

/// An image was tried and did not come up.
#[derive(Debug, Error)]
#[error("image '{name}' does not boot: it ended as {cause}: {evidence}{}", said(.console))]
pub struct TrialError {
    /// The image.
    pub name: String,
    /// The cause on the death certificate.
    pub cause: String,
    /// The first piece of evidence.
    pub evidence: String,
    /// The last lines of the guest's console.
    pub console: Vec<String>,
}

impl TrialError {
    /// The kind, from which exit codes follow.
    pub fn kind(&self) -> FailureKind {
        FailureKind::Failed
    }
}

fn said(console: &[String]) -> String {
    if console.is_empty() {
        return "; its console said nothing (console=ttyS0 needs CONFIG_SERIAL_8250_CONSOLE)".to_owned();
    }
    format!("; its console said at last:\n  {}", console.join("\n  "))
}

/// Makes an image of what was given.
///
/// # Errors
/// [`AdditionError`] when it cannot be one; [`TrialError`] when it does not boot: the library is as before.
pub fn add(
    site: &Site,
    addition: &Addition,
    trial: Trial,
    report: BuildReport<'_>,
    notify: Notify<'_>,
) -> Result<ImageView, Error> {
    let library = site.places().library();
    let mut pass_on = |progress: Progress<'_>| {
        report(progress.phase, progress.done, progress.total, progress.detail);
    };
    let unnamed = own::store(&library, addition, &mut pass_on)?;
    if trial == Trial::Boot {
        let tried = try_boot(site, unnamed.image(), notify);
        if let Err(error) = tried {
            drop(unnamed);
            // What cannot be removed now has no name, and is removed by the next build.
            if let Err(error) = outlast_machine::image::sweep(&library) {
                tracing::debug!(%error, "an image that did not boot was not removed");
            }
            return Err(error);
        }
    }
    Ok(own_view(&unnamed.publish(&library)?))
}

fn try_boot(site: &Site, image: &Image, notify: Notify<'_>) -> Result<(), Error> {
    let bootable = Bootable::choose(&site.places().libraries(), image.clone())?;
    let ground = Ground::open(site, bootable)?;
    let chosen = accelerator::choose(site, AcceleratorChoice::Auto, &ground, notify)?;
    let machine =
        ground.machine(chosen, VcpuCount::ONE, ground.needs().machine_for(ground.needs().min_limit));
    let machine = Machine { command_line: format!("{} {ROOT_REQUIRED}", machine.command_line), ..machine };
    let id = incarnation::new_id()?;
    let made = Made {
        purpose: Purpose::Canary,
        machine,
        start: Start::Boot,
        boot_timeout: timeout::BOOT,
        fell_back: None,
        ingredients: None,
    };
    let row = incarnation::live_through(site, id, made, &ground.locks(), timeout::BOOT)?;
    let came_up = row.running_unix_ns.is_some()
        && row.death.as_ref().is_some_and(|d| d.cause == DeathCause::Stopped.name());
    if came_up { Ok(()) } else { Err(failed(site, image.name(), &row).into()) }
}

fn failed(site: &Site, name: &str, row: &IncarnationRow) -> TrialError {
    let death = row.death.as_ref();
    let evidence = death.and_then(|death| death.evidence.first().cloned());
    TrialError {
        name: name.to_owned(),
        cause: death.map_or("unknown", |death| death.cause.as_str()).replace('_', " "),
        evidence: evidence.unwrap_or_else(|| "no evidence was kept".to_owned()),
        console: last_lines(&site.places().evidence(row.id).console_log()),
    }
}

/// What a guest says is shown with nothing in it that a terminal would obey.
fn last_lines(log: &Path) -> Vec<String> {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let plain = |line: &str| line.chars().filter(|c| !c.is_control()).take(200).collect::<String>();
    let lines: Vec<String> = text.lines().map(plain).filter(|line| !line.trim().is_empty()).collect();
    // What the agent says is the reason; a kernel that panics for it says much more, and later.
    let told = lines.iter().filter_map(|line| line.find(AGENT).map(|at| line[at..].to_owned()));
    let told: Vec<String> = told.collect();
    let lines = if told.is_empty() { lines } else { told };
    lines[lines.len().saturating_sub(LAST_LINES)..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_console_the_last_lines_are_shown_and_nothing_that_a_terminal_obeys() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("console.log");
        let text = "line\x1b[2J\r\n\n".repeat(40);
        std::fs::write(&path, text + "\u{ff}").unwrap();
        let lines = last_lines(&path);
        assert_eq!(lines.len(), LAST_LINES);
        assert!(lines.iter().all(|line| !line.contains('\x1b')));
        let told = "Booting from ROM..outlast-agent: cannot go on\n[ 1.0] Kernel panic\n[ 1.1] Call Trace:\n";
        std::fs::write(&path, told).unwrap();
        assert_eq!(last_lines(&path), ["outlast-agent: cannot go on"]);
        assert!(last_lines(&top.path().join("none")).is_empty());
    }
}
