//! Facts about this host, for `doctor` and for the keys of templates.
//!
//! Facts only: whether /dev/kvm *works* is decided by a canary boot, not by its presence here, and what is
//! too little memory or disk is decided by whoever asks.

use rustix::fs::{Access, StatVfs};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A fact could not be found out.
#[derive(Debug, Error)]
pub enum HostError {
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file lacks what it should hold.
    #[error("{path} does not say {what}")]
    Missing {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// A file system could not be asked.
    #[error("cannot ask the file system of {path} for its free space")]
    FreeSpace {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What is known of /dev/kvm without using it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvmDevice {
    /// It is there and may be opened. That does not mean that a guest boots on it.
    Present,
    /// It is there, and this user may not open it.
    NoPermission,
    /// It is not there.
    Absent,
}

/// What is known of /dev/kvm without using it.
pub fn kvm_device() -> KvmDevice {
    kvm_device_at(Path::new("/dev/kvm"))
}

fn kvm_device_at(path: &Path) -> KvmDevice {
    match rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK) {
        Ok(()) => KvmDevice::Present,
        Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => KvmDevice::NoPermission,
        Err(_) => KvmDevice::Absent,
    }
}

/// The host's CPU as far as guests can see it: vendor, family, model, stepping, microcode and flags. A machine
/// saved on one is not restored on another.
pub fn host_cpu_fingerprint() -> Result<String, HostError> {
    let path = PathBuf::from("/proc/cpuinfo");
    let text = read(&path)?;
    cpu_fingerprint(&text).ok_or(HostError::Missing { path, what: "which CPU this is" })
}

/// The first processor's facts. Frequencies and counters change all the time and are left out.
fn cpu_fingerprint(cpuinfo: &str) -> Option<String> {
    const KEYS: [&str; 6] = ["vendor_id", "cpu family", "model", "stepping", "microcode", "flags"];
    let first = cpuinfo.split("\n\n").next()?;
    let value = |key: &str| {
        let mut lines = first.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim())
    };
    value("vendor_id")?;
    Some(KEYS.map(|key| value(key).unwrap_or("-")).join("/"))
}

/// The host's memory in bytes.
pub fn memory_total() -> Result<u64, HostError> {
    let path = PathBuf::from("/proc/meminfo");
    let text = read(&path)?;
    meminfo_bytes(&text, "MemTotal").ok_or(HostError::Missing { path, what: "MemTotal" })
}

/// What the kernel thinks could be used without swapping, in bytes.
pub fn memory_available() -> Result<u64, HostError> {
    let path = PathBuf::from("/proc/meminfo");
    let text = read(&path)?;
    meminfo_bytes(&text, "MemAvailable").ok_or(HostError::Missing { path, what: "MemAvailable" })
}

fn meminfo_bytes(meminfo: &str, key: &str) -> Option<u64> {
    let rest = meminfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let kib: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Bytes that an ordinary process may still write to the file system of `path`.
pub fn disk_free(path: &Path) -> Result<u64, HostError> {
    let failed =
        |errno: rustix::io::Errno| HostError::FreeSpace { path: path.to_owned(), source: errno.into() };
    let StatVfs { f_bavail, f_frsize, .. } = rustix::fs::statvfs(path).map_err(failed)?;
    Ok(f_bavail.saturating_mul(f_frsize))
}

/// Bytes on disk of what has this metadata: files have holes.
pub fn bytes_on_disk(metadata: &std::fs::Metadata) -> u64 {
    metadata.blocks().saturating_mul(512)
}

/// CPUs that this process may use.
pub fn cpus() -> u32 {
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Whether this process is the superuser.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The user that this process acts for when that is an ordinary one, inside its user namespace as outside of it: a
/// process that is not the superuser, or is so in a user namespace in which nobody else is mapped.
pub fn ordinary_user() -> Option<u32> {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    ordinary_user_in(&map, rustix::process::geteuid().as_raw())
}

pub(crate) fn ordinary_user_in(uid_map: &str, uid: u32) -> Option<u32> {
    if uid != 0 {
        return Some(uid);
    }
    let mut lines = uid_map.lines();
    let fields: Vec<u32> = lines.next()?.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    match (fields.as_slice(), lines.next()) {
        ([0, outside, 1], None) if *outside != 0 => Some(*outside),
        _ => None,
    }
}

/// Whether this process may change no more of the host than an ordinary user may, though it be the superuser of a
/// namespace of that user's, with or without subordinate ids.
pub fn acts_for_ordinary_user() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    acts_for_ordinary_user_in(&map, rustix::process::geteuid().as_raw())
}

fn acts_for_ordinary_user_in(uid_map: &str, uid: u32) -> bool {
    let first = uid_map.lines().next().unwrap_or_default();
    ordinary_user_in(first, uid).is_some()
}

/// Whether systemd keeps what is that user's running when nobody is logged in as them (`loginctl enable-linger`). A user
/// that only a directory service knows is taken for one that does not linger.
pub fn lingers(uid: u32) -> bool {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    user_name_in(&users, uid).is_some_and(|name| Path::new("/var/lib/systemd/linger").join(name).exists())
}

fn user_name_in(users: &str, uid: u32) -> Option<&str> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.contains('/'))?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

/// The host's kernel release.
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn read(path: &Path) -> Result<String, HostError> {
    std::fs::read_to_string(path).map_err(|source| HostError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPUINFO: &str = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 85\n\
        model name\t: Some CPU\nstepping\t: 7\nmicrocode\t: 0x1\ncpu MHz\t\t: 2499.998\nflags\t\t: fpu vme\n\n\
        processor\t: 1\nvendor_id\t: Other\n";

    #[test]
    fn the_fingerprint_is_of_what_guests_see_and_not_of_what_changes() {
        assert_eq!(cpu_fingerprint(CPUINFO).unwrap(), "GenuineIntel/6/85/7/0x1/fpu vme");
        let faster = CPUINFO.replace("2499.998", "3100.000");
        assert_eq!(cpu_fingerprint(&faster), cpu_fingerprint(CPUINFO));
        assert_eq!(cpu_fingerprint("nothing"), None);
    }

    #[test]
    fn an_ordinary_user_is_one_inside_its_namespace_too() {
        let everybody = "         0          0 4294967295\n";
        assert_eq!(ordinary_user_in(everybody, 0), None);
        assert_eq!(ordinary_user_in(everybody, 1000), Some(1000));
        assert_eq!(ordinary_user_in("         0       1000          1\n", 0), Some(1000));
        assert_eq!(ordinary_user_in("0 1000 1\n1 100000 65536\n", 0), None, "others are mapped");
        assert_eq!(ordinary_user_in("0 0 1\n", 0), None);
        assert_eq!(ordinary_user_in("", 0), None);
        assert!(acts_for_ordinary_user_in("0 1000 1\n1 100000 65536\n", 0), "the others are its own");
        assert!(acts_for_ordinary_user_in(everybody, 1000) && !acts_for_ordinary_user_in(everybody, 0));
        assert!(!acts_for_ordinary_user_in("0 100000 65536\n", 0), "there are other users");
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "MemTotal:       16384 kB\nMemTotalX: 1 kB\nMemAvailable: 99999999999999999999 kB\n";
        assert_eq!(meminfo_bytes(text, "MemTotal"), Some(16 * 1024 * 1024));
        assert_eq!(meminfo_bytes(text, "MemAvailable"), None);
        assert_eq!(meminfo_bytes(text, "MemFree"), None);
    }

    #[test]
    fn this_host_has_memory_a_cpu_and_a_disk() {
        assert!(memory_total().unwrap() >= memory_available().unwrap());
        assert!(cpus() >= 1 && !host_cpu_fingerprint().unwrap().is_empty());
        assert!(disk_free(Path::new("/")).is_ok());
        assert!(disk_free(Path::new("/nowhere/at/all")).is_err());
        assert!(!kernel_release().is_empty());
    }

    #[test]
    fn a_device_that_is_not_there_is_absent() {
        assert_eq!(kvm_device_at(Path::new("/nowhere/kvm")), KvmDevice::Absent);
        assert_eq!(kvm_device_at(Path::new("/dev/null")), KvmDevice::Present);
    }

    #[test]
    fn a_user_is_named_by_the_number() {
        let users = "root:x:0:0::/root:/bin/sh\nlab:x:1000:1000::/home/lab:/bin/sh\nodd\n../up:x:7:7:::\n";
        assert_eq!(user_name_in(users, 1000), Some("lab"));
        assert_eq!(user_name_in(users, 7), None, "that is no name");
        assert_eq!(user_name_in(users, 1), None);
    }
}
