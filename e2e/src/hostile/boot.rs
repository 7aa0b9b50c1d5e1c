//! The hostile agent's boot: file systems, drivers, the port. Nothing in here is hostile.

use crate::deadline::within;
use rustix::mount::{MountFlags, mount};
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Brings the guest up and opens the port to the host.
pub(super) fn boot() -> Option<File> {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        let _ = fs::create_dir(target);
        mount(kind, target, kind, MountFlags::empty(), None::<&std::ffi::CStr>).ok()?;
    }
    for name in fs::read_to_string("/modules/order").unwrap_or_default().lines() {
        load(&Path::new("/modules").join(name.trim()));
    }
    let port = within(Duration::from_secs(20), port)?;
    OpenOptions::new().read(true).write(true).open(port).ok()
}

fn load(path: &Path) {
    if let Ok(file) = File::open(path) {
        let _ = rustix::system::finit_module(&file, c"", 0);
    }
}

fn port() -> Option<PathBuf> {
    fs::read_dir("/sys/class/virtio-ports").ok()?.flatten().find_map(|entry| {
        let name = fs::read_to_string(entry.path().join("name")).ok()?;
        (name.trim() == outlast_wire::guest::PORT_NAME).then(|| Path::new("/dev").join(entry.file_name()))
    })
}
