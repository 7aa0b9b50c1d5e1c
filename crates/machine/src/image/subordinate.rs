//! Subordinate ids: what an ordinary user needs to unpack files of other owners (subuid(5), user_namespaces(7)).
//!
//! A build sets owners, mounts, and enters trees. All of that a user may do as the superuser of a user namespace in
//! which the user's own id is 0 and the subordinate ones are those of the packages. So whoever builds begins anew in
//! such a one: nothing in a build knows of it, and what is published belongs to the user.
//!
//! Reads /etc/subuid and /etc/subgid, which tests hand in as text. Changes nothing: who gets which ids is root's to say.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use thiserror::Error;

/// Makes the namespace, and has newuidmap(1) and newgidmap(1) map the ids.
const NAMESPACE: [&str; 5] = ["unshare", "--user", "--map-root-user", "--map-auto", "--"];

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
    /// They are there, and no namespace can be had with them.
    #[error("no namespace can be made with the subordinate ids: {said}")]
    Refused {
        /// The words of unshare(1) or newuidmap(1).
        said: String,
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
            Self::Refused { .. } => {
                format!(
                    "see that newuidmap is setuid and util-linux 2.38 or newer; or let root build: {root_builds}"
                )
            }
        }
    }
}

/// Whether this user can build, as far as files and programs tell.
///
/// # Errors
/// What is missing.
pub fn subordinate_ids() -> Result<(), NoSubordinateIds> {
    let has_programs = ["newuidmap", "newgidmap"].into_iter().all(super::program::is_installed);
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
    let uid = rustix::process::geteuid().as_raw();
    let user = name_of(&read("/etc/passwd"), uid).unwrap_or_else(|| uid.to_string());
    missing_in(has_programs, uid, user, (&read("/etc/subuid"), &read("/etc/subgid")))
}

/// Executes a program as the superuser of a namespace of this user's, with further environment variables. Returns when
/// that cannot be done; tried first, so that the words of whatever refuses are known.
pub fn become_root_of_own_namespace(
    program: &Path,
    arguments: &[OsString],
    environment: &[(&str, OsString)],
) -> NoSubordinateIds {
    if let Err(missing) = subordinate_ids() {
        return missing;
    }
    let refused = |said: String| NoSubordinateIds::Refused { said };
    let [tool, options @ ..] = NAMESPACE;
    let begin = || {
        let mut command = Command::new(tool);
        command.args(options).env("PATH", super::program::PATH);
        command
    };
    match begin().arg("true").stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            return refused(said.lines().next().unwrap_or("unshare failed").to_owned());
        }
        Err(error) => return refused(format!("unshare: {error}")),
    }
    let environment = environment.iter().map(|(name, value)| (name, value));
    refused(begin().arg(program).args(arguments).envs(environment).exec().to_string())
}

fn missing_in(
    has_programs: bool,
    uid: u32,
    user: String,
    (uids, gids): (&str, &str),
) -> Result<(), NoSubordinateIds> {
    if !has_programs {
        return Err(NoSubordinateIds::NoProgram);
    }
    let lacking = [("/etc/subuid", uids), ("/etc/subgid", gids)]
        .into_iter()
        .find(|(_, text)| !gives(text, uid, &user))
        .map(|(file, _)| file);
    match lacking {
        Some(file) => Err(NoSubordinateIds::None { file, uid, user }),
        None => Ok(()),
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

    fn missing_with(uids: &str, gids: &str) -> Result<(), NoSubordinateIds> {
        missing_in(true, 1000, "alice".to_owned(), (uids, gids))
    }

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        for line in ["alice:100000:65536", "bob:1:2\n1000:100000:70000\n"] {
            assert_eq!(missing_with(line, line), Ok(()), "{line}");
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
            let missing = missing_with(uids, gids).unwrap_err();
            assert!(missing.to_string().contains(file), "{missing}");
            assert!(missing.fix().contains("usermod --add-subuids") && missing.fix().contains("alice"));
        }
        let none = missing_in(false, 1000, "alice".to_owned(), ("", "")).unwrap_err();
        assert!(none.fix().contains("apt-get install uidmap"));
    }

    #[test]
    fn names_are_read_from_the_password_file() {
        let passwd = "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\nrubbish\n";
        assert_eq!(name_of(passwd, 1000).as_deref(), Some("alice"));
        assert_eq!(name_of(passwd, 7), None);
    }
}
