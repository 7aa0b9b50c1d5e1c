//! SHA-256 for those who only want the digits; the checked value and the hashing are [`crate::image`]'s.

pub use crate::image::digest::Digest;

use crate::image::error::LibraryError;
use std::path::Path;

/// The SHA-256 of bytes in memory, as 64 lower-case hexadecimal digits.
pub fn sha256_bytes(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

/// The SHA-256 of a whole file, as 64 lower-case hexadecimal digits. Blocks the thread: about 0.6 s a GiB.
pub fn sha256_file(path: &Path) -> Result<String, LibraryError> {
    Ok(Digest::of_file(path)?.to_string())
}
