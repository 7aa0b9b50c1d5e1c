//! What the guest's side of a copy says: lines on its standard error, and its exit code. All of it is a claim, bounded
//! and plain before anybody sees it.

use super::super::error::VmError;
use super::super::exec::Ended;
use outlast_model::Outcome;
use outlast_wire::exit_code::FailureKind;
use outlast_wire::guest::copy::{CONFLICT, LEFT_OUT, MISSING, USAGE};
use outlast_wire::guest::guest_words;

/// Longer than anything that an honest agent says, in bytes.
const LONGEST: usize = 32 * 1024;

/// What was said so far.
#[derive(Debug, Default)]
pub(super) struct Words {
    text: Vec<u8>,
}

impl Words {
    /// Takes in what it says; what is too much is passed over.
    pub(super) fn hear(&mut self, bytes: &[u8]) {
        let room = LONGEST.saturating_sub(self.text.len());
        self.text.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// What it left out.
    pub(super) fn left_out(&self) -> Vec<String> {
        self.lines().filter_map(|line| line.strip_prefix(LEFT_OUT).map(guest_words)).collect()
    }

    /// What the end of its program means.
    pub(super) fn judge(&self, vm: &str, ended: &Ended) -> Result<(), VmError> {
        let name = vm.to_owned();
        match &ended.outcome {
            Outcome::Completed if ended.truncated_bytes == 0 => Ok(()),
            Outcome::Completed => Err(VmError::CopyCut {
                cause: format!("{} bytes of it could not be kept", ended.truncated_bytes),
            }),
            Outcome::Exited { code } if *code == i32::from(USAGE) => Err(VmError::AgentTooOld { name }),
            Outcome::Exited { code } => {
                let said = self
                    .lines()
                    .find(|line| !line.is_empty() && !line.starts_with(LEFT_OUT))
                    .map(guest_words);
                let cause = said.unwrap_or_else(|| format!("its program ended with code {code}"));
                Err(VmError::CopyThere { name, cause, kind: kind(*code) })
            }
            outcome => Err(VmError::CopyCut { cause: outcome.to_string() }),
        }
    }

    fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok())
    }
}

fn kind(code: i32) -> FailureKind {
    match u8::try_from(code) {
        Ok(MISSING) => FailureKind::NotFound,
        Ok(CONFLICT) => FailureKind::Conflict,
        _ => FailureKind::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(code: i32, said: &str) -> VmError {
        let mut words = Words::default();
        words.hear(said.as_bytes());
        words.judge("web", &Ended { outcome: Outcome::Exited { code }, truncated_bytes: 0 }).unwrap_err()
    }

    #[test]
    fn a_guest_says_why_and_in_plain_words() {
        let error = judged(3, "left out: x\nthere is no /a\u{1b}[2Jb\n");
        assert_eq!(
            (error.to_string(), error.kind()),
            ("web: there is no /a\u{fffd}[2Jb".to_owned(), FailureKind::NotFound)
        );
        assert!(judged(9, "").to_string().contains("code 9"));
        assert!(matches!(judged(2, "outlast-agent: 0.1"), VmError::AgentTooOld { .. }));
        let cut = Ended { outcome: Outcome::Completed, truncated_bytes: 1 };
        assert!(Words::default().judge("web", &cut).is_err(), "a copy that is not whole is no success");
    }

    #[test]
    fn what_a_guest_says_without_end_is_bounded() {
        let mut words = Words::default();
        for _ in 0..100 {
            words.hear(&[b'x'; 4096]);
        }
        assert_eq!(words.text.len(), LONGEST);
    }
}
