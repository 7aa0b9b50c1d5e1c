//! The exit codes of the command line, all of them.

use outlast_model::Outcome;

/// Exit codes of `outlast run` and `outlast vm exec` that are not the guest program's own.
pub mod run {
    /// Everything that is outlast's: bad input, not found, wrong state, not started, lost.
    pub const OURS: u8 = 125;
    /// The program's time was over.
    pub const TIMED_OUT: u8 = 124;
    /// Killed, or out of memory: 128 + SIGKILL.
    pub const KILLED: u8 = 137;
    /// Added to the number of the signal that killed the program.
    pub const SIGNAL_BASE: u8 = 128;
}

/// Exit codes of `outlast prove`.
pub mod prove {
    /// Every case passed.
    pub const PASS: u8 = 0;
    /// A case failed.
    pub const FAIL: u8 = 1;
    /// A case could not be decided, and none failed.
    pub const UNKNOWN: u8 = 2;
    /// The command line was wrong.
    pub const USAGE: u8 = 64;
}

/// Exit codes of every other command.
pub mod other {
    /// Done.
    pub const DONE: u8 = 0;
    /// Failed.
    pub const FAILED: u8 = 1;
    /// The command line was wrong.
    pub const USAGE: u8 = 2;
    /// There is no such thing.
    pub const NOT_FOUND: u8 = 3;
    /// Wrong state, or somebody else holds it.
    pub const CONFLICT: u8 = 4;
    /// Not permitted.
    pub const NOT_PERMITTED: u8 = 5;
    /// This host cannot do it.
    pub const HOST: u8 = 6;
}

/// The kinds of failure that scripts can tell apart, by exit code and by `kind` with `--json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// What was asked for makes no sense.
    BadInput,
    /// There is no such thing.
    NotFound,
    /// Wrong state, or somebody else holds it.
    Conflict,
    /// Not permitted.
    NotPermitted,
    /// This host cannot do it.
    Host,
    /// It was tried and did not work.
    Failed,
}

impl FailureKind {
    /// The word printed with `--json`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadInput => "bad_input",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::NotPermitted => "not_permitted",
            Self::Host => "host",
            Self::Failed => "failed",
        }
    }

    /// The exit code of every command but `run`, `vm exec` and `prove`.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::BadInput => other::USAGE,
            Self::NotFound => other::NOT_FOUND,
            Self::Conflict => other::CONFLICT,
            Self::NotPermitted => other::NOT_PERMITTED,
            Self::Host => other::HOST,
            Self::Failed => other::FAILED,
        }
    }
}

/// The exit code `outlast run` ends with for an outcome.
pub fn of_outcome(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Completed => 0,
        // A code outside 1..=255 is a guest's lie; it must at least not look like success.
        Outcome::Exited { code } => u8::try_from(*code).ok().filter(|c| *c != 0).unwrap_or(u8::MAX),
        Outcome::Signalled { signal } => {
            u8::try_from(*signal).ok().and_then(|s| run::SIGNAL_BASE.checked_add(s)).unwrap_or(u8::MAX)
        }
        Outcome::TimedOut => run::TIMED_OUT,
        Outcome::Killed { .. } | Outcome::OutOfMemory => run::KILLED,
        Outcome::NotStarted { .. } | Outcome::Lost { .. } => run::OURS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_table_is_the_contract() {
        assert_eq!(of_outcome(&Outcome::Completed), 0);
        assert_eq!(of_outcome(&Outcome::Exited { code: 3 }), 3);
        assert_eq!(of_outcome(&Outcome::Signalled { signal: 11 }), 139);
        assert_eq!(of_outcome(&Outcome::TimedOut), 124);
        assert_eq!(of_outcome(&Outcome::OutOfMemory), 137);
        assert_eq!(of_outcome(&Outcome::Lost { cause: String::new() }), 125);
    }

    proptest! {
        #[test]
        fn only_completed_is_zero(code: i32, signal: i32) {
            prop_assert_ne!(of_outcome(&Outcome::Exited { code }), 0);
            prop_assert_ne!(of_outcome(&Outcome::Signalled { signal }), 0);
        }
    }
}
