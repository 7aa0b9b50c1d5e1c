//! A snapshot's manifest, as anybody may have written it: what is accepted is, to the byte, what would be written, and
//! nothing in it is out of bounds.
//!
//! A fuzzer does not find a SHA-256, so it is also tried with a checksum that every text has.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outlast_machine::digest::sha256_bytes;
use outlast_model::limit::{NAME_BYTES, SNAPSHOT_MANIFEST_BYTES};
use outlast_wire::snapshot::{Sha256, SnapshotManifest};

/// The checksum that stands in the golden manifest, whatever the text.
fn any(_: &[u8]) -> String {
    "e3729f0c8569df444060ef5308d4a8e13ab542d9fc4f8374ea717425230f4cd8".to_owned()
}

fuzz_target!(|text: &[u8]| {
    check(text, sha256_bytes);
    check(text, any);
});

fn check(text: &[u8], sha256: Sha256) {
    let Ok(manifest) = SnapshotManifest::parse(text, sha256) else { return };
    assert!(text.len() <= SNAPSHOT_MANIFEST_BYTES);
    assert_eq!(manifest.encode(sha256).ok().as_deref(), Some(text), "it would be written otherwise");
    let name = manifest.name.as_str();
    assert!(!name.is_empty() && name.len() <= NAME_BYTES && !name.contains(['/', '.', '\0']));
    for part in [&manifest.machine_part, &manifest.disk_part] {
        assert!(part.sha256.len() == 64 && part.sha256.bytes().all(|digit| digit.is_ascii_hexdigit()));
    }
    // Its content is what is hashed: any change of it must be noticed by who hashes.
    let mut forged = manifest.clone();
    forged.disk_part.bytes ^= 1;
    let forged = forged.encode(any).expect("as long, but for a digit");
    assert!(SnapshotManifest::parse(&forged, sha256_bytes).is_err(), "a forged manifest was believed");
}
