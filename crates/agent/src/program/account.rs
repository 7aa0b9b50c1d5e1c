//! Users as the guest knows them: its /etc/passwd and /etc/group, read by hand as a static program must. What they say is
//! whoever is root's in the guest to say, and means nothing to the host.

use crate::sys::spawn::User;
use rustix::process::{Gid, Uid};
use std::io::{self, Read};
use std::path::Path;
use thiserror::Error;

/// So much of each file is read, in bytes.
const MOST: u64 = 1 << 20;
/// So many supplementary groups may a process have (NGROUPS_MAX).
const MOST_GROUPS: usize = 65_536;

/// The guest does not know the user.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum AccountError {
    /// No such user or group.
    #[error("the guest knows no {0}")]
    Unknown(String),
    /// Its files cannot be read.
    #[error("read {0}")]
    Read(&'static str, #[source] io::Error),
}

/// Whom a program is to be, and where that is at home.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) user: User,
    pub(super) home: String,
}

impl Account {
    /// `USER` or `USER:GROUP`, names or numbers.
    ///
    /// # Errors
    /// [`AccountError`].
    pub(super) fn find(wanted: &str) -> Result<Self, AccountError> {
        let read =
            |path: &'static str| text_of(Path::new(path)).map_err(|source| AccountError::Read(path, source));
        find_in(wanted, &read("/etc/passwd")?, &read("/etc/group")?)
    }
}

/// A file that is not there has nobody in it.
fn text_of(path: &Path) -> io::Result<String> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A line of passwd(5).
struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn find_in(wanted: &str, passwd: &str, group: &str) -> Result<Account, AccountError> {
    let (user, own_group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (wanted, None),
    };
    let entry = entries(passwd).find(|entry| entry.name == user);
    let uid = number(user);
    // A name may look like a number, and then it is the name that is meant (chown(1)).
    let entry = entry.or_else(|| entries(passwd).find(|entry| Some(entry.uid) == uid));
    let uid = entry.as_ref().map(|entry| entry.uid).or(uid);
    let uid = uid.ok_or_else(|| AccountError::Unknown(format!("user '{user}'")))?;
    let (gid, groups) = match own_group {
        Some(name) => {
            let gid =
                group_of(name, group).ok_or_else(|| AccountError::Unknown(format!("group '{name}'")))?;
            (gid, Vec::new())
        }
        None => match &entry {
            Some(entry) => (entry.gid, groups_of(entry.name, group)),
            // Nobody knows that number: a group of the same is as good as any.
            None => (uid, Vec::new()),
        },
    };
    let home = entry.map_or("/", |entry| entry.home);
    let home = if home.starts_with('/') { home.to_owned() } else { "/".to_owned() };
    Ok(Account { user: User { uid: Uid::from_raw(uid), gid: Gid::from_raw(gid), groups }, home })
}

fn entries(passwd: &str) -> impl Iterator<Item = Entry<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (number(fields.next()?)?, number(fields.next()?)?);
        let (_comment, home) = (fields.next()?, fields.next()?);
        Some(Entry { name, uid, gid, home })
    })
}

/// Name, number and members of every line of group(5).
fn groups(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        Some((name, number(fields.next()?)?, fields.next().unwrap_or_default()))
    })
}

fn group_of(wanted: &str, text: &str) -> Option<u32> {
    groups(text).find(|(name, ..)| *name == wanted).map(|(_, gid, _)| gid).or_else(|| number(wanted))
}

fn groups_of(user: &str, text: &str) -> Vec<Gid> {
    let has = |members: &str| members.split(',').any(|member| member == user);
    let gids = groups(text).filter(|(.., members)| has(members)).map(|(_, gid, _)| Gid::from_raw(gid));
    gids.take(MOST_GROUPS).collect()
}

/// A number that can be an id: the largest one means "no change" to the kernel.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n# no line\nwww:x:33:34:w:/var/www:/bin/sh\n\
                          77:x:5:5::/seventy:/bin/sh\nodd:x:6:6::nowhere:\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nadm:x:4:syslog,www\nssl:x:100:www\nempty:x:9\n";

    fn found(wanted: &str) -> (u32, u32, Vec<u32>, String) {
        let Account { user: User { uid, gid, groups }, home } = find_in(wanted, PASSWD, GROUP).unwrap();
        (uid.as_raw(), gid.as_raw(), groups.into_iter().map(Gid::as_raw).collect(), home)
    }

    #[test]
    fn users_are_found_by_name_and_number_with_their_groups_and_homes() {
        assert_eq!(found("www"), (33, 34, vec![4, 100], "/var/www".to_owned()));
        assert_eq!(found("33"), found("www"));
        assert_eq!(found("www:adm"), (33, 4, vec![], "/var/www".to_owned()), "that group and no other");
        assert_eq!(found("www:7"), (33, 7, vec![], "/var/www".to_owned()));
        assert_eq!(found("77"), (5, 5, vec![], "/seventy".to_owned()), "a name that looks like a number");
        assert_eq!(found("1234"), (1234, 1234, vec![], "/".to_owned()), "nobody's number");
        assert_eq!(found("odd").3, "/");
        for nobody in ["", "ww", "www:", "www:wheel", "4294967295", "-1", ":adm"] {
            assert!(matches!(find_in(nobody, PASSWD, GROUP), Err(AccountError::Unknown(_))), "{nobody}");
        }
        assert!(find_in("root", "", "").is_err(), "a guest without the file knows numbers only");
    }
}
