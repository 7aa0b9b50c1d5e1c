//! A root that begins with systemd: the service that runs the cases, and a user whose manager lingers.
//!
//! Nothing else is to begin by itself, so that what is there at the end of a case was there at its beginning.

use super::program;
use crate::systemd::USER;
use anyhow::Context as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;

/// What is executed as the first process.
pub(super) const PROGRAM: &str = "/usr/lib/systemd/systemd";
/// Where the administrator's units are.
const UNITS: &str = "/etc/systemd/system";
/// The service of the cases.
const SERVICE: &str = "outlast-lab.service";
/// As udev has it elsewhere: the ordinary user's guests run on it, too. Systemd sets the modes of devices when it begins.
const OPEN_KVM: &str = "/bin/chmod 666 /dev/kvm";
/// What begins by itself on other hosts.
const MASKED: [&str; 3] = ["timers.target", "systemd-udevd.service", "systemd-udev-trigger.service"];

/// Writes what systemd reads when it begins.
pub(super) fn prepare() -> anyhow::Result<()> {
    fs::create_dir_all(UNITS)?;
    let unit = Path::new(UNITS).join(SERVICE);
    fs::write(&unit, service()).context("write the service of the cases")?;
    let target = format!("[Unit]\nDescription=The guest lab\nRequires={SERVICE}\nAllowIsolate=yes\n");
    fs::write(Path::new(UNITS).join("default.target"), target).context("write the target")?;
    for name in MASKED {
        put_link(Path::new("/dev/null"), &Path::new(UNITS).join(name))?;
    }
    // There is no id of this machine yet; it is made up once.
    fs::write("/etc/machine-id", "")?;
    append("/etc/passwd", &format!("lab:x:{USER}:{USER}::/home/lab:/bin/sh"))?;
    append("/etc/group", &format!("lab:x:{USER}:"))?;
    append("/etc/shadow", "lab:*:19000::::::")?;
    fs::create_dir_all("/var/lib/systemd/linger")?;
    fs::write("/var/lib/systemd/linger/lab", "")?;
    fs::create_dir_all("/home/lab")?;
    std::os::unix::fs::chown("/home/lab", Some(USER), Some(USER))?;
    Ok(())
}

fn service() -> String {
    let (program, user) = (program(), format!("user@{USER}.service"));
    format!(
        "[Unit]\nDescription=The cases of the guest lab\nRequires=basic.target dbus.service\n\
         Wants=systemd-logind.service {user}\nAfter=basic.target dbus.service systemd-logind.service {user}\n\
         [Service]\nType=simple\nExecStartPre={OPEN_KVM}\nExecStart={program} cases\nStandardOutput=tty\nStandardError=tty\n\
         TTYPath=/dev/ttyS0\nTasksMax=infinity\nOOMPolicy=continue\n",
        program = program.display()
    )
}

fn put_link(to: &Path, link: &Path) -> anyhow::Result<()> {
    drop(fs::remove_file(link));
    symlink(to, link).with_context(|| format!("link {}", link.display()))
}

fn append(path: &str, line: &str) -> anyhow::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(path)?;
    writeln!(file, "{line}").with_context(|| path.to_owned())
}
