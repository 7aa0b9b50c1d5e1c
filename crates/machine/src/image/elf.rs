//! Just enough of ELF-64 (little endian) to check a kernel and to read a module's `.modinfo`.
//!
//! Bytes come from packages, so every offset and length is checked; nothing here can panic or loop on them.
//! Not here: relocations, symbols, anything that changes a file. Layout: System V ABI, chapters 4 and 5.

use thiserror::Error;

/// Bytes are not the ELF file that was expected.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ElfError {
    /// No ELF-64 little-endian header.
    #[error("not a 64-bit little-endian ELF file")]
    NotElf,
    /// A table or section reaches beyond the end of the file.
    #[error("its {what} lies outside the file")]
    OutOfBounds {
        /// Which table.
        what: &'static str,
    },
}

/// An ELF file in memory whose tables lie within it.
#[derive(Debug, Clone, Copy)]
pub struct Elf<'a> {
    bytes: &'a [u8],
    sections: Table,
    segments: Table,
    names: usize,
}

#[derive(Debug, Clone, Copy)]
struct Table {
    offset: usize,
    entry: usize,
    count: usize,
}

const SECTION_ENTRY: usize = 64;
const SEGMENT_ENTRY: usize = 56;
/// `p_type` of the segment that names a dynamic program's loader.
const PT_INTERP: usize = 3;
/// `p_type` of a note segment.
const PT_NOTE: usize = 4;
/// Kernels have one or two note segments. More are not looked at: each may say that it spans the whole file.
const MAX_NOTE_SEGMENTS: usize = 16;
/// The note by which a kernel offers its PVH entry point: Linux `include/xen/interface/elfnote.h`.
const XEN_ELFNOTE_PHYS32_ENTRY: usize = 18;

impl<'a> Elf<'a> {
    /// Checks the header and that both tables lie in the file.
    ///
    /// # Errors
    /// [`ElfError`] when they do not.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ElfError> {
        // Class 2 is 64 bits, data 1 is little endian.
        if bytes.get(..6) != Some(b"\x7fELF\x02\x01") || bytes.len() < 64 {
            return Err(ElfError::NotElf);
        }
        let table = |offset, entry, count, least, what| {
            let error = ElfError::OutOfBounds { what };
            let table = Table {
                offset: number(bytes, offset, 8).ok_or(error.clone())?,
                entry: number(bytes, entry, 2).ok_or(error.clone())?,
                count: number(bytes, count, 2).ok_or(error.clone())?,
            };
            let end = table.entry.checked_mul(table.count).and_then(|size| size.checked_add(table.offset));
            let fits =
                end.is_some_and(|end| end <= bytes.len()) && (table.count == 0 || table.entry >= least);
            if fits { Ok(table) } else { Err(error) }
        };
        Ok(Self {
            bytes,
            segments: table(0x20, 0x36, 0x38, SEGMENT_ENTRY, "segment table")?,
            sections: table(0x28, 0x3a, 0x3c, SECTION_ENTRY, "section table")?,
            names: number(bytes, 0x3e, 2).ok_or(ElfError::NotElf)?,
        })
    }

    /// The content of the first section called `name`; `None` when there is none or it lies outside the file.
    pub fn section(&self, name: &str) -> Option<&'a [u8]> {
        let names = self.section_bytes(self.names)?;
        (0..self.sections.count)
            .find(|index| {
                let entry = self.sections.offset + index * self.sections.entry;
                let start = number(self.bytes, entry, 4);
                let rest = start.and_then(|start| names.get(start..)).unwrap_or_default();
                rest.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
            })
            .and_then(|index| self.section_bytes(index))
    }

    /// The values of `key` in `.modinfo`, which holds `key=value` texts ended by zero bytes.
    pub fn modinfo(&self, key: &str) -> Vec<&'a str> {
        let texts = self.section(".modinfo").unwrap_or_default().split(|byte| *byte == 0);
        texts
            .filter_map(|text| std::str::from_utf8(text).ok()?.strip_prefix(key)?.strip_prefix('='))
            .collect()
    }

    /// Whether it is for x86-64 (`e_machine`, 62).
    pub fn is_x86_64(&self) -> bool {
        number(self.bytes, 0x12, 2) == Some(62)
    }

    /// Whether the kernel can be started through PVH, which is how QEMU starts an ELF given by `-kernel`.
    pub fn offers_pvh(&self) -> bool {
        let mut notes = self.segments_of(PT_NOTE).take(MAX_NOTE_SEGMENTS);
        notes.any(|entry| self.range(entry + 8, entry + 32).is_some_and(has_pvh_note))
    }

    /// Whether it is a program that needs a loader and shared libraries.
    pub fn is_dynamic(&self) -> bool {
        self.segments_of(PT_INTERP).next().is_some()
    }

    /// Where the headers of all segments of one type stand.
    fn segments_of(&self, wanted: usize) -> impl Iterator<Item = usize> {
        let entries =
            (0..self.segments.count).map(|index| self.segments.offset + index * self.segments.entry);
        entries.filter(move |entry| number(self.bytes, *entry, 4) == Some(wanted))
    }

    fn section_bytes(&self, index: usize) -> Option<&'a [u8]> {
        if index >= self.sections.count {
            return None;
        }
        let entry = self.sections.offset + index * self.sections.entry;
        self.range(entry + 24, entry + 32)
    }

    /// The bytes whose offset and size stand at these two places.
    fn range(&self, offset_at: usize, size_at: usize) -> Option<&'a [u8]> {
        let offset = number(self.bytes, offset_at, 8)?;
        let size = number(self.bytes, size_at, 8)?;
        self.bytes.get(offset..offset.checked_add(size)?)
    }
}

