//! What a build tells its caller while it works. How that is shown (bars, lines, nothing) is the caller's business.

/// One thing that happened in a build; sent from the thread that called the build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// What is being done.
    pub phase: Phase,
    /// Steps of this phase that are done.
    pub done: u64,
    /// How many steps the phase has, as far as that is known now; it may grow.
    pub total: Option<u64>,
    /// The latest detail, one line, often a line of a program's output; may be empty.
    pub detail: &'a str,
}

/// The phases of a build, in their order; a build skips those it does not need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Another process builds the same thing.
    Waiting,
    /// Packages are fetched, unpacked and set up.
    Packages,
    /// The tree is trimmed and finished.
    Trimming,
    /// The root file system is packed.
    Packing,
    /// The kernel is fetched and taken apart.
    Kernel,
    /// The kernel is compiled.
    Compiling,
    /// Parts are hashed.
    Hashing,
    /// Everything is synced and made visible.
    Publishing,
}

impl Phase {
    /// For people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Waiting => "waiting for another build",
            Self::Packages => "installing packages",
            Self::Trimming => "trimming",
            Self::Packing => "packing the root file system",
            Self::Kernel => "preparing the kernel",
            Self::Compiling => "compiling the kernel",
            Self::Hashing => "hashing",
            Self::Publishing => "publishing",
        }
    }
}

/// Where progress goes.
pub type Report<'a> = &'a mut dyn FnMut(Progress<'_>);

/// Announces the beginning of a phase.
pub(crate) fn begin(report: Report<'_>, phase: Phase, detail: &str) {
    report(Progress { phase, done: 0, total: None, detail });
}
