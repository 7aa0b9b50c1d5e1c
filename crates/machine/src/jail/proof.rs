//! Whether a VMM is confined, by the kernel's own account and not by what was asked for.
//!
//! The runner looks before it lets the guest run. What /proc tells is compared here, as text.

use super::identity::{COUNT, FIRST};
use thiserror::Error;

/// A VMM has more than it must.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the VMM is not confined: {field} is {found}")]
pub struct Unconfined {
    /// The line of /proc/PID/status.
    pub field: &'static str,
    /// What stands there.
    pub found: String,
}

/// The five sets of capabilities.
const CAPABILITIES: [&str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
/// The mode of a process whose calls are filtered.
const FILTERED: &str = "2";

/// Compares the text of /proc/PID/status with what every VMM must be; with `own_identity` it must also have a user
/// and a group of the range for VMMs, and no further groups.
///
/// # Errors
/// The first line that says otherwise, or is not there.
pub fn expect_confined(status: &str, own_identity: bool) -> Result<(), Unconfined> {
    let line = |field: &'static str| {
        let mut lines = status.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(name, _)| *name == field).map(|(_, value)| value.trim().to_owned())
    };
    let expect = |field: &'static str, holds: &dyn Fn(&str) -> bool| match line(field) {
        Some(found) if holds(&found) => Ok(()),
        found => Err(Unconfined { field, found: found.unwrap_or_else(|| "not told".to_owned()) }),
    };
    for field in CAPABILITIES {
        expect(field, &|found| u64::from_str_radix(found, 16) == Ok(0))?;
    }
    expect("NoNewPrivs", &|found| found == "1")?;
    expect("Seccomp", &|found| found == FILTERED)?;
    if own_identity {
        expect("Uid", &own)?;
        expect("Gid", &own)?;
        expect("Groups", &str::is_empty)?;
    }
    Ok(())
}

/// Real, effective, saved and file system id: one number, of the range.
fn own(ids: &str) -> bool {
    let ids: Vec<Option<u32>> = ids.split_whitespace().map(|id| id.parse().ok()).collect();
    let [Some(first), ..] = ids[..] else { return false };
    ids.len() == 4 && ids.iter().all(|id| *id == Some(first)) && (FIRST..FIRST + COUNT).contains(&first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confined() -> String {
        let ids = [FIRST + 7; 4].map(|id| id.to_string()).join("\t");
        let sets = CAPABILITIES.map(|set| format!("{set}:\t0000000000000000\n")).concat();
        format!("Name:\tqemu\nUid:\t{ids}\nGid:\t{ids}\nGroups:\t \n{sets}NoNewPrivs:\t1\nSeccomp:\t2\n")
    }

    #[test]
    fn a_confined_vmm_is_found_to_be_so() {
        assert_eq!(expect_confined(&confined(), true), Ok(()));
    }

    #[test]
    fn whatever_is_missing_or_more_is_named() {
        let cases = [
            ("CapBnd:\t0000000000000000", "CapBnd:\t0000000000000400", "CapBnd"),
            ("CapEff:\t0000000000000000", "CapEff:\t000001fffeffffff", "CapEff"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0", "NoNewPrivs"),
            ("Seccomp:\t2", "Seccomp:\t0", "Seccomp"),
            ("Seccomp:\t2\n", "", "Seccomp"),
            ("Groups:\t ", "Groups:\t0 ", "Groups"),
            ("Uid:", "Uid:\t0", "Uid"),
            ("Gid:\t2", "Gid:\t1", "Gid"),
        ];
        for (from, to, field) in cases {
            let status = confined().replacen(from, to, 1);
            assert_eq!(expect_confined(&status, true).unwrap_err().field, field, "{status}");
        }
        assert!(expect_confined("", false).is_err());
    }

    #[test]
    fn without_an_identity_of_its_own_the_rest_still_counts() {
        let status = confined().replace(&(FIRST + 7).to_string(), "1000");
        assert_eq!(expect_confined(&status, false), Ok(()));
        assert!(expect_confined(&status, true).is_err());
    }
}
