//! How a command fails: one sentence that names thing, operation and cause, the next command, one exit code.

use crate::output::{self, human, style};
use outlast_control::{Error, FollowError};
use outlast_wire::exit_code::{FailureKind, run};
use outlast_wire::view::{ErrorBody, ErrorView};
use std::ffi::OsString;
use std::io;

/// A failure, ready to be shown.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: FailureKind,
    message: String,
    hint: Option<String>,
    /// Nobody reads what we print: there is nothing more to say, and nothing went wrong.
    unread: bool,
}

/// What the caller expects of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Surface {
    /// `outlast run` and `outlast vm exec` have exit codes of their own: everything that is ours is 125.
    pub(crate) is_run: bool,
    /// Whether failures are printed as JSON, too.
    pub(crate) json: bool,
}

impl Surface {
    /// Told by the words alone, because they may not be a command that can be parsed.
    pub(crate) fn of(words: &[OsString]) -> Self {
        let ours: Vec<&OsString> = words.iter().skip(1).take_while(|word| *word != "--").collect();
        let mut commands = ours.iter().filter(|word| !word.to_string_lossy().starts_with('-'));
        let is_run = match commands.next() {
            Some(word) if *word == "run" => true,
            Some(word) if *word == "vm" => commands.next().is_some_and(|word| *word == "exec"),
            Some(_) | None => false,
        };
        Self { is_run, json: ours.iter().any(|word| *word == "--json") }
    }
}

impl Failure {
    /// A failure of this kind.
    pub(crate) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, unread: false }
    }

    /// With the next command to type.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The failure of printing. A reader that went away is none.
    pub(crate) fn printing(error: &io::Error) -> Self {
        let failure = Self::new(FailureKind::Failed, format!("cannot write standard output: {error}"));
        Self { unread: error.kind() == io::ErrorKind::BrokenPipe, ..failure }
    }

    /// Shows it and gives back the exit code.
    pub(crate) fn show(self, surface: Surface) -> u8 {
        if self.unread && !surface.is_run {
            return 0;
        }
        self.tell();
        if surface.json {
            let error =
                ErrorBody { kind: self.kind.name().to_owned(), message: self.message, hint: self.hint };
            // If even that cannot be printed, the exit code says it.
            let _ = output::json(&ErrorView { error });
        }
        if surface.is_run { run::OURS } else { self.kind.exit_code() }
    }
}

impl Failure {
    /// The sentence a person sees.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Tells a person; for a failure beside a result that has been printed.
    pub(crate) fn tell(&self) {
        output::note(&format!("{} {}", style::error("error:"), human::lines(&self.message)));
        if let Some(hint) = &self.hint {
            output::note(&format!("{}  {}", style::dim("next:"), human::lines(hint)));
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (kind, hint) = (error.kind(), error.hint());
        let full = error.is_disk_full();
        let mut message = outlast_control::chain(&error);
        if full && !message.contains("no space") && !message.contains("No space") {
            message = format!("no space on disk: {message}");
        }
        let unread = matches!(&error, Error::Follow(FollowError::Sink { source, .. } | FollowError::Show { source, .. })
            if source.kind() == io::ErrorKind::BrokenPipe);
        Self { kind, message, hint, unread }
    }
}

/// Shows what clap has to say: help and versions as well as usage errors.
pub(crate) fn show_usage(error: &clap::Error, surface: Surface) -> u8 {
    use clap::error::ErrorKind;
    let _ = error.print();
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return 0;
    }
    if surface.json {
        let text = error.render().to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let hint = Some("outlast --help".to_owned());
        let body = ErrorBody { kind: FailureKind::BadInput.name().to_owned(), message, hint };
        let _ = output::json(&ErrorView { error: body });
    }
    if surface.is_run { run::OURS } else { FailureKind::BadInput.exit_code() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surface(line: &str) -> (bool, bool) {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        let Surface { is_run, json } = Surface::of(&words);
        (is_run, json)
    }

    #[test]
    fn what_is_expected_is_told_by_the_words() {
        assert_eq!(surface("outlast run --dance"), (true, false));
        assert_eq!(surface("outlast --json run x"), (true, true));
        assert_eq!(surface("outlast run x -- --json"), (true, false));
        assert_eq!(surface("outlast ps --json"), (false, true));
        assert_eq!(surface("outlast show run"), (false, false));
        assert_eq!(surface("outlast vm exec web -- ls"), (true, false));
        assert_eq!(surface("outlast --json vm exec --dance"), (true, true));
        assert_eq!(surface("outlast vm start exec"), (false, false));
        assert_eq!(surface("outlast"), (false, false));
    }

    #[test]
    fn exit_codes_follow_from_kind_and_command() {
        let failure = || Failure::new(FailureKind::NotFound, "there is nothing");
        assert_eq!(failure().show(Surface { is_run: true, json: false }), 125);
        assert_eq!(failure().show(Surface { is_run: false, json: false }), 3);
        let unread = Failure::printing(&io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(unread.show(Surface { is_run: false, json: false }), 0);
    }
}