/// Notes are (name size, content size, type), the name and the content, each padded to four bytes.
fn has_pvh_note(mut notes: &[u8]) -> bool {
    while let (Some(name_size), Some(size), Some(kind)) =
        (number(notes, 0, 4), number(notes, 4, 4), number(notes, 8, 4))
    {
        if kind == XEN_ELFNOTE_PHYS32_ENTRY && notes.get(12..16) == Some(b"Xen\0") {
            return true;
        }
        let padded = |size: usize| size.checked_next_multiple_of(4);
        let next = padded(name_size).and_then(|n| n.checked_add(padded(size)?)?.checked_add(12));
        match next.and_then(|next| notes.get(next..)) {
            Some(rest) => notes = rest,
            None => return false,
        }
    }
    false
}

/// A little-endian number of 2, 4 or 8 bytes; `None` outside the bytes or when it does not fit a length.
fn number(bytes: &[u8], at: usize, width: usize) -> Option<usize> {
    let mut wide = [0; 8];
    wide[..width].copy_from_slice(bytes.get(at..at.checked_add(width)?)?);
    usize::try_from(u64::from_le_bytes(wide)).ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A small ELF file with these sections, and one note segment holding `notes`.
    pub(crate) fn elf_with(sections: &[(&str, &[u8])], notes: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let mut names = vec![0];
        let mut headers = vec![vec![0; SECTION_ENTRY]];
        let mut add = |name: &str, content: &[u8], bytes: &mut Vec<u8>| {
            let mut header = vec![0; SECTION_ENTRY];
            header[..4].copy_from_slice(&u32::try_from(names.len()).unwrap().to_le_bytes());
            header[24..32].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
            names.extend_from_slice(name.as_bytes());
            names.push(0);
            let content = if name == ".shstrtab" { names.clone() } else { content.to_vec() };
            header[32..40].copy_from_slice(&(content.len() as u64).to_le_bytes());
            bytes.extend(content);
            headers.push(header);
        };
        for (name, content) in sections {
            add(name, content, &mut bytes);
        }
        add(".shstrtab", &[], &mut bytes);
        let count = u16::try_from(headers.len()).unwrap();
        let note_at = bytes.len() as u64;
        bytes.extend_from_slice(notes);
        let segment_at = bytes.len() as u64;
        let mut segment = vec![0; SEGMENT_ENTRY];
        segment[..4].copy_from_slice(&4u32.to_le_bytes());
        segment[8..16].copy_from_slice(&note_at.to_le_bytes());
        segment[32..40].copy_from_slice(&(notes.len() as u64).to_le_bytes());
        bytes.extend(segment);
        let section_at = bytes.len() as u64;
        bytes.extend(headers.concat());
        bytes[0x20..0x28].copy_from_slice(&segment_at.to_le_bytes());
        bytes[0x28..0x30].copy_from_slice(&section_at.to_le_bytes());
        bytes[0x36..0x38].copy_from_slice(&56u16.to_le_bytes());
        bytes[0x38..0x3a].copy_from_slice(&1u16.to_le_bytes());
        bytes[0x3a..0x3c].copy_from_slice(&64u16.to_le_bytes());
        bytes[0x3c..0x3e].copy_from_slice(&count.to_le_bytes());
        bytes[0x3e..0x40].copy_from_slice(&(count - 1).to_le_bytes());
        bytes
    }

    /// An ELF note as Linux writes its PVH entry.
    pub(crate) fn pvh_note() -> Vec<u8> {
        let mut note = Vec::new();
        for number in [4u32, 8, 18] {
            note.extend(number.to_le_bytes());
        }
        note.extend(b"Xen\0");
        note.extend(0x0100_0000u64.to_le_bytes());
        note
    }

    #[test]
    fn sections_and_modinfo_are_found() {
        let bytes =
            elf_with(&[(".text", b"code"), (".modinfo", b"name=a\0depends=b,c\0alias=x\0alias=y\0")], &[]);
        let elf = Elf::parse(&bytes).unwrap();
        assert_eq!(elf.section(".text"), Some(&b"code"[..]));
        assert_eq!(elf.section(".tex"), None);
        assert_eq!(elf.modinfo("depends"), ["b,c"]);
        assert_eq!(elf.modinfo("alias"), ["x", "y"]);
    }

    #[test]
    fn only_a_kernel_with_the_note_offers_pvh() {
        let mut other_first = vec![4, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, b'G', b'N', b'U', 0, 9, 0, 0, 0];
        other_first.extend(pvh_note());
        assert!(Elf::parse(&elf_with(&[], &pvh_note())).unwrap().offers_pvh());
        assert!(Elf::parse(&elf_with(&[], &other_first)).unwrap().offers_pvh());
        assert!(!Elf::parse(&elf_with(&[], &other_first[..20])).unwrap().offers_pvh());
    }

    proptest! {
        #[test]
        fn rubbish_is_refused_or_harmless(mut bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            for magic in [false, true] {
                if magic && bytes.len() >= 6 {
                    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
                }
                if let Ok(elf) = Elf::parse(&bytes) {
                    let _ = (elf.section(".modinfo"), elf.modinfo("depends"), elf.offers_pvh());
                }
            }
        }

        #[test]
        fn a_damaged_file_never_panics(at in 0usize..400, value: u8, cut in 0usize..500) {
            let mut bytes = elf_with(&[(".modinfo", b"depends=b\0")], &pvh_note());
            let at = at % bytes.len();
            bytes[at] = value;
            bytes.truncate(cut.max(1));
            if let Ok(elf) = Elf::parse(&bytes) {
                let _ = (elf.section(".modinfo"), elf.modinfo("depends"), elf.offers_pvh());
            }
        }
    }
}
