//! What tests do to files: name their content, and damage it.

use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;

/// SHA-256 in lower-case hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a text can be written");
        text
    })
}

/// Changes one bit of a byte that is not zero, as near to the middle as there is one, behind everybody's back.
/// A byte of zero could lie in a hole that nobody reads.
pub fn flip_a_bit(path: &Path) {
    let mode = fs::metadata(path).expect("the file is there").permissions();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("root may change modes");
    let file = OpenOptions::new().read(true).write(true).open(path).expect("root may write");
    let length = file.metadata().expect("an open file has a length").len();
    let mut byte = [0];
    let mut places = (length / 2..length).chain(0..length / 2).step_by(64);
    let place = places.find(|at| file.read_exact_at(&mut byte, *at).is_ok() && byte[0] != 0);
    let place = place.expect("the file is not all zeros");
    file.write_all_at(&[byte[0] ^ 0x40], place).expect("root may write");
    fs::set_permissions(path, mode).expect("root may change modes");
}
