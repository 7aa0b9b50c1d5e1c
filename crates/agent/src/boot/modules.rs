//! Loading the kernel modules that came along in the initramfs: the files of `/modules` named in
//! `/modules/order`, one name a line, in that order. The order is the image builder's business.

use crate::console;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::path::Path;

/// Loads them all. One that fails is told on the console; whether the guest can do without it shows when
/// what it drives is needed. A kernel with everything built in comes without the directory.
pub(super) fn load_all(directory: &Path) {
    let Ok(order) = std::fs::read_to_string(directory.join("order")) else { return };
    for name in names(&order) {
        match load(&directory.join(name)) {
            // Built in, or listed twice.
            Ok(()) | Err(Errno::EXIST) => {}
            // ENOENT is also what the kernel answers when a symbol is missing: the order is wrong then.
            Err(errno) => console::say(&format!("module {name}: {errno} (errno {})", errno.raw_os_error())),
        }
    }
}

fn load(path: &Path) -> Result<(), Errno> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::system::finit_module(&file, c"", 0)
}

/// The names in an order file. What is no plain file name is left out: it cannot be one of ours.
fn names(order: &str) -> impl Iterator<Item = &str> {
    order.lines().map(str::trim).filter(|name| !name.is_empty() && *name != ".." && !name.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_in_order_without_empty_lines_and_paths() {
        let order = "virtio_ring.ko\n\n virtio.ko \n../../etc/passwd\n..\n/abs.ko\nvirtio_pci.ko";
        assert_eq!(names(order).collect::<Vec<_>>(), ["virtio_ring.ko", "virtio.ko", "virtio_pci.ko"]);
    }

    #[test]
    fn a_directory_without_an_order_loads_nothing() {
        load_all(Path::new("/nonexistent"));
    }
}
