//! Archives that people submit. The input is a tar, whose check sums are set right and which is then packed; one that
//! begins like a gzip file is taken as it is.
//!
//! What is judged good is unpacked, and must be on the disk what it was judged to be: nothing outside, nothing but
//! plain files and directories, no byte more than allowed.
#![no_main]

use flate2::{Compression, write::GzEncoder};
use libfuzzer_sys::fuzz_target;
use outlast_control::{Archive, ArchiveError};
use outlast_fuzz::{files_below, names_in};
use outlast_model::limit::ARCHIVE_ENTRIES;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

/// What the files together may have. Small, so that the limit is met.
const ALLOWED: u64 = 16 * 1024;

const BLOCK: usize = 512;

fuzz_target!(|bytes: &[u8]| {
    let packed = if bytes.starts_with(&[0x1f, 0x8b]) { bytes.to_vec() } else { pack(&summed(bytes)) };
    let archive = match Archive::inspect(packed, ALLOWED) {
        Ok(archive) => archive,
        Err(ArchiveError::Unpack { .. }) => panic!("nothing is unpacked while it is judged"),
        Err(error) => {
            // Names in errors are cut and escaped: a terminal and a record can hold them.
            let text = error.to_string();
            assert!(text.len() < 4096 && !text.chars().any(char::is_control), "{text:?}");
            return;
        }
    };
    assert!(archive.unpacked_bytes() <= ALLOWED);
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let inside = scratch.path().join("inside");
    std::fs::create_dir(&inside).expect("made");
    std::fs::set_permissions(&inside, PermissionsExt::from_mode(0o700)).expect("ours");
    archive.unpack(&inside).expect("what was judged good can be unpacked");
    assert_eq!(names_in(scratch.path()), ["inside"], "something was written outside");
    let found = files_below(&inside);
    assert!(!found.is_empty() && found.len() <= ARCHIVE_ENTRIES);
    assert_eq!(found.iter().map(|file| file.length).sum::<u64>(), archive.unpacked_bytes());
    for file in found {
        let path = file.path.to_str().expect("only UTF-8 is accepted");
        assert!(archive.has_file(path), "{path} was not announced");
        assert!([0o600, 0o700].contains(&file.mode));
    }
});

fn pack(tar: &[u8]) -> Vec<u8> {
    // Nothing is compressed: that costs time and finds nothing.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::none());
    encoder.write_all(tar).and_then(|()| encoder.finish()).expect("memory takes everything")
}

/// The tar with right check sums: a fuzzer does not find them by itself.
fn summed(tar: &[u8]) -> Vec<u8> {
    let mut tar = tar.to_vec();
    // Whole blocks, and the two empty ones at the end.
    tar.resize(tar.len().next_multiple_of(BLOCK) + 2 * BLOCK, 0);
    let mut at = 0;
    while let Some(header) = tar.get_mut(at..at + BLOCK) {
        if header.iter().all(|byte| *byte == 0) {
            break;
        }
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let size = std::str::from_utf8(&header[124..136]).ok();
        let size = size.map(|size| size.trim_matches(['\0', ' '])).filter(|size| !size.is_empty());
        let size = size.and_then(|size| usize::from_str_radix(size, 8).ok()).unwrap_or(0);
        let Some(next) = size.checked_next_multiple_of(BLOCK).and_then(|size| size.checked_add(at + BLOCK))
        else {
            break;
        };
        at = next;
    }
    tar
}
