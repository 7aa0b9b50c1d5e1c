//! Progress of long work: a spinner or bar on a terminal, a line a phase elsewhere when it is asked for.

use super::{note, style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use outlast_control::Notice;
use outlast_control::image::Phase;
use std::time::Duration;

const TICK: Duration = Duration::from_millis(100);

/// Shows what `outlast_control` says of its work.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    spinner: Option<ProgressBar>,
    /// Warnings that were shown.
    pub(crate) warnings: Vec<String>,
}

impl Notices {
    /// Shows one.
    pub(crate) fn show(&mut self, notice: Notice<'_>) {
        match notice {
            Notice::TryingKvm => {
                self.spin("trying whether KVM works (once per boot of this host, up to 20 s)");
            }
            Notice::WaitingForTemplate { image } => {
                self.spin(&format!("waiting for another process that makes the {image} template"));
            }
            Notice::MakingTemplate { image } => self.spin(&format!("making the {image} template (once)")),
            Notice::TakingSnapshot { vm } => {
                self.spin(&format!("taking a snapshot of {vm}, which stands still"));
            }
            Notice::HashingSnapshot { vm } => self.spin(&format!("reading every byte of a snapshot of {vm}")),
            Notice::Done => self.stop(),
            Notice::Warning(text) => {
                self.stop();
                warn(text);
                self.warnings.push(text.to_owned());
            }
        }
    }

    fn spin(&mut self, text: &str) {
        self.stop();
        if style::stderr_is_terminal() {
            self.spinner = Some(spinner(text));
        }
    }

    fn stop(&mut self) {
        if let Some(spinner) = self.spinner.take() {
            spinner.finish_and_clear();
        }
    }
}

impl Drop for Notices {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Tells a person that something is abnormal, and nothing lost.
pub(crate) fn warn(text: &str) {
    note(&format!("{} {text}", style::warning("warning:")));
}

fn spinner(text: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(template("{spinner} {msg} [{elapsed}]"));
    bar.set_message(text.to_owned());
    bar.enable_steady_tick(TICK);
    bar
}

fn template(text: &str) -> ProgressStyle {
    ProgressStyle::with_template(text).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// The progress of one build or check of an image.
#[derive(Debug)]
pub(crate) struct Build {
    name: String,
    bar: Option<ProgressBar>,
    phase: Option<Phase>,
}

impl Build {
    /// Of this image.
    pub(crate) fn of(name: &str) -> Self {
        let bar = style::stderr_is_terminal().then(|| spinner(name));
        Self { name: name.to_owned(), bar, phase: None }
    }

    /// Shows one report.
    pub(crate) fn show(&mut self, phase: Phase, done: u64, total: Option<u64>, detail: &str) {
        let begins = self.phase.replace(phase) != Some(phase);
        let Some(bar) = &self.bar else {
            if begins {
                note(&format!("{}: {}", self.name, phase.describe()));
            }
            return;
        };
        // What programs say goes to a terminal: nothing in it may be obeyed there.
        let detail: String = detail.chars().filter(|c| !c.is_control()).take(60).collect();
        match total.filter(|total| *total > 1) {
            Some(total) => {
                bar.set_style(template("{spinner} {prefix} [{bar:24}] {pos}/{len} {msg}"));
                bar.set_length(total);
                bar.set_position(done);
            }
            None => bar.set_style(template("{spinner} {prefix} [{elapsed}] {msg}")),
        }
        bar.set_prefix(format!("{}: {}", self.name, phase.describe()));
        bar.set_message(detail);
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// How much of a copy has gone by; on a terminal only.
#[derive(Debug)]
pub(crate) struct Meter {
    bar: Option<ProgressBar>,
}

impl Meter {
    /// Nothing yet.
    pub(crate) fn start() -> Self {
        let bar = style::stderr_is_terminal().then(|| {
            let bar = spinner("");
            bar.set_style(template("{spinner} {bytes} copied, {bytes_per_sec} [{elapsed}]"));
            bar
        });
        Self { bar }
    }

    /// So many bytes.
    pub(crate) fn show(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
