//! The hostile agent's boot: file systems, drivers, the port. Nothing in here is hostile.

use crate::deadline::within;
use rustix::mount::{MountFlags, mount};
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The driver's file that is left out, because an attack needs a module that is not loaded yet.
pub(super) const SPARE_MODULE: &str = "squashfs.ko";

/// Brings the guest up and opens the port to the host.
pub(super) fn boot() -> Option<File> {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        let _ = fs::create_dir(target);
        mount(kind, target, kind, MountFlags::empty(), None::<&std::ffi::CStr>).ok()?;
    }
    for name in fs::read_to_string("/modules/order").unwrap_or_default().lines() {
        if name.trim() != SPARE_MODULE {
            load(&Path::new("/modules").join(name.trim()));
        }
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

/// Stops the CPU for good, interrupts off, in the kernel: loads a driver whose first instructions are replaced.
/// Returns when the kernel takes no modules.
pub(super) fn hang(module: &str) {
    let Ok(mut bytes) = fs::read(Path::new("/modules").join(module)) else { return };
    if stop_in_init(&mut bytes).is_none() {
        return;
    }
    if fs::write("/stop.ko", bytes).is_ok() {
        load(Path::new("/stop.ko"));
    }
}

/// Replaces what a module does first by `cli; hlt; jmp`, in the file of a 64-bit relocatable ELF (elf(5)).
fn stop_in_init(bytes: &mut [u8]) -> Option<()> {
    let number = |bytes: &[u8], at: usize, width: usize| {
        let mut word = [0; 8];
        word[..width].copy_from_slice(bytes.get(at..at + width)?);
        usize::try_from(u64::from_le_bytes(word)).ok()
    };
    let sections = number(bytes, 0x28, 8)?;
    let (count, names) = (number(bytes, 0x3c, 2)?, number(bytes, 0x3e, 2)?);
    let at = |index: usize| sections + index * 64;
    let strings = number(bytes, at(names) + 0x18, 8)?;
    for index in 0..count {
        let name = strings + number(bytes, at(index), 4)?;
        let end = name + bytes.get(name..)?.iter().position(|byte| *byte == 0)?;
        let (start, size) = (number(bytes, at(index) + 0x18, 8)?, number(bytes, at(index) + 0x20, 8)?);
        match bytes.get(name..end)? {
            // Wherever in it the kernel begins, it comes to the stop.
            b".init.text" => {
                let code = bytes.get_mut(start..start + size)?;
                code.fill(0x90);
                code.get_mut(size.checked_sub(4)?..)?.copy_from_slice(&[0xfa, 0xf4, 0xeb, 0xfd]);
            }
            // Nothing is patched into the new code, by the loader or by the tracer.
            b".rela.init.text" | b"__mcount_loc" | b".rela__mcount_loc" => {
                bytes.get_mut(at(index) + 0x20..at(index) + 0x28)?.fill(0);
            }
            _ => {}
        }
    }
    // A signature that no longer fits is an error; none at all is a complaint.
    let last = bytes.len().checked_sub(2)?;
    bytes[last] = b'?';
    Some(())
}
