//! Takes the ELF kernel out of a bzImage.
//!
//! An ELF given to QEMU's `-kernel` starts through PVH and skips the kernel's own unpacking in the guest, which
//! is 0.3 s in emulation. The price is that nothing relocates it, so the guest kernel runs without KASLR.
//!
//! ```text
//! bzImage:  | boot sector + setup, (setup_sects + 1) * 512 bytes | protected-mode code ... payload ... |
//!                 ^ 0x1f1 setup header                                    ^ payload_offset, payload_length
//! payload:  | LZ4 legacy frame: magic, (length, block)* | uncompressed length, 4 bytes |
//! ```
//!
//! Sources: Linux `Documentation/arch/x86/boot.rst` (header, protocol 2.08 and later), LZ4 `doc/lz4_Frame_format.md`
//! ("Legacy frame"), Linux `scripts/Makefile.lib` (`size_append`). Not here: other compressions, which are named
//! and refused; writing anything.

use super::elf::{Elf, ElfError};
use thiserror::Error;

/// A bzImage could not be taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BzImageError {
    /// No `HdrS` where the setup header should be.
    #[error("not a bzImage")]
    NotBzImage,
    /// The boot protocol is older than 2.08 and does not say where the payload is.
    #[error("its boot protocol {}.{} is older than 2.8", .version >> 8, .version & 0xff)]
    OldProtocol {
        /// As in the header.
        version: u16,
    },
    /// The header points outside the file.
    #[error("its payload lies outside the file")]
    OutOfBounds,
    /// The payload is compressed in another way than LZ4.
    #[error("its payload is compressed with {name}, only lz4 is supported")]
    Compression {
        /// Which way, as far as it is known.
        name: &'static str,
    },
    /// The payload does not unpack.
    #[error("its payload is damaged: {why}")]
    Damaged {
        /// Where it broke.
        why: &'static str,
    },
    /// The payload unpacks to something that is no ELF file.
    #[error("its payload is no kernel")]
    Elf(#[from] ElfError),
    /// The kernel inside cannot be started directly.
    #[error("the kernel inside has no PVH entry (CONFIG_PVH)")]
    NoPvh,
}

const LZ4_LEGACY_MAGIC: &[u8] = &0x184C_2102u32.to_le_bytes();
/// Every block but the last of a legacy frame holds this much.
const LZ4_LEGACY_BLOCK: usize = 8 << 20;
/// No kernel is larger, unpacked; LZ4 packs zeros 255 to one, so a small file can promise much.
const MAX_UNPACKED: usize = 1 << 30;
/// The magic numbers of what else kernels are compressed with (Linux `lib/decompress.c`).
const OTHERS: [(&[u8], &str); 6] = [
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\x5d\0\0", "lzma"),
    (b"\x89LZO", "lzo"),
];

/// The ELF kernel inside `bzimage`, checked to have a PVH entry.
///
/// # Errors
/// [`BzImageError`] says which part is not as it should be.
pub fn vmlinux(bzimage: &[u8]) -> Result<Vec<u8>, BzImageError> {
    let elf = unpack(payload(bzimage)?)?;
    if Elf::parse(&elf)?.offers_pvh() { Ok(elf) } else { Err(BzImageError::NoPvh) }
}

/// The compressed payload, as the setup header describes it.
fn payload(bzimage: &[u8]) -> Result<&[u8], BzImageError> {
    if bzimage.get(0x202..0x206) != Some(b"HdrS") {
        return Err(BzImageError::NotBzImage);
    }
    let version = bzimage.get(0x206..0x208).map_or(0, |v| u16::from_le_bytes([v[0], v[1]]));
    if version < 0x0208 {
        return Err(BzImageError::OldProtocol { version });
    }
    // boot.rst: "If the value is 0, the real value is 4."
    let sectors = match bzimage.get(0x1f1).copied() {
        None | Some(0) => 4,
        Some(sectors) => usize::from(sectors),
    };
    let offset = word(bzimage, 0x248).ok_or(BzImageError::OutOfBounds)?;
    let length = word(bzimage, 0x24c).ok_or(BzImageError::OutOfBounds)?;
    let start = ((sectors + 1) * 512).checked_add(offset).ok_or(BzImageError::OutOfBounds)?;
    let end = start.checked_add(length).ok_or(BzImageError::OutOfBounds)?;
    bzimage.get(start..end).ok_or(BzImageError::OutOfBounds)
}

