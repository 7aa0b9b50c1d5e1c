//! Who the guest is: host name, machine id, addresses. Set in the kernel and in the files programs read, then
//! read back, because the host believes only what was read back.

use crate::refusal::Reason;
use crate::sys::interfaces;
use outlast_wire::guest::{Identity, SetIdentity};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Longest host name, in bytes (RFC 1123: one label).
const MAX_LABEL: usize = 63;

/// The guest is not who it should be.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum IdentityError {
    /// Not a label of RFC 1123.
    #[error("host name {0:?} is not a label of letters, digits and hyphens")]
    HostName(String),
    /// Not 32 hexadecimal digits.
    #[error("machine id {0:?} is not 32 lower-case hexadecimal digits")]
    MachineId(String),
    /// sethostname.
    #[error("set the host name")]
    SetHostName(#[source] Errno),
    /// A file below /etc.
    #[error("write {0}")]
    Write(PathBuf, #[source] std::io::Error),
    /// Reading the machine id back.
    #[error("read {0}")]
    Read(PathBuf, #[source] std::io::Error),
    /// Listing the addresses.
    #[error("list addresses")]
    Addresses(#[source] Errno),
}

impl Reason for IdentityError {
    fn errno(&self) -> i32 {
        match self {
            Self::HostName(_) | Self::MachineId(_) => Errno::INVAL.raw_os_error(),
            Self::SetHostName(source) | Self::Addresses(source) => source.raw_os_error(),
            Self::Write(_, source) | Self::Read(_, source) => source.raw_os_error().unwrap_or(0),
        }
    }
}

/// What never changes while this kernel runs, asked once.
#[derive(Debug)]
pub(crate) struct Facts {
    /// The kernel's boot id. All clones of a template share it.
    pub(crate) boot_id: String,
    /// The kernel's release.
    pub(crate) kernel: String,
}

impl Facts {
    /// Asks the kernel. A boot id that cannot be read is empty: the host then sees that it is not one.
    pub(crate) fn gather() -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        Self { boot_id: boot_id.trim().to_owned(), kernel }
    }
}

/// Becomes that machine, and tells who it is now.
pub(crate) fn set_identity(request: &SetIdentity) -> Result<Identity, IdentityError> {
    check(request)?;
    rustix::system::sethostname(request.host_name.as_bytes()).map_err(IdentityError::SetHostName)?;
    write_files(Path::new("/etc"), request)?;
    read_back(Path::new("/etc"))
}

fn check(request: &SetIdentity) -> Result<(), IdentityError> {
    let name = request.host_name.as_bytes();
    let plain = name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
    let framed = !name.starts_with(b"-") && !name.ends_with(b"-");
    if !plain || !framed || name.is_empty() || name.len() > MAX_LABEL {
        return Err(IdentityError::HostName(request.host_name.clone()));
    }
    let id = request.machine_id.as_bytes();
    if id.len() != 32 || !id.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(IdentityError::MachineId(request.machine_id.clone()));
    }
    Ok(())
}

fn write_files(etc: &Path, request: &SetIdentity) -> Result<(), IdentityError> {
    let hosts = std::fs::read_to_string(etc.join("hosts")).unwrap_or_default();
    replace(etc, "machine-id", &format!("{}\n", request.machine_id))?;
    replace(etc, "hostname", &format!("{}\n", request.host_name))?;
    replace(etc, "hosts", &hosts_with(&hosts, &request.host_name))
}

/// Puts a whole new file in the place of an old one; whoever reads sees the one or the other. A link in its
/// place is replaced and not followed.
fn replace(etc: &Path, name: &str, contents: &str) -> Result<(), IdentityError> {
    let path = etc.join(name);
    let beside = etc.join(format!(".{name}.new"));
    write_new(etc, &beside, contents.as_bytes())
        .and_then(|()| std::fs::rename(&beside, &path))
        .map_err(|source| IdentityError::Write(path, source))
}

fn write_new(directory: &Path, path: &Path, contents: &[u8]) -> std::io::Result<()> {
    // The canary's initramfs has no /etc.
    std::fs::create_dir_all(directory)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(0o644))?;
    std::io::Write::write_all(&mut std::fs::File::from(file), contents)
}

/// The hosts file with `name` for the address that Debian gives a machine's own name, instead of the name
/// that stood there before.
fn hosts_with(hosts: &str, name: &str) -> String {
    const OWN: &str = "127.0.1.1";
    let others = hosts.lines().filter(|line| line.split_whitespace().next() != Some(OWN));
    let mut lines: Vec<String> = others.map(str::to_owned).collect();
    if lines.is_empty() {
        lines.extend(["127.0.0.1\tlocalhost".to_owned(), "::1\tlocalhost".to_owned()]);
    }
    lines.push(format!("{OWN}\t{name}\n"));
    lines.join("\n")
}

fn read_back(etc: &Path) -> Result<Identity, IdentityError> {
    let path = etc.join("machine-id");
    let machine_id =
        std::fs::read_to_string(&path).map_err(|source| IdentityError::Read(path, source))?.trim().to_owned();
    let addresses = interfaces::addresses().map_err(IdentityError::Addresses)?;
    Ok(Identity {
        host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        machine_id,
        addresses: addresses.iter().map(|entry| format!("{}/{}", entry.address, entry.prefix)).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn request(host_name: &str, machine_id: &str) -> SetIdentity {
        SetIdentity { host_name: host_name.to_owned(), machine_id: machine_id.to_owned() }
    }

    #[test]
    fn only_labels_are_host_names() {
        assert!(check(&request("w-01jb", ID)).is_ok());
        for bad in ["", "-a", "a-", "a.b", "a b", "ä", "a\n127.0.0.1 evil", &"a".repeat(64)] {
            assert!(matches!(check(&request(bad, ID)), Err(IdentityError::HostName(_))), "{bad:?}");
        }
    }

    #[test]
    fn only_32_lower_case_hexadecimal_digits_are_machine_ids() {
        for bad in ["", "0123", &ID.to_uppercase(), &format!("{ID}0"), &ID.replace('0', "g")] {
            assert!(matches!(check(&request("a", bad)), Err(IdentityError::MachineId(_))), "{bad:?}");
        }
    }

    #[test]
    fn the_own_name_is_replaced_in_hosts_and_the_rest_kept() {
        let first = hosts_with("", "one");
        assert_eq!(first, "127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.1.1\tone\n");
        let second = hosts_with(&format!("{first}10.0.0.1 gateway\n"), "two");
        assert_eq!(second, "127.0.0.1\tlocalhost\n::1\tlocalhost\n10.0.0.1 gateway\n127.0.1.1\ttwo\n");
    }

    #[test]
    fn a_link_in_the_place_of_a_file_is_replaced_and_its_target_untouched() {
        let etc = tempfile::tempdir().unwrap();
        let target = etc.path().join("target");
        std::fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, etc.path().join("machine-id")).unwrap();
        write_files(etc.path(), &request("a", ID)).unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
        assert_eq!(read_back(etc.path()).unwrap().machine_id, ID);
        assert_eq!(std::fs::read_to_string(etc.path().join("hostname")).unwrap(), "a\n");
    }
}
