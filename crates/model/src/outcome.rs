//! How a workload ended: exactly one outcome, for ever.

use crate::step::BootStep;
use std::fmt;

/// How a workload ended. The first event in the runner's loop wins; nothing changes it afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The program exited with code 0.
    Completed,
    /// The program exited with another code.
    Exited {
        /// The exit code, 1 to 255.
        code: i32,
    },
    /// A signal killed the program.
    Signalled {
        /// The signal's number.
        signal: i32,
    },
    /// Its time was over.
    TimedOut,
    /// Somebody wanted it dead.
    Killed {
        /// Who.
        by: Killer,
    },
    /// The kernel of the guest killed it at its memory limit.
    OutOfMemory,
    /// It never ran.
    NotStarted {
        /// The step that failed.
        step: BootStep,
        /// Why, in words.
        cause: String,
    },
    /// It may have run; nobody can know how it ended.
    Lost {
        /// Why, in words.
        cause: String,
    },
}

/// Who killed a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Killer {
    /// A kill command or request.
    Request,
    /// The client whose foreground run this was is gone.
    ClientGone,
    /// Somebody sent the runner SIGTERM or SIGINT.
    HostSignal,
}

impl Killer {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Request, Self::ClientGone, Self::HostSignal];

    /// The words shown and stored.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::ClientGone => "client gone",
            Self::HostSignal => "host signal",
        }
    }
}

impl Outcome {
    /// The kind: `completed`, `failed`, `timed_out`, `killed`, `out_of_memory`, `not_started`, `lost`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Exited { .. } | Self::Signalled { .. } => "failed",
            Self::TimedOut => "timed_out",
            Self::Killed { .. } => "killed",
            Self::OutOfMemory => "out_of_memory",
            Self::NotStarted { .. } => "not_started",
            Self::Lost { .. } => "lost",
        }
    }

    /// The outcome of a program that ended by itself: by exit code, or by signal.
    pub const fn of_exit(code: i32) -> Self {
        if code == 0 { Self::Completed } else { Self::Exited { code } }
    }

    /// Whether the program may have had effects. Only [`Outcome::NotStarted`] promises that it had none.
    pub const fn may_have_run(&self) -> bool {
        !matches!(self, Self::NotStarted { .. })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed | Self::TimedOut | Self::OutOfMemory => out.pad(self.kind()),
            Self::Exited { code } => write!(out, "failed(exit code {code})"),
            Self::Signalled { signal } => write!(out, "failed(signal {signal})"),
            Self::Killed { by } => write!(out, "killed({})", by.name()),
            Self::NotStarted { step, cause } => write!(out, "not_started({step}: {cause})"),
            Self::Lost { cause } => write!(out, "lost({cause})"),
        }
    }
}