/// Unpacks an LZ4 legacy frame followed by its unpacked length.
fn unpack(payload: &[u8]) -> Result<Vec<u8>, BzImageError> {
    let damaged = |why| BzImageError::Damaged { why };
    let Some(mut rest) = payload.strip_prefix(LZ4_LEGACY_MAGIC) else {
        let other = OTHERS.iter().find(|(magic, _)| payload.starts_with(magic));
        return Err(BzImageError::Compression { name: other.map_or("something unknown", |(_, name)| name) });
    };
    let Some((body, trailer)) = rest.split_last_chunk::<4>() else {
        return Err(damaged("it is too short"));
    };
    rest = body;
    // The kernel's build appends the length modulo 2^32; no kernel is that large.
    let promised = usize::try_from(u32::from_le_bytes(*trailer)).unwrap_or(usize::MAX);
    if promised > MAX_UNPACKED {
        return Err(damaged("it promises to be too long"));
    }
    let mut unpacked = Vec::new();
    let mut buffer = vec![0; LZ4_LEGACY_BLOCK];
    while !rest.is_empty() {
        let length = word(rest, 0).ok_or(damaged("a block has no length"))?;
        let block =
            length.checked_add(4).and_then(|end| rest.get(4..end)).ok_or(damaged("a block is cut"))?;
        let written = lz4_flex::block::decompress_into(block, &mut buffer)
            .map_err(|_| damaged("a block does not unpack"))?;
        // Looked at now and not at the end: memory is taken for no more than was promised.
        if written > promised - unpacked.len() {
            return Err(damaged("its length is not the promised one"));
        }
        unpacked.extend_from_slice(&buffer[..written]);
        rest = &rest[4 + length..];
    }
    if unpacked.len() == promised { Ok(unpacked) } else { Err(damaged("its length is not the promised one")) }
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..at.checked_add(4)?)?.first_chunk::<4>()?;
    usize::try_from(u32::from_le_bytes(*word)).ok()
}

#[cfg(test)]
mod tests {
    use super::super::elf::tests::{elf_with, pvh_note};
    use super::*;
    use proptest::prelude::*;

    /// A bzImage as a kernel build would make it of `payload`.
    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 3 * 512 + 100];
        image[0x1f1] = 2;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&100u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        image.extend_from_slice(payload);
        image.extend_from_slice(b"what follows the payload");
        image
    }

    fn packed(content: &[u8]) -> Vec<u8> {
        let mut payload = LZ4_LEGACY_MAGIC.to_vec();
        for chunk in content.chunks(LZ4_LEGACY_BLOCK) {
            let block = lz4_flex::block::compress(chunk);
            payload.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
            payload.extend(block);
        }
        payload.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
        payload
    }

    #[test]
    fn the_kernel_comes_out_as_it_went_in() {
        let mut elf = elf_with(&[(".text", b"kernel")], &pvh_note());
        // Larger than one block, so that the last block is a short one.
        elf.resize(LZ4_LEGACY_BLOCK + 12_345, 7);
        assert_eq!(vmlinux(&bzimage(&packed(&elf))).unwrap(), elf);
    }

    #[test]
    fn every_other_input_is_refused_by_name() {
        let elf = elf_with(&[], &pvh_note());
        assert_eq!(vmlinux(b"MZ"), Err(BzImageError::NotBzImage));
        assert_eq!(
            vmlinux(&bzimage(b"\x28\xb5\x2f\xfd...")),
            Err(BzImageError::Compression { name: "zstd" })
        );
        assert_eq!(vmlinux(&bzimage(b"????")), Err(BzImageError::Compression { name: "something unknown" }));
        assert_eq!(vmlinux(&bzimage(&packed(b"no kernel"))), Err(BzImageError::Elf(ElfError::NotElf)));
        assert_eq!(vmlinux(&bzimage(&packed(&elf_with(&[], b"")))), Err(BzImageError::NoPvh));
        let mut cut = bzimage(&packed(&elf));
        cut.truncate(1700);
        assert_eq!(vmlinux(&cut), Err(BzImageError::OutOfBounds));
        let mut longer = packed(&elf);
        *longer.last_mut().unwrap() ^= 1;
        assert!(matches!(vmlinux(&bzimage(&longer)), Err(BzImageError::Damaged { .. })));
        let mut bomb = packed(&vec![0; LZ4_LEGACY_BLOCK]);
        let promise = bomb.len() - 4;
        bomb[promise..].copy_from_slice(&100u32.to_le_bytes());
        assert!(matches!(vmlinux(&bzimage(&bomb)), Err(BzImageError::Damaged { .. })));
        bomb[promise..].fill(0xff);
        assert!(matches!(vmlinux(&bzimage(&bomb)), Err(BzImageError::Damaged { .. })));
        let mut old = bzimage(&packed(&elf));
        old[0x206] = 7;
        assert_eq!(vmlinux(&old), Err(BzImageError::OldProtocol { version: 0x0207 }));
    }

    proptest! {
        #[test]
        fn damage_never_panics(at in 0usize..5000, value: u8, cut in 0usize..5000) {
            let mut image = bzimage(&packed(&elf_with(&[(".text", &[3; 500])], &pvh_note())));
            let at = at % image.len();
            image[at] = value;
            let _ = vmlinux(&image);
            image.truncate(cut);
            let _ = vmlinux(&image);
        }
    }
}
