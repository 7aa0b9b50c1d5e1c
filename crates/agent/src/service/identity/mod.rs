//! Who the guest is: host name, machine id, addresses. Set in the kernel and in the files programs read, then
//! read back, because the host believes only what was read back.
//!
//! A fresh clone does this before anything else, with every page and every emulated instruction cold. So what
//! can be done at boot is done at boot, and comes along in the template: the files are made and stay open, and
//! the addresses are known and asked for again only when the kernel has announced a change.

mod entry;
mod hosts;

use crate::console;
use crate::refusal::Reason;
use crate::sys::interfaces;
use entry::Entry;
use outlast_wire::guest::{Identity, SetIdentity};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
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
    /// A file below /etc cannot be made.
    #[error("make {0}")]
    Make(PathBuf, #[source] std::io::Error),
    /// It cannot be written or read back.
    #[error("write {0}")]
    Write(PathBuf, #[source] Errno),
    /// Listening to or listing the addresses.
    #[error("list addresses")]
    Addresses(#[source] Errno),
}

impl Reason for IdentityError {
    fn errno(&self) -> i32 {
        match self {
            Self::HostName(_) | Self::MachineId(_) => Errno::INVAL.raw_os_error(),
            Self::SetHostName(source) | Self::Addresses(source) | Self::Write(_, source) => {
                source.raw_os_error()
            }
            Self::Make(_, source) => source.raw_os_error().unwrap_or(0),
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

/// Where the guest's identity is written down.
pub(crate) struct Nameplate {
    machine_id: Entry,
    host_name: Entry,
    hosts: Entry,
    addresses: Addresses,
    /// Who the machine was last told to be.
    last: Option<SetIdentity>,
}

impl Nameplate {
    /// Makes the files in `etc`, which name nobody yet, and begins to follow the addresses.
    pub(crate) fn put_up(etc: &Path) -> Result<Self, IdentityError> {
        let [mut machine_id, mut host_name, mut hosts] = entries(etc);
        machine_id.replace(b"")?;
        convenience(host_name.replace(b""));
        convenience(hosts.read().and_then(|lines| hosts.replace(&lines)));
        let addresses = Addresses::follow().map_err(IdentityError::Addresses)?;
        Ok(Self { machine_id, host_name, hosts, addresses, last: None })
    }

    /// Another `etc` than before is the one that programs read: says there who the machine is.
    pub(crate) fn move_to(&mut self, etc: &Path) -> Result<(), IdentityError> {
        [self.machine_id, self.host_name, self.hosts] = entries(etc);
        self.last.clone().map_or(Ok(()), |last| self.write(&last))
    }

    /// Closes the files; the next [`Self::set`] finds them by their names.
    pub(crate) fn close(&mut self) {
        for entry in [&mut self.machine_id, &mut self.host_name, &mut self.hosts] {
            entry.close();
        }
    }

    /// Becomes that machine, and tells who it is now.
    pub(crate) fn set(&mut self, request: &SetIdentity) -> Result<Identity, IdentityError> {
        check(request)?;
        rustix::system::sethostname(request.host_name.as_bytes()).map_err(IdentityError::SetHostName)?;
        self.write(request)?;
        self.last = Some(request.clone());
        self.read_back()
    }

    /// Writes what is not right already. The machine id is known by its file alone, so that one must be.
    fn write(&mut self, request: &SetIdentity) -> Result<(), IdentityError> {
        let SetIdentity { host_name, machine_id } = request;
        self.machine_id.say(format!("{machine_id}\n").as_bytes())?;
        convenience(self.host_name.say(format!("{host_name}\n").as_bytes()));
        convenience(self.hosts.change(|lines| hosts::named(lines, host_name)));
        Ok(())
    }

    fn read_back(&mut self) -> Result<Identity, IdentityError> {
        Ok(Identity {
            host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            machine_id: String::from_utf8_lossy(&self.machine_id.read()?).trim().to_owned(),
            addresses: self.addresses.list().map_err(IdentityError::Addresses)?.to_vec(),
        })
    }
}

/// Machine id, host name, hosts.
fn entries(etc: &Path) -> [Entry; 3] {
    ["machine-id", "hostname", "hosts"].map(|name| Entry::at(etc, name))
}

/// The kernel knows the host name. A machine whose owner left no way to write it down in /etc as well still starts.
fn convenience(written: Result<(), IdentityError>) {
    if let Err(error) = written {
        console::say_error("the host name in /etc", &error);
    }
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

/// The addresses of the guest's interfaces.
struct Addresses {
    /// The kernel's announcements of what changes them (rtnetlink(7)).
    changes: OwnedFd,
    known: Vec<String>,
}

/// RTMGRP_LINK, RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR.
const CHANGES: u32 = 0x1 | 0x10 | 0x100;

impl Addresses {
    fn follow() -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Protocol 0 of this family is NETLINK_ROUTE.
        let changes = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&changes, &SocketAddrNetlink::new(0, CHANGES))?;
        // Order matters: listened to first and asked then, nothing is missed in between.
        Ok(Self { changes, known: ask()? })
    }

    /// The addresses as they are now.
    fn list(&mut self) -> Result<&[String], Errno> {
        if self.changed()? {
            self.known = ask()?;
        }
        Ok(&self.known)
    }

    /// Takes all announcements out and tells whether there were any.
    fn changed(&self) -> Result<bool, Errno> {
        let mut changed = false;
        let mut message = [0; 4096];
        loop {
            match recv(&self.changes, &mut message, RecvFlags::empty()) {
                // ENOBUFS: there were more than the socket could hold.
                Ok(_) | Err(Errno::NOBUFS) => changed = true,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(changed),
                Err(errno) => return Err(errno),
            }
        }
    }
}

fn ask() -> Result<Vec<String>, Errno> {
    let addresses = interfaces::addresses()?;
    Ok(addresses.iter().map(|entry| format!("{}/{}", entry.address, entry.prefix)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn request(host_name: &str, machine_id: &str) -> SetIdentity {
        SetIdentity { host_name: host_name.to_owned(), machine_id: machine_id.to_owned() }
    }

    fn contents(etc: &Path, name: &str) -> String {
        std::fs::read_to_string(etc.join(name)).unwrap()
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
        let etc = tempfile::tempdir().unwrap();
        std::fs::write(etc.path().join("hosts"), "127.0.0.1 localhost\n127.0.1.1 old\n10.0.0.1 gateway")
            .unwrap();
        let mut plate = Nameplate::put_up(etc.path()).unwrap();
        for name in ["a-rather-long-name", "short"] {
            plate.write(&request(name, ID)).unwrap();
            let expected = format!("127.0.0.1 localhost\n10.0.0.1 gateway\n127.0.1.1\t{name}\n");
            assert_eq!(contents(etc.path(), "hosts"), expected);
            assert_eq!(contents(etc.path(), "hostname"), format!("{name}\n"));
            assert_eq!(contents(etc.path(), "machine-id"), format!("{ID}\n"));
        }
    }

    #[test]
    fn a_link_in_the_place_of_a_file_is_replaced_and_its_target_untouched() {
        let etc = tempfile::tempdir().unwrap();
        let target = etc.path().join("target");
        std::fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, etc.path().join("machine-id")).unwrap();
        let mut plate = Nameplate::put_up(etc.path()).unwrap();
        plate.write(&request("a", ID)).unwrap();
        assert_eq!(contents(etc.path(), "target"), "precious");
        assert_eq!(plate.read_back().unwrap().machine_id, ID);
    }

    #[test]
    fn a_file_that_was_exchanged_is_written_where_programs_read_it() {
        let etc = tempfile::tempdir().unwrap();
        let mut plate = Nameplate::put_up(etc.path()).unwrap();
        plate.write(&request("before", ID)).unwrap();
        std::fs::write(etc.path().join("other"), "somebody else's\n").unwrap();
        std::fs::rename(etc.path().join("other"), etc.path().join("hostname")).unwrap();
        plate.write(&request("after", ID)).unwrap();
        assert_eq!(contents(etc.path(), "hostname"), "after\n");
    }

    #[test]
    fn after_a_move_the_identity_stands_in_the_new_place_and_a_closed_file_is_made_anew() {
        let (before, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(after.path().join("hosts"), "10.0.0.1 kept\n127.0.1.1 of-an-earlier-boot\n").unwrap();
        std::fs::write(after.path().join("machine-id"), "of an earlier boot, and longer than an id is\n")
            .unwrap();
        let mut plate = Nameplate::put_up(before.path()).unwrap();
        plate.move_to(before.path()).unwrap();
        assert_eq!(contents(before.path(), "hostname"), "", "nobody yet");
        plate.write(&request("web", ID)).unwrap();
        plate.last = Some(request("web", ID));
        plate.move_to(after.path()).unwrap();
        assert_eq!(contents(after.path(), "hosts"), "10.0.0.1 kept\n127.0.1.1\tweb\n");
        assert_eq!(contents(after.path(), "machine-id"), format!("{ID}\n"));
        plate.close();
        plate.write(&request("db", ID)).unwrap();
        assert_eq!(contents(after.path(), "hostname"), "db\n");
        assert_eq!(contents(before.path(), "hostname"), "web\n", "the old place is left alone");
    }

    #[test]
    fn what_the_user_wrote_into_hosts_survives_the_next_time() {
        let etc = tempfile::tempdir().unwrap();
        let path = etc.path().join("hosts");
        let mut plate = Nameplate::put_up(etc.path()).unwrap();
        plate.write(&request("web", ID)).unwrap();
        let mut hosts = std::fs::read(&path).unwrap();
        hosts.extend_from_slice(b"10.0.0.9 caf\xe9\n");
        // In place, through another file, and with the agent's own moved away.
        std::fs::write(&path, &hosts).unwrap();
        plate.write(&request("web", ID)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), hosts);
        std::fs::rename(&path, etc.path().join("hosts.bak")).unwrap();
        std::fs::write(&path, b"10.0.0.7 \xff\xfe\n").unwrap();
        plate.write(&request("db", ID)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"10.0.0.7 \xff\xfe\n127.0.1.1\tdb\n");
        assert_eq!(std::fs::read(etc.path().join("hosts.bak")).unwrap(), hosts);
        plate.close();
        std::fs::write(&path, b"10.0.0.8 \xff\n127.0.1.1\tdb\n").unwrap();
        plate.move_to(etc.path()).unwrap();
        plate.write(&request("web", ID)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"10.0.0.8 \xff\n127.0.1.1\tweb\n");
    }

    #[test]
    fn nothing_is_written_when_nothing_changes() {
        use std::os::unix::fs::MetadataExt;
        let etc = tempfile::tempdir().unwrap();
        let stamps = || {
            ["hosts", "hostname", "machine-id"].map(|name| {
                let status = etc.path().join(name).metadata().unwrap();
                (status.ino(), status.mtime(), status.mtime_nsec())
            })
        };
        let mut plate = Nameplate::put_up(etc.path()).unwrap();
        plate.write(&request("web", ID)).unwrap();
        for name in ["hosts", "hostname", "machine-id"] {
            let file = std::fs::File::options().write(true).open(etc.path().join(name)).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        }
        let before = stamps();
        plate.write(&request("web", ID)).unwrap();
        assert_eq!(stamps(), before, "the files are open");
        plate.close();
        plate.write(&request("web", ID)).unwrap();
        assert_eq!(stamps(), before, "they are closed");
        let mut after_a_start = Nameplate::put_up(tempfile::tempdir().unwrap().path()).unwrap();
        after_a_start.last = Some(request("web", ID));
        after_a_start.move_to(etc.path()).unwrap();
        assert_eq!(stamps(), before, "another start finds them");
        assert_eq!(after_a_start.read_back().unwrap().machine_id, ID);
    }

    #[test]
    fn neither_pipes_nor_directories_in_the_way_keep_a_machine_from_starting() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let etc = tempfile::tempdir().unwrap();
        for name in ["hosts", ".hostname.new"] {
            mknodat(CWD, etc.path().join(name), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        }
        for name in [".hosts.new", ".hosts.new-1", "machine-id"] {
            std::fs::create_dir(etc.path().join(name)).unwrap();
        }
        std::fs::write(etc.path().join("machine-id/kept"), "").unwrap();
        let mut plate = Nameplate::put_up(tempfile::tempdir().unwrap().path()).unwrap();
        plate.last = Some(request("web", ID));
        plate.move_to(etc.path()).unwrap();
        assert_eq!(contents(etc.path(), "hosts"), "127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.1.1\tweb\n");
        assert_eq!(contents(etc.path(), "hostname"), "web\n");
        assert_eq!(contents(etc.path(), "machine-id"), format!("{ID}\n"));
        assert!(etc.path().join(".machine-id.new/kept").exists(), "what was in the directory is kept");
    }

    #[test]
    fn a_hosts_file_that_is_too_long_is_left_alone_and_one_behind_a_link_is_copied() {
        let etc = tempfile::tempdir().unwrap();
        let path = etc.path().join("hosts");
        let mut plate = Nameplate::put_up(etc.path()).unwrap();
        let long = b"10.0.0.1 a\n".repeat(200_000);
        std::fs::write(&path, &long).unwrap();
        plate.write(&request("web", ID)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), long);
        std::fs::write(etc.path().join("real"), "10.0.0.2 b\n").unwrap();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("real", &path).unwrap();
        plate.write(&request("web", ID)).unwrap();
        assert_eq!(contents(etc.path(), "hosts"), "10.0.0.2 b\n127.0.1.1\tweb\n");
        assert_eq!(contents(etc.path(), "real"), "10.0.0.2 b\n");
    }

    #[test]
    fn the_addresses_are_those_of_the_system_without_loopback() {
        let mut addresses = Addresses::follow().unwrap();
        assert_eq!(addresses.list().unwrap(), ask().unwrap());
        assert!(!addresses.known.iter().any(|address| address.starts_with("127.")));
    }
}
