//! The archive a guest's kernel unpacks first: the lab's program as `/init`, and the modules it loads.
//!
//! The format is cpio's "newc", as the kernel documents it in `early-userspace/buffer-format.rst`.

use std::fmt::Write as _;

/// Modes of what is in the archive.
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;

/// Where modules are, in loading order by name.
pub(super) const MODULES: &str = "/modules";

/// Makes the archive of the program and of modules in loading order.
pub(super) fn pack(program: &[u8], modules: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = Vec::new();
    for directory in ["dev", "modules", "payload", "proc", "root", "scratch", "sys", "system"] {
        entry(&mut archive, directory, DIRECTORY, &[]);
    }
    entry(&mut archive, "init", PROGRAM, program);
    for (name, content) in modules {
        entry(&mut archive, &format!("modules/{name}"), FILE, content);
    }
    entry(&mut archive, "TRAILER!!!", 0, &[]);
    archive
}

fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let size = u32::try_from(content.len()).expect("what is packed here is far smaller than 4 GiB");
    let name_size = u32::try_from(name.len() + 1).expect("names are short");
    // Inode, mode, owner, group, links, time, size, two devices of two numbers, length of the name, checksum.
    let numbers = [0, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
    let mut header = "070701".to_owned();
    for number in numbers {
        write!(header, "{number:08x}").expect("a string takes everything");
    }
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(content);
    pad(archive);
}

/// Everything begins at a multiple of four.
fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_begin_at_multiples_of_four_and_the_end_is_marked() {
        let archive = pack(b"12345", &[("00-a.ko".to_owned(), b"x".to_vec())]);
        let magic = b"070701";
        let starts: Vec<usize> = (0..archive.len()).filter(|&at| archive[at..].starts_with(magic)).collect();
        assert_eq!(starts.len(), 8 + 1 + 1 + 1);
        assert!(starts.iter().all(|at| at % 4 == 0));
        assert!(archive.windows(10).any(|window| window == b"TRAILER!!!"));
    }
}
