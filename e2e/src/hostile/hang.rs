//! A guest that hangs for good, interrupts off: a kernel whose system call `sync` is a trap, and the agent that
//! walks into it.
//!
//! The kernel that outlast builds has no door by which even root in the guest could switch interrupts off (no
//! modules, no `/dev/mem`, no I/O permissions). So the test brings a kernel of its own, as any user may: the same
//! one, with a few instructions replaced in its file.
//!
//! ```text
//!   cli                           no interrupt comes any more
//!   pushfq; pop rbx; test bh, 2   is that so? the flag is read back
//!   out 0x3f8, …                  then, and only then, it is said on the console: SAYS
//!   jmp .                         for ever, and nothing but the VMM's end can stop it
//! ```

use std::thread;

/// What a CPU says on the console when its interrupts are off and before it stops answering for good.
pub const SAYS: &str = "<interrupts are off>";

/// The function behind the system call `sync`; nothing in the kernel calls it before.
const TRAP: &str = "ksys_sync";

/// The instructions, up to the text, which follows them.
const CODE: [u8; 39] = [
    0xfa, // cli
    0x9c, // pushfq
    0x5b, // pop rbx
    0xf6, 0xc7, 0x02, // test bh, 2: bit 9 of the flags, interrupts
    0x75, 0x1d, // jnz stop: it is not so, and is not said
    0x48, 0x8d, 0x35, 0x18, 0x00, 0x00, 0x00, // lea rsi, [rip + text]
    0xb9, 0x14, 0x00, 0x00, 0x00, // mov ecx, length
    0x66, 0xba, 0xfd, 0x03, // next: mov dx, 0x3fd
    0xec, // wait: in al, dx
    0xa8, 0x20, // test al, 0x20: room for a character
    0x74, 0xfb, // jz wait
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xac, // lodsb
    0xee, // out dx, al
    0xe2, 0xef, // loop next
    0xeb, 0xfe, // stop: jmp stop
];

/// Replaces the beginning of the trap in a kernel's file.
///
/// # Panics
/// When it is not an ELF file with symbols, or has no such function of that length.
pub fn trapped(mut kernel: Vec<u8>) -> Vec<u8> {
    let (at, size) = function(&kernel, TRAP).expect("the kernel's file has its symbols");
    let code = [CODE.as_slice(), SAYS.as_bytes()].concat();
    // What a kernel patches in its own functions at boot, it patches at their end: where they return.
    assert!(code.len() + 32 <= size, "{TRAP} has {size} bytes");
    kernel[at..at + code.len()].copy_from_slice(&code);
    kernel
}

/// Where the function of that name lies in a 64-bit ELF file (elf(5)), and its length.
fn function(elf: &[u8], name: &str) -> Option<(usize, usize)> {
    const SYMBOLS: usize = 2;
    let sections = number(elf, 0x28, 8)?;
    let count = number(elf, 0x3c, 2)?;
    let field = |section: usize, offset: usize, width| number(elf, sections + 64 * section + offset, width);
    let symbols = (0..count).find(|section| field(*section, 4, 4) == Some(SYMBOLS))?;
    let names = field(field(symbols, 0x28, 4)?, 0x18, 8)?;
    let (table, length) = (field(symbols, 0x18, 8)?, field(symbols, 0x20, 8)?);
    let is_named = |entry: &usize| {
        let start = number(elf, *entry, 4).map(|offset| names + offset);
        let text = start.and_then(|start| elf.get(start..start + name.len() + 1));
        text.is_some_and(|text| text.strip_suffix(&[0]) == Some(name.as_bytes()))
    };
    let entry = (table..table + length).step_by(24).find(is_named)?;
    let (section, address, size) =
        (number(elf, entry + 6, 2)?, number(elf, entry + 8, 8)?, number(elf, entry + 16, 8)?);
    let offset = address.checked_sub(field(section, 0x10, 8)?)?;
    Some((field(section, 0x18, 8)? + offset, size))
}

fn number(bytes: &[u8], at: usize, width: usize) -> Option<usize> {
    let mut word = [0; 8];
    word[..width].copy_from_slice(bytes.get(at..at + width)?);
    usize::try_from(u64::from_le_bytes(word)).ok()
}

/// In the guest: every CPU walks into the trap. Does not return, unless the kernel has none.
pub(super) fn hang() {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    for cpu in (0..cpus).rev() {
        let walk = move || {
            let mut only = rustix::thread::CpuSet::new();
            only.set(cpu);
            // The one that is left for the last is this thread's own.
            if rustix::thread::sched_setaffinity(None, &only).is_ok() {
                rustix::fs::sync();
            }
        };
        if cpu > 0 {
            thread::spawn(walk);
        } else {
            walk();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_jumps_of_the_trap_lead_where_they_are_meant_to() {
        let to = |at: usize| {
            let distance = isize::from(i8::from_ne_bytes([CODE[at + 1]]));
            (at + 2).checked_add_signed(distance).unwrap()
        };
        let find = |bytes: &[u8]| CODE.windows(bytes.len()).position(|window| window == bytes).unwrap();
        let (stop, wait, next) = (find(&[0xeb, 0xfe]), find(&[0xec]), find(&[0x66, 0xba, 0xfd, 0x03]));
        assert_eq!(to(find(&[0x75])), stop);
        assert_eq!(to(find(&[0x74])), wait);
        assert_eq!(to(find(&[0xe2])), next);
        assert_eq!(to(stop), stop);
        let lea = find(&[0x48, 0x8d, 0x35]);
        assert_eq!(usize::from(CODE[find(&[0xb9]) + 1]), SAYS.len());
        assert_eq!(lea + 7 + usize::from(CODE[lea + 3]), CODE.len(), "the text follows the code");
    }
}
