//! A copy that arrives: taken in whole beside its destination, and only then given its name.

use crate::dress::dress_directory;
use crate::error::{CopyError, at_destination, shown};
use crate::member::{self, Kind, Member, Meta};
use crate::merge::{self, merge, place};
use crate::partial::Partial;
use crate::place::Place;
use crate::tree::{Grown, Rules, Tree};
use crate::{Stop, Tally};
use rustix::fd::AsFd;
use rustix::fs::renameat;
use std::ffi::{CString, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What a stream may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// One file or directory of this name, and what is in it.
    One(OsString),
    /// What is in a directory.
    Contents,
    /// Whatever comes, into a directory that is there.
    Anything,
}

/// A copy that has arrived whole and has no name yet. Dropped, it is gone.
#[derive(Debug)]
pub struct Arrival {
    place: Place,
    partial: Partial,
    expected: Expected,
    rules: Rules,
    tally: Tally,
    top: Option<Meta>,
}

/// Takes a stream in, beside `destination`, until it is whole or `stop` is told.
///
/// # Errors
/// [`CopyError`]; nothing of it is left then.
pub fn receive(
    stream: impl Read,
    destination: &Path,
    expected: Expected,
    rules: Rules,
    stop: &Stop,
) -> Result<Arrival, CopyError> {
    let place = Place::look(destination)?;
    if let (Expected::Anything, Place::Named { path, replaces, .. }) = (&expected, &place) {
        let path = path.clone();
        return Err(match replaces {
            true => CopyError::NotADirectory { path },
            false => CopyError::NoDestination { path },
        });
    }
    let partial = Partial::create(place.beside(), place.path())?;
    let above = usize::from(matches!(expected, Expected::One(_)));
    let mut tree = Tree::new(partial.directory(), place.path(), rules, above, stop);
    member::walk(stream, &mut |member, content| {
        check(&member, &expected, &place)?;
        tree.add(member, content)
    })?;
    let Grown { tally, top } = tree.finish()?;
    came(&partial, &expected)?;
    Ok(Arrival { place, partial, expected, rules, tally, top })
}

/// Whether a member belongs to what was asked for, and goes where it is to go.
fn check(member: &Member, expected: &Expected, place: &Place) -> Result<(), CopyError> {
    let Expected::One(wanted) = expected else { return Ok(()) };
    if member.name.0.first() != Some(wanted) {
        let name = shown(&member.name.path());
        return Err(CopyError::Entry { name, reason: "it was not asked for" });
    }
    if member.name.0.len() == 1 && !matches!(member.kind, Kind::File | Kind::Directory) {
        let name = shown(&member.name.path());
        return Err(CopyError::Entry { name, reason: "it is neither a file nor a directory" });
    }
    let Place::Named { path, replaces, directory, .. } = place else { return Ok(()) };
    let is_directory = member.name.0.len() > 1 || member.kind == Kind::Directory;
    if is_directory && *replaces {
        return Err(CopyError::NotADirectory { path: path.clone() });
    }
    if !is_directory && *directory {
        return Err(CopyError::NoDestination { path: path.clone() });
    }
    Ok(())
}

/// A stream that ends as it should and holds nothing is no copy of anything.
fn came(partial: &Partial, expected: &Expected) -> Result<(), CopyError> {
    let Expected::One(wanted) = expected else { return Ok(()) };
    let name = CString::new(wanted.as_bytes()).unwrap_or_default();
    let refused = |_| CopyError::Entry { name: shown(Path::new(wanted)), reason: "it never came" };
    merge::is_directory(partial.directory(), &name).map(drop).map_err(refused)
}

impl Arrival {
    /// What came.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Gives the copy its name, or moves it into the directory that is there. It can be stopped until then: once the
    /// first file has its name, the others get theirs.
    ///
    /// # Errors
    /// [`CopyError::InTheWay`] and [`CopyError::Stopped`], with nothing changed; [`CopyError::Destination`].
    pub fn publish(self, stop: &Stop) -> Result<Tally, CopyError> {
        stop.check()?;
        let Self { place: goal, partial, expected, rules, tally, top } = self;
        match &goal {
            Place::Into { directory, path } => {
                merge(partial.directory(), directory.as_fd(), path, rules.follow, stop)?;
            }
            Place::Named { parent, name, path, replaces, .. } => {
                let failed = at_destination("make", path);
                let Expected::One(own) = &expected else {
                    // It is the directory itself that gets the name, and was nobody else's to look at until now.
                    let dressed =
                        top.map_or(Ok(()), |meta| dress_directory(partial.directory(), &meta, rules.owners));
                    dressed
                        .and_then(|()| place(parent.as_fd(), partial.name(), parent.as_fd(), name))
                        .map_err(failed)?;
                    partial.keep();
                    return written_out(&goal, rules).map(|()| tally);
                };
                let own = CString::new(own.as_bytes()).unwrap_or_default();
                let from = partial.directory();
                let named = match replaces {
                    true => renameat(from, &own, parent, name),
                    false => place(from, &own, parent.as_fd(), name),
                };
                named.map_err(failed)?;
            }
        }
        written_out(&goal, rules).map(|()| tally)
    }
}

/// Names that were given are written out with the directories that have them.
fn written_out(goal: &Place, rules: Rules) -> Result<(), CopyError> {
    if !rules.sync {
        return Ok(());
    }
    rustix::fs::syncfs(goal.beside()).map_err(at_destination("write out", goal.path()))
}

#[cfg(test)]
mod tests;
