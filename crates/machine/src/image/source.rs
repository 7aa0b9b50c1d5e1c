//! Which distribution's archive packages come from, and how apt is told to trust it.
//!
//! Guests and VMM roots are Debian on every host, so keys and lines are given explicitly and the host's own
//! apt configuration plays no part.

use super::error::LibraryError;
use outlast_wire::image::Distribution;
use std::path::PathBuf;

/// A release of Debian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// Debian 12: guests.
    Bookworm,
    /// Debian 13: VMM roots, whose QEMU must be 8.2 or newer.
    Trixie,
}

impl Suite {
    /// The archive's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }
}

/// Where to fetch packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    main: String,
    security: Option<String>,
}

impl Default for Mirror {
    /// Debian's own, with security updates.
    fn default() -> Self {
        Self {
            main: "http://deb.debian.org/debian".to_owned(),
            security: Some("http://deb.debian.org/debian-security".to_owned()),
        }
    }
}

impl Mirror {
    /// Reads `MAIN` or `MAIN,SECURITY`, two addresses as apt knows them. With one address there are no security
    /// updates, because many private mirrors have none; the manifest lists what was used.
    pub fn parse(text: &str) -> Self {
        let tidy = |address: &str| address.trim().trim_end_matches('/').to_owned();
        match text.split_once(',') {
            Some((main, security)) => Self { main: tidy(main), security: Some(tidy(security)) },
            None => Self { main: tidy(text), security: None },
        }
    }

    /// The archive lines for `suite`.
    pub(crate) fn lines(&self, suite: Suite) -> Vec<String> {
        let suite = suite.name();
        let mut lines = vec![format!("deb {} {suite} main", self.main)];
        if let Some(security) = &self.security {
            lines.push(format!("deb {} {suite}-updates main", self.main));
            lines.push(format!("deb {security} {suite}-security main"));
        }
        lines
    }

    /// The same as a manifest keeps it.
    pub(crate) fn distribution(&self, suite: Suite) -> Distribution {
        Distribution { id: "debian".to_owned(), suite: suite.name().to_owned(), sources: self.lines(suite) }
    }
}

/// Debian's archive keys on this host. Ubuntu has them in the same package, not installed by default.
pub(crate) fn keyring() -> Result<PathBuf, LibraryError> {
    // Newer releases of the package end the name in .pgp.
    ["gpg", "pgp"]
        .map(|ending| PathBuf::from(format!("/usr/share/keyrings/debian-archive-keyring.{ending}")))
        .into_iter()
        .find(|path| path.exists())
        .ok_or_else(|| LibraryError::Missing {
            what: "Debian's archive keyring".to_owned(),
            package: "debian-archive-keyring",
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_has_security_updates() {
        let lines = Mirror::default().lines(Suite::Bookworm);
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[2], "deb http://deb.debian.org/debian-security bookworm-security main");
    }

    #[test]
    fn a_private_mirror_may_have_one_address_or_two() {
        assert_eq!(
            Mirror::parse("http://m/debian/").lines(Suite::Trixie),
            ["deb http://m/debian trixie main"]
        );
        let two = Mirror::parse("http://m/debian, http://m/security/").lines(Suite::Trixie);
        assert_eq!(two[2], "deb http://m/security trixie-security main");
    }
}
