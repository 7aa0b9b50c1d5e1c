//! What an operation tells its caller while it works. How that is shown is the caller's business.

/// One thing worth telling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice<'a> {
    /// A canary boot finds out whether KVM is usable; up to [`outlast_model::timeout::CANARY`].
    TryingKvm,
    /// Somebody else makes the template that is needed.
    WaitingForTemplate {
        /// The image.
        image: &'a str,
    },
    /// The template is being made; up to [`outlast_model::timeout::TEMPLATE`].
    MakingTemplate {
        /// The image.
        image: &'a str,
    },
    /// A VM stands still while its memory and its disk are written down.
    TakingSnapshot {
        /// The VM.
        vm: &'a str,
    },
    /// Every byte of a snapshot is read.
    HashingSnapshot {
        /// The VM.
        vm: &'a str,
    },
    /// What was worked on is done; what comes next is fast.
    Done,
    /// Something abnormal, by which nothing was lost.
    Warning(&'a str),
}

/// Where notices go.
pub type Notify<'a> = &'a mut dyn FnMut(Notice<'_>);
