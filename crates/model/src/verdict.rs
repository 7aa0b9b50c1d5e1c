//! Verdicts: pass, fail, unknown. Unknown is never success.

use std::fmt;

/// What a check came to. Ordered so that the worst of a group is its maximum: pass < unknown < fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Everything that had to be seen was seen.
    Pass,
    /// It could not be decided.
    Unknown,
    /// Something was seen that must not be.
    Fail,
}

impl Verdict {
    /// The verdict of a group: its worst member's. An empty group decides nothing.
    pub fn of_group(members: impl IntoIterator<Item = Self>) -> Self {
        members.into_iter().max().unwrap_or(Self::Unknown)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Pass => "pass",
            Self::Unknown => "unknown",
            Self::Fail => "fail",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Verdict::{self, Fail, Pass, Unknown};

    #[test]
    fn a_group_has_its_worst_members_verdict() {
        assert_eq!(Verdict::of_group([Pass, Pass]), Pass);
        assert_eq!(Verdict::of_group([Pass, Unknown]), Unknown);
        assert_eq!(Verdict::of_group([Unknown, Fail, Pass]), Fail);
    }

    #[test]
    fn nothing_checked_is_not_a_pass() {
        assert_eq!(Verdict::of_group([]), Unknown);
    }
}
