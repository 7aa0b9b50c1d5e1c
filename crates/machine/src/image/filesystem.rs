//! Which file system a root disk holds, by its superblock, and whether it can be whole.
//!
//! Bytes come from people, so nothing is believed that does not fit the file. What is inside the file system is not
//! looked at: the guest kernel mounts it, read-only, and a test boot tells whether it does.
//!
//! Sources: Linux `fs/squashfs/squashfs_fs.h` (struct squashfs_super_block), `Documentation/filesystems/ext4/super.rst`.

use thiserror::Error;

/// So many bytes of the beginning are enough to tell.
pub const HEAD: usize = 4096;

/// A file system that guests can have as their root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// squashfs, version 4.
    Squashfs,
    /// ext4, or an ext2 or ext3 that its driver mounts.
    Ext4,
}

impl FileSystem {
    /// What it is called in an image's directory.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Squashfs => "rootfs.squashfs",
            Self::Ext4 => "rootfs.ext4",
        }
    }
}

/// A file is no root file system.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FileSystemError {
    /// It has no superblock that is known.
    #[error("it holds neither squashfs nor ext4{}", .looks_like.map(|what| format!("; it looks like {what}")).unwrap_or_default())]
    Unknown {
        /// What it may be.
        looks_like: Option<&'static str>,
    },
    /// Its superblock says that it is longer than the file.
    #[error("it is cut off: its {kind} has {said} bytes, the file {size}")]
    CutOff {
        /// The file system.
        kind: &'static str,
        /// In the superblock.
        said: u64,
        /// Of the file.
        size: u64,
    },
    /// Its superblock makes no sense.
    #[error("the superblock of its {kind} makes no sense: {why}")]
    Nonsense {
        /// The file system.
        kind: &'static str,
        /// What does not.
        why: &'static str,
    },
    /// It was in use when it was copied.
    #[error("its ext4 was not unmounted cleanly; run: e2fsck -fy FILE")]
    Dirty,
}

/// Tells the file system from the first [`HEAD`] bytes of a file (fewer if it has fewer) and its size.
///
/// # Errors
/// [`FileSystemError`] says what is wrong with it.
pub fn identify(head: &[u8], size: u64) -> Result<FileSystem, FileSystemError> {
    if head.starts_with(b"hsqs") {
        return squashfs(head, size).map(|()| FileSystem::Squashfs);
    }
    if head.get(0x438..0x43a) == Some(&[0x53, 0xef]) {
        return ext4(&head[0x400..], size).map(|()| FileSystem::Ext4);
    }
    Err(FileSystemError::Unknown { looks_like: guess(head) })
}

fn squashfs(head: &[u8], size: u64) -> Result<(), FileSystemError> {
    let nonsense = |why| FileSystemError::Nonsense { kind: "squashfs", why };
    let (Some(block), Some(version), Some(used)) =
        (number(head, 12, 4), number(head, 28, 2), number(head, 40, 8))
    else {
        return Err(nonsense("it is shorter than a superblock"));
    };
    if version != 4 {
        return Err(nonsense("only version 4 can be mounted"));
    }
    if !block.is_power_of_two() || !(4096..=1 << 20).contains(&block) {
        return Err(nonsense("its block size is none"));
    }
    // The superblock itself has 96 bytes.
    if used < 96 {
        return Err(nonsense("it is shorter than its superblock"));
    }
    fits("squashfs", used, size)
}

fn ext4(superblock: &[u8], size: u64) -> Result<(), FileSystemError> {
    const RECOVER: u64 = 0x4;
    const WIDE: u64 = 0x80;
    let nonsense = |why| FileSystemError::Nonsense { kind: "ext4", why };
    let field = |at, width| number(superblock, at, width).ok_or(nonsense("it is shorter than a superblock"));
    let (low, shift, incompatible) = (field(0x4, 4)?, field(0x18, 4)?, field(0x60, 4)?);
    let high = if incompatible & WIDE == 0 { 0 } else { field(0x150, 4)? };
    if shift > 6 {
        return Err(nonsense("its block size is none"));
    }
    let blocks = (high << 32) | low;
    if blocks == 0 {
        return Err(nonsense("it has no blocks"));
    }
    if incompatible & RECOVER != 0 {
        return Err(FileSystemError::Dirty);
    }
    fits("ext4", blocks.saturating_mul(1024 << shift), size)
}

