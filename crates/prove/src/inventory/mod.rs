//! The leak inventory: typed names of everything on the host that could be left behind, before and after.
//!
//! ```text
//!   before = Inventory::take(&scope)      …something is done to the product…
//!   before.difference(&Inventory::take(&scope))  →  appeared · vanished · undecided · not inspected
//! ```
//!
//! Names and not counts: one thing gone and another left is a leak. What could not be read makes its kind
//! *undecided*, and an undecided difference is never a pass. A kind this host offers no way to look at is
//! listed as *not inspected*, by name and with the reason, so that silence never looks like cleanliness.
//!
//! An inventory is not a snapshot: things come and go while it is taken. Whoever compares waits for the
//! difference to become empty, with a deadline, because the kernel's own clearing away takes some milliseconds.
//!
//! Not responsible for removing anything, nor for knowing what outlast does: it looks only at what Linux shows.

mod cgroup;
mod difference;
mod item;
mod loop_device;
mod memory;
mod mount;
mod namespace;
mod nft;
mod process;
mod scope;
mod tree;

pub use difference::Difference;
pub use item::{Item, Kind};
pub use scope::{CgroupScope, Pattern, Scope, Tree};

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// An inventory could not even be begun.
#[derive(Debug, Error)]
pub enum InventoryError {
    /// The list of processes cannot be read.
    #[error("list the processes in {path}")]
    Processes {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Everything a scope covers, as it was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    items: BTreeSet<Item>,
    undecided: BTreeSet<(Kind, String)>,
    not_inspected: BTreeSet<(Kind, String)>,
}

impl Inventory {
    /// Looks at everything in `scope`. Takes some milliseconds, more with many processes or files.
    ///
    /// # Errors
    /// [`InventoryError`] when there is no process list to begin with. Whatever else cannot be read makes
    /// its kind undecided instead.
    pub fn take(scope: &Scope) -> Result<Self, InventoryError> {
        let mut inventory = Self::default();
        let processes = process::list(&mut inventory)?;
        let mounts = mount::list(&processes, &mut inventory);
        namespace::list(&processes, &mounts, &mut inventory);
        process::list_open_files(&scope.open_files_of, &mut inventory);
        cgroup::list(scope.cgroups.as_ref(), &mounts, &mut inventory);
        for tree in &scope.trees {
            tree::list(tree, &mut inventory);
        }
        loop_device::list(&scope.trees, &mut inventory);
        memory::list(&scope.memory_directories, &mut inventory);
        Ok(inventory)
    }

    /// What is different in a later inventory.
    pub fn difference(&self, after: &Self) -> Difference {
        Difference {
            appeared: after.items.difference(&self.items).cloned().collect(),
            vanished: self.items.difference(&after.items).cloned().collect(),
            undecided: self.undecided.union(&after.undecided).cloned().collect(),
            not_inspected: self.not_inspected.union(&after.not_inspected).cloned().collect(),
        }
    }

    /// Everything that was found, in order.
    pub fn items(&self) -> impl Iterator<Item = &Item> {
        self.items.iter()
    }

    /// The kinds that could not be read in full, each with the reason.
    pub fn undecided(&self) -> impl Iterator<Item = &(Kind, String)> {
        self.undecided.iter()
    }

    fn found(&mut self, item: Item) {
        self.items.insert(item);
    }

    fn found_all(&mut self, names: Vec<String>, item: impl Fn(String) -> Item) {
        self.items.extend(names.into_iter().map(item));
    }

    /// Notes a failed reading. What vanished while it was looked at is not there; anything else is a doubt.
    fn failed(&mut self, kind: Kind, what: &str, error: &io::Error) {
        let gone = error.kind() == io::ErrorKind::NotFound
            || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error());
        if !gone {
            self.undecided.insert((kind, format!("{what}: {error}")));
        }
    }

    fn doubt(&mut self, kind: Kind, reason: String) {
        self.undecided.insert((kind, reason));
    }

    fn skip(&mut self, kind: Kind, reason: String) {
        self.not_inspected.insert((kind, reason));
    }
}

#[cfg(test)]
mod tests;
