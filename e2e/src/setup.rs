//! What a test wants its lab to be like, and the way into it.

use crate::entry::alone;
use crate::lab::Lab;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::thread;

/// How a lab is to be. The default is a fresh home on disk and the shared library.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    pub(crate) own_library: Option<Vec<&'static str>>,
    pub(crate) marked: bool,
    pub(crate) home_size: Option<&'static str>,
    pub(crate) audit_will_break: bool,
    pub(crate) binaries: Option<PathBuf>,
    pub(crate) user: Option<u32>,
}

impl Setup {
    /// A fresh home on disk and the shared library.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a library of its own, whose templates may be damaged; images and VMM are the shared ones.
    #[must_use]
    pub fn own_library(self) -> Self {
        self.library_with_only(&crate::library::IMMUTABLE)
    }

    /// With a library of its own that has only these parts of the shared one.
    #[must_use]
    pub fn library_with_only(mut self, parts: &[&'static str]) -> Self {
        self.own_library = Some(parts.to_vec());
        self
    }

    /// With the mark that lets fault points be honoured.
    #[must_use]
    pub fn marked_for_proofs(mut self) -> Self {
        self.marked = true;
        self
    }

    /// With the home on a file system of this size: `32m`.
    #[must_use]
    pub fn home_of_size(mut self, size: &'static str) -> Self {
        self.home_size = Some(size);
        self
    }

    /// The test breaks the audit chain on purpose, so that the end does not look at it.
    #[must_use]
    pub fn audit_will_break(mut self) -> Self {
        self.audit_will_break = true;
        self
    }

    /// With the binaries of this directory: for tests of the harness itself, which judge it with a fake.
    #[must_use]
    pub fn binaries(mut self, directory: &Path) -> Self {
        self.binaries = Some(directory.to_owned());
        self
    }

    /// With every call made by this ordinary user, who has a library of its own and reads the shared images.
    #[must_use]
    pub fn as_user(mut self, uid: u32) -> Self {
        self.user = Some(uid);
        self
    }

    /// Runs the test in such a lab, in namespaces of its own. Panics when the body panics, or when the lab
    /// is not at its end as it was at the beginning; the evidence is printed and kept then.
    #[track_caller]
    pub fn run(self, body: impl FnOnce(&Lab)) {
        alone(|| {
            if let Err(panic) = self.judged(body, Lab::abandon) {
                resume_unwind(panic);
            }
        });
    }

    /// The same for who is in namespaces of its own already, and keeps nothing: a judgement of a judgement.
    ///
    /// # Errors
    /// What the body, or the comparison at the end, panicked with.
    pub fn verdict(self, body: impl FnOnce(&Lab)) -> thread::Result<()> {
        self.judged(body, Lab::close)
    }

    fn judged(self, body: impl FnOnce(&Lab), when_red: impl FnOnce(Lab)) -> thread::Result<()> {
        let lab = Lab::open(&self);
        let ended = catch_unwind(AssertUnwindSafe(|| {
            body(&lab);
            lab.judge();
        }));
        match ended {
            Ok(()) => lab.close(),
            Err(_) => when_red(lab),
        }
        ended
    }
}

/// Runs a test in the default lab.
#[track_caller]
pub fn on_lab(body: impl FnOnce(&Lab)) {
    Setup::new().run(body);
}