fn fits(kind: &'static str, said: u64, size: u64) -> Result<(), FileSystemError> {
    if said <= size { Ok(()) } else { Err(FileSystemError::CutOff { kind, said, size }) }
}

/// What people give by mistake.
fn guess(head: &[u8]) -> Option<&'static str> {
    let beginnings: [(&[u8], &str); 6] = [
        (b"QFI\xfb", "a qcow2 image: convert it with qemu-img convert -O raw"),
        (b"\x1f\x8b", "a gzip file: unpack it first"),
        (b"\xfd7zXZ\0", "an xz file: unpack it first"),
        (b"\x28\xb5\x2f\xfd", "a zstd file: unpack it first"),
        (b"070701", "a cpio archive: pack its content with mksquashfs"),
        (b"\x7fELF", "a program"),
    ];
    if let Some((_, what)) = beginnings.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Some(what);
    }
    if head.get(257..262) == Some(b"ustar") {
        return Some("a tar archive: unpack it and pack its content with mksquashfs");
    }
    (head.get(510..512) == Some(&[0x55, 0xaa])).then_some("a disk with partitions: give one partition")
}

/// A little-endian number of at most 8 bytes.
fn number(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let mut wide = [0; 8];
    wide[..width].copy_from_slice(bytes.get(at..at.checked_add(width)?)?);
    Some(u64::from_le_bytes(wide))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The head of a squashfs that says it has so many bytes.
    pub(crate) fn squashfs_head(used: u64) -> Vec<u8> {
        let mut head = vec![0; HEAD];
        head[..4].copy_from_slice(b"hsqs");
        head[12..16].copy_from_slice(&131_072u32.to_le_bytes());
        head[28..30].copy_from_slice(&4u16.to_le_bytes());
        head[40..48].copy_from_slice(&used.to_le_bytes());
        head
    }

    fn ext4_head(blocks: u32, incompatible: u32) -> Vec<u8> {
        let mut head = vec![0; HEAD];
        head[0x404..0x408].copy_from_slice(&blocks.to_le_bytes());
        head[0x418..0x41c].copy_from_slice(&2u32.to_le_bytes());
        head[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
        head[0x460..0x464].copy_from_slice(&incompatible.to_le_bytes());
        head
    }

    #[test]
    fn both_file_systems_are_told_and_measured() {
        assert_eq!(identify(&squashfs_head(5000), 8192), Ok(FileSystem::Squashfs));
        assert!(matches!(
            identify(&squashfs_head(9000), 8192),
            Err(FileSystemError::CutOff { said: 9000, .. })
        ));
        assert_eq!(identify(&ext4_head(4, 0), 16384), Ok(FileSystem::Ext4));
        assert!(matches!(
            identify(&ext4_head(5, 0), 16384),
            Err(FileSystemError::CutOff { said: 20480, .. })
        ));
        assert_eq!(identify(&ext4_head(4, 4), 16384), Err(FileSystemError::Dirty));
        assert!(matches!(identify(&ext4_head(0, 0), 16384), Err(FileSystemError::Nonsense { .. })));
    }

    #[test]
    fn what_people_give_by_mistake_is_named() {
        let said = |head: &[u8]| identify(head, 1 << 20).unwrap_err().to_string();
        assert!(said(b"QFI\xfbxxxx").contains("qcow2"));
        assert!(said(b"\x1f\x8bxxxx").contains("gzip"));
        assert!(said(b"nothing").ends_with("nor ext4"));
        assert!(said(b"").ends_with("nor ext4"));
    }

    proptest! {
        #[test]
        fn rubbish_is_refused_or_harmless(mut head in proptest::collection::vec(any::<u8>(), 0..HEAD), size: u64, kind in 0u8..3) {
            match kind {
                0 if head.len() > 4 => head[..4].copy_from_slice(b"hsqs"),
                1 if head.len() > 0x43a => head[0x438..0x43a].copy_from_slice(&[0x53, 0xef]),
                _ => {}
            }
            let _ = identify(&head, size);
        }
    }
}
