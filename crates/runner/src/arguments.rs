//! The arguments of `outlast-runner`. Only `outlast` writes them, so they are few, long and strict.

use outlast_model::{Hold, IncarnationId, StoreId};
use outlast_wire::paths::Places;
use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;
use thiserror::Error;

/// What to be.
#[derive(Debug)]
pub(crate) enum Command {
    /// Print the version.
    Version,
    /// Make the namespaces and the runner in them, then leave.
    Launch(Order),
    /// Try whether namespaces can be had.
    Try,
    /// The part of that which is done in them.
    TryInside,
    /// Be the runner.
    Run(Order),
    /// Confine yourself and become the VMM; the plan is read from this descriptor.
    Jail {
        /// The descriptor.
        spec: RawFd,
    },
}

/// Which incarnation, and where it lives.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    /// The three directories.
    pub(crate) places: Places,
    /// The store, for the names of cgroups.
    pub(crate) store: StoreId,
    /// The incarnation.
    pub(crate) incarnation: IncarnationId,
    /// The client's lease, when there is one.
    pub(crate) lease: Option<RawFd>,
    /// Where the runner reads who it is.
    pub(crate) identity: Option<RawFd>,
    /// Where the launcher is to stand still; the runner's own fault point stands in its intent.
    pub(crate) hold: Option<Hold>,
    /// Where a launcher that was started in a scope says that it is in there.
    pub(crate) scope: Option<RawFd>,
}

/// An argument that cannot be used.
#[derive(Debug, Error)]
pub(crate) enum ArgumentError {
    /// The first word is not a command.
    #[error("launch, run, jail or --version expected; people call 'outlast' instead")]
    NoCommand,
    /// A needed option is absent.
    #[error("--{0} is missing")]
    Missing(&'static str),
    /// An option nobody knows.
    #[error("unknown option {0:?}")]
    Unknown(OsString),
    /// An option's value does not fit it.
    #[error("{value:?} does not fit --{option}")]
    Value {
        /// The option.
        option: &'static str,
        /// The value.
        value: OsString,
    },
}

/// Options and their values, as written.
#[derive(Default)]
struct Written {
    home: Option<OsString>,
    run: Option<OsString>,
    library: Option<OsString>,
    store: Option<OsString>,
    incarnation: Option<OsString>,
    lease: Option<OsString>,
    identity: Option<OsString>,
    spec: Option<OsString>,
    hold: Option<OsString>,
    scope: Option<OsString>,
}

/// Reads the words after the program's name.
pub(crate) fn parse(words: impl Iterator<Item = OsString>) -> Result<Command, ArgumentError> {
    let mut words = words;
    let command = words.next().ok_or(ArgumentError::NoCommand)?;
    if command == "--version" {
        return Ok(Command::Version);
    }
    if command == "try" {
        return Ok(Command::Try);
    }
    if command == "try-inside" {
        return Ok(Command::TryInside);
    }
    let written = Written::read(words)?;
    match command.to_str() {
        Some("launch") => Ok(Command::Launch(written.order()?)),
        Some("run") => Ok(Command::Run(written.order()?)),
        Some("jail") => Ok(Command::Jail { spec: descriptor("spec-fd", written.spec)? }),
        Some(_) | None => Err(ArgumentError::NoCommand),
    }
}

impl Written {
    fn read(mut words: impl Iterator<Item = OsString>) -> Result<Self, ArgumentError> {
        let mut written = Self::default();
        while let Some(option) = words.next() {
            let (slot, name) = match option.to_str() {
                Some("--home") => (&mut written.home, "home"),
                Some("--run") => (&mut written.run, "run"),
                Some("--library") => (&mut written.library, "library"),
                Some("--store") => (&mut written.store, "store"),
                Some("--incarnation") => (&mut written.incarnation, "incarnation"),
                Some("--lease-fd") => (&mut written.lease, "lease-fd"),
                Some("--identity-fd") => (&mut written.identity, "identity-fd"),
                Some("--spec-fd") => (&mut written.spec, "spec-fd"),
                Some("--scope-fd") => (&mut written.scope, "scope-fd"),
                Some("--hold") => (&mut written.hold, "hold"),
                Some(_) | None => return Err(ArgumentError::Unknown(option)),
            };
            *slot = Some(words.next().ok_or(ArgumentError::Missing(name))?);
        }
        Ok(written)
    }

    fn order(self) -> Result<Order, ArgumentError> {
        let places = Places::new(
            directory("home", self.home)?,
            directory("run", self.run)?,
            directory("library", self.library)?,
        );
        Ok(Order {
            places,
            store: parsed("store", self.store)?,
            incarnation: parsed("incarnation", self.incarnation)?,
            lease: self.lease.map(|fd| descriptor("lease-fd", Some(fd))).transpose()?,
            identity: self.identity.map(|fd| descriptor("identity-fd", Some(fd))).transpose()?,
            scope: self.scope.map(|fd| descriptor("scope-fd", Some(fd))).transpose()?,
            hold: self.hold.map(|hold| parsed("hold", Some(hold))).transpose()?,
        })
    }
}

fn directory(option: &'static str, value: Option<OsString>) -> Result<PathBuf, ArgumentError> {
    let value = value.ok_or(ArgumentError::Missing(option))?;
    let path = PathBuf::from(&value);
    if path.is_absolute() { Ok(path) } else { Err(ArgumentError::Value { option, value }) }
}

fn parsed<T: std::str::FromStr>(option: &'static str, value: Option<OsString>) -> Result<T, ArgumentError> {
    let value = value.ok_or(ArgumentError::Missing(option))?;
    let parsed = value.to_str().and_then(|text| text.parse().ok());
    parsed.ok_or(ArgumentError::Value { option, value })
}

fn descriptor(option: &'static str, value: Option<OsString>) -> Result<RawFd, ArgumentError> {
    let value = value.ok_or(ArgumentError::Missing(option))?;
    let parsed = value.to_str().and_then(|text| text.parse::<RawFd>().ok()).filter(|fd| *fd > 2);
    parsed.ok_or(ArgumentError::Value { option, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> impl Iterator<Item = OsString> + '_ {
        text.split_whitespace().map(OsString::from)
    }

    const ORDER: &str = "launch --home /h --run /r --library /l --store 01hzzzzzzzzzzzzzzzzzzzzzzz \
                         --incarnation 01hzzzzzzzzzzzzzzzzzzzzzzz";

    #[test]
    fn an_order_is_read_whole() {
        let text = format!("{ORDER} --lease-fd 5");
        let Ok(Command::Launch(order)) = parse(words(&text)) else { panic!("not an order") };
        assert_eq!(order.places.home().to_str(), Some("/h"));
        assert_eq!(order.lease, Some(5));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for bad in ["", "sleep", "launch", "launch --home", "launch --house /h", "jail", "jail --spec-fd 1"] {
            assert!(parse(words(bad)).is_err(), "{bad}");
        }
        assert!(parse(words(&ORDER.replace("/h", "h"))).is_err());
        assert!(parse(words(&ORDER.replace("01h", "8zz"))).is_err());
    }
}
