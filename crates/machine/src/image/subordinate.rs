//! Subordinate ids: what an ordinary user needs to unpack files of other owners (subuid(5), user_namespaces(7)).
//!
//! Reads /etc/subuid and /etc/subgid, which tests hand in as text. Changes nothing: who gets which ids is root's to say.

use std::path::Path;
use thiserror::Error;

/// So many ids are needed: those of the packages of a distribution.
const NEEDED: u64 = 65_536;

/// Why this user cannot build images.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoSubordinateIds {
    /// The program that maps them is not there.
    #[error("newuidmap is not installed")]
    NoProgram,
    /// None were given to this user.
    #[error("{file} gives uid {uid} no {NEEDED} subordinate ids")]
    None {
        /// The file that lacks them.
        file: &'static str,
        /// The user.
        uid: u32,
        /// The user's name, or the uid again.
        user: String,
    },
    /// They are there, and this version cannot use them.
    #[error("uid {uid} has subordinate ids, and this version does not build with them yet")]
    Unused {
        /// The user.
        uid: u32,
    },
}

impl NoSubordinateIds {
    /// What to type.
    pub fn fix(&self) -> String {
        let root_builds = "sudo outlast image build NAME";
        match self {
            Self::NoProgram => format!("apt-get install uidmap; or let root build: {root_builds}"),
            Self::None { user, .. } => {
                let ranges = "--add-subuids 100000-165535 --add-subgids 100000-165535";
                format!("sudo usermod {ranges} {user}; or let root build: {root_builds}")
            }
            Self::Unused { .. } => format!("let root build: {root_builds}"),
        }
    }
}

/// What keeps this user from building.
pub fn subordinate_ids() -> NoSubordinateIds {
    missing(super::program::is_installed("newuidmap"))
}

fn missing(has_program: bool) -> NoSubordinateIds {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
    let uid = rustix::process::geteuid().as_raw();
    let user = name_of(&read("/etc/passwd"), uid).unwrap_or_else(|| uid.to_string());
    missing_in(has_program, uid, user, (&read("/etc/subuid"), &read("/etc/subgid")))
}

fn missing_in(has_program: bool, uid: u32, user: String, (uids, gids): (&str, &str)) -> NoSubordinateIds {
    if !has_program {
        return NoSubordinateIds::NoProgram;
    }
    let lacking = [("/etc/subuid", uids), ("/etc/subgid", gids)]
        .into_iter()
        .find(|(_, text)| !gives(text, uid, &user))
        .map(|(file, _)| file);
    match lacking {
        Some(file) => NoSubordinateIds::None { file, uid, user },
        None => NoSubordinateIds::Unused { uid },
    }
}

/// `USER:FIRST:COUNT`, with a name or a number for the user.
fn gives(text: &str, uid: u32, user: &str) -> bool {
    let count = |line: &str| {
        let mut fields = line.trim().split(':');
        let whose = fields.next()?;
        (whose == user || whose.parse() == Ok(uid)).then(|| fields.nth(1)?.parse::<u64>().ok()).flatten()
    };
    text.lines().filter_map(count).any(|count| count >= NEEDED)
}

fn name_of(passwd: &str, uid: u32) -> Option<String> {
    let name = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    };
    passwd.lines().find_map(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing_with(uids: &str, gids: &str) -> NoSubordinateIds {
        missing_in(true, 1000, "alice".to_owned(), (uids, gids))
    }

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        for line in ["alice:100000:65536", "bob:1:2\n1000:100000:70000\n"] {
            assert_eq!(missing_with(line, line), NoSubordinateIds::Unused { uid: 1000 }, "{line}");
        }
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_type() {
        let full = "alice:100000:65536";
        for (uids, gids, file) in [
            ("", full, "/etc/subuid"),
            (full, "alice:1:10", "/etc/subgid"),
            ("alice:x:y", full, "/etc/subuid"),
        ] {
            let missing = missing_with(uids, gids);
            assert!(missing.to_string().contains(file), "{missing}");
            assert!(missing.fix().contains("usermod --add-subuids") && missing.fix().contains("alice"));
        }
        let none = missing_in(false, 1000, "alice".to_owned(), ("", ""));
        assert!(none.fix().contains("apt-get install uidmap"));
    }

    #[test]
    fn names_are_read_from_the_password_file() {
        let passwd = "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\nrubbish\n";
        assert_eq!(name_of(passwd, 1000).as_deref(), Some("alice"));
        assert_eq!(name_of(passwd, 7), None);
    }
}
