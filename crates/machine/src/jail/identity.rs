//! Who a VMM is: a user id that nobody else on the host has while it lives.
//!
//! The candidates are derived from the incarnation, and the kernel decides. It counts the processes of every real
//! user id, host-wide, whatever PID or mount namespaces they are in, for RLIMIT_NPROC:
//!
//! ```text
//!   take a candidate as real uid → limit it to two → make a thread → refused? somebody else is there: next one
//! ```
//!
//! Taking comes before looking, so of two who take the same one at the same time at least one sees the other. There
//! is no file, no lock and nothing to clean up: an id is free again when its last process is reaped, and not a
//! moment earlier. Not responsible for giving up root, which comes last ([`super::privileges`]).

use super::JailError;
use crate::host;
use rustix::fs::{Gid, Uid};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::set_thread_res_uid;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::io;

/// The first id of the range. No account is there: it lies above what systemd gives to containers (to 0x6FFFFFFF)
/// and sssd to directory users (to 2 000 200 000), and below what systemd keeps for foreign images (0x7FFE0000).
pub(super) const FIRST: u32 = 0x7F6C_0000;
/// How many ids there are.
pub(super) const COUNT: u32 = 0x1_0000;
/// More VMMs than that in a row are not met by chance: something else is wrong.
const ATTEMPTS: u32 = 64;
/// Ourselves, and the thread that is made to see whether we are alone.
const ALONE: u64 = 2;

/// The ids a VMM may have, in the order in which they are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    start: u32,
    stride: u32,
}

/// An id that is this process's own; user and group have the same number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claimed {
    pub(super) uid: Uid,
    pub(super) gid: Gid,
}

impl Identity {
    /// The ids of an incarnation, where VMMs can have some of their own: for root, and in user namespaces that
    /// know the whole range. `None` elsewhere: the VMM is whoever its runner is.
    pub fn of_incarnation(name: &str) -> Option<Self> {
        let map = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        let mapped = covers(&map("/proc/self/uid_map")) && covers(&map("/proc/self/gid_map"));
        (rustix::process::geteuid().is_root() && mapped).then(|| Self::derived(name))
    }

    fn derived(name: &str) -> Self {
        let hash = Sha256::digest(name.as_bytes());
        let number = |at: usize| u32::from_le_bytes([hash[at], hash[at + 1], 0, 0]);
        // An odd stride visits every id of a power of two.
        Self { start: number(0), stride: number(2) | 1 }
    }

    fn candidates(self) -> impl Iterator<Item = u32> {
        (0..ATTEMPTS).map(move |n| FIRST + self.start.wrapping_add(self.stride.wrapping_mul(n)) % COUNT)
    }

    /// Makes a free candidate this process's real user id. It stays root in effect until it gives that up.
    pub(super) fn claim(self) -> Result<Claimed, JailError> {
        for number in self.candidates() {
            let (uid, gid) = (Uid::from_raw(number), Gid::from_raw(number));
            if taken_alone(uid).map_err(|source| JailError::Identity { uid: number, source })? {
                return Ok(Claimed { uid, gid });
            }
        }
        Err(JailError::NoIdentity { tried: ATTEMPTS })
    }
}

/// Why the superuser's VMMs have no user id of their own here, in a sentence; `None` where they have one, and for an
/// ordinary user, whose VMMs are that user's.
pub fn keeps_root() -> Option<String> {
    let map = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let uid = rustix::process::geteuid().as_raw();
    keeps_root_with(&map("/proc/self/uid_map"), &map("/proc/self/gid_map"), uid)
}

fn keeps_root_with(uid_map: &str, gid_map: &str, uid: u32) -> Option<String> {
    let is_ordinary = host::ordinary_user_in(uid_map, uid).is_some();
    let has_own = covers(uid_map) && covers(gid_map);
    (!is_ordinary && !has_own).then(|| {
        format!(
            "the VMM keeps user id 0: this user namespace does not map {FIRST} to {}; without capabilities, with \
             filtered calls and in a root and namespaces of its own it is confined all the same",
            FIRST + (COUNT - 1)
        )
    })
}

/// Takes the id and tells whether nobody else had it. Order matters: the limit counts for those only who have given
/// up root in effect, and what was taken before it was looked at is seen by others who do the same.
fn taken_alone(uid: Uid) -> io::Result<bool> {
    let before = getrlimit(Resource::Nproc);
    setrlimit(Resource::Nproc, Rlimit { current: Some(ALONE), ..before })?;
    set_thread_res_uid(uid, uid, Uid::ROOT)?;
    let alone = thread_is_allowed();
    set_thread_res_uid(uid, Uid::ROOT, Uid::ROOT)?;
    setrlimit(Resource::Nproc, before)?;
    alone
}

fn thread_is_allowed() -> io::Result<bool> {
    match std::thread::Builder::new().stack_size(0).spawn(|| ()) {
        Ok(thread) => {
            // It does nothing that could panic.
            let _ = thread.join();
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a user namespace's map (user_namespaces(7)) knows the whole range.
fn covers(map: &str) -> bool {
    map.lines().any(|line| {
        let numbers: Option<Vec<u64>> = line.split_whitespace().map(|word| word.parse().ok()).collect();
        let Some([inside, _outside, count]) = numbers.as_deref() else { return false };
        *inside <= u64::from(FIRST) && u64::from(FIRST) + u64::from(COUNT) <= inside.saturating_add(*count)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn candidates_are_of_the_range_all_different_and_the_incarnation_s_own() {
        let ids: Vec<u32> = Identity::derived("01jd00000000000000000000aa").candidates().collect();
        assert!(ids.iter().all(|id| (FIRST..FIRST + COUNT).contains(id)));
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
        assert_eq!(ids, Identity::derived("01jd00000000000000000000aa").candidates().collect::<Vec<_>>());
        assert_ne!(ids, Identity::derived("01jd00000000000000000000ab").candidates().collect::<Vec<_>>());
    }

    #[test]
    fn only_a_map_that_knows_the_whole_range_will_do() {
        assert!(covers("         0          0 4294967295\n"));
        assert!(!covers("         0       1000          1\n"));
        assert!(!covers("0 100000 65536\n"));
        assert!(covers(&format!("0 1000 1\n{FIRST} 100000 {COUNT}\n")));
        assert!(!covers("") && !covers("0 0\n") && !covers("a b c\n"));
    }

    #[test]
    fn only_a_superuser_of_few_ids_is_told_that_its_vmms_keep_its_own() {
        let all = "         0          0 4294967295\n";
        let (few, one) = ("0 100000 65536\n", "0 1000 1\n");
        assert_eq!(keeps_root_with(all, all, 0), None);
        assert_eq!(keeps_root_with(all, all, 1000), None);
        assert_eq!(keeps_root_with(one, one, 0), None, "an ordinary user's runner");
        for (uids, gids) in [(few, few), (all, few), (few, all), ("0 0 1\n", "0 0 1\n"), ("", "")] {
            assert!(keeps_root_with(uids, gids, 0).unwrap().contains("2137784320 to 2137849855"));
        }
    }
}
