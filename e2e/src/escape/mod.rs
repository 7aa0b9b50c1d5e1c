//! What somebody who has taken over a VMM tries: the ways out of its jail and across to others.
//!
//! The table [`WAYS`] is used three times: by the program that is put in the VMM's place and tries them, by the test
//! that wants every one of them refused, and by docs/security.md, which must list the same. Which way is tried is
//! decided by an [`Assignment`] in a file; nothing here knows how the program got to where it runs.

pub mod sys;
mod ways;

pub use ways::WAYS;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

/// The file of assignments in the jail.
pub const TABLE: &str = "/etc/escape.json";
/// What a program says that was executed by [`WAYS`] and must not have been.
pub const EXECUTED: &str = "--executed";

/// A way out.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// Its name: short words with dashes.
    pub name: &'static str,
    /// What is tried, for people.
    pub what: &'static str,
    /// What must become of it in the jail.
    pub answer: Answer,
    /// Whether the same must succeed for root outside of it: a way that leads nowhere anywhere proves nothing.
    pub works_outside: bool,
    /// Tries it. An error is a refusal.
    pub act: fn(&Targets) -> io::Result<usize>,
}

/// What becomes of a way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The kernel refuses, and the VMM lives on.
    Refused,
    /// The VMM is killed for it, and its death certificate says that its confinement did it.
    Killed,
    /// The VMM is killed by the limit of its control group.
    Starved,
}

impl Answer {
    /// As docs/security.md says it.
    pub fn words(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Killed => "VMM killed",
            Self::Starved => "VMM out of memory",
        }
    }
}

/// What the ways lead to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Targets {
    /// The template's memory, or the kernel of a machine that boots.
    pub template: PathBuf,
    /// The image.
    pub image: PathBuf,
    /// The VMM's program.
    pub program: PathBuf,
    /// A directory in which to make things.
    pub directory: PathBuf,
    /// The store's database.
    pub store: PathBuf,
    /// The library.
    pub library: PathBuf,
    /// Where run directories are.
    pub run: PathBuf,
    /// Another runner's control socket.
    pub socket: PathBuf,
    /// Another incarnation's evidence.
    pub evidence: PathBuf,
    /// The name of an abstract Unix socket that somebody listens on.
    pub abstract_name: String,
}

/// What one process is to try.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Assignment {
    /// Names of [`WAYS`], in order.
    pub ways: Vec<String>,
    /// Where they lead.
    pub targets: Targets,
}

/// Assignments by incarnation.
pub type Assignments = BTreeMap<String, Assignment>;

/// The way of this name.
pub fn way(name: &str) -> Option<&'static Way> {
    WAYS.iter().find(|way| way.name == name)
}

/// Tries what is assigned and says on standard error, a line each, what is tried and what came of it. A line
/// `trying NAME` without another about it means that the process did not live to write one.
pub fn play(assignment: &Assignment) {
    eprintln!("uid {}", rustix::process::getuid().as_raw());
    for name in &assignment.ways {
        eprintln!("trying {name}");
        match way(name).map(|way| (way.act)(&assignment.targets)) {
            Some(Ok(_)) => eprintln!("ESCAPED {name}"),
            Some(Err(error)) => eprintln!("refused {name}: {error}"),
            None => eprintln!("unknown {name}"),
        }
    }
    eprintln!("done");
}
