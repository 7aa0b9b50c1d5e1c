//! Archives for tests: good ones, and ones that only an attacker would make.

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};

/// An archive being written, as a tar.gz.
pub struct Archive {
    tar: Builder<GzEncoder<Vec<u8>>>,
}

impl Default for Archive {
    fn default() -> Self {
        Self::new()
    }
}

impl Archive {
    /// An empty one.
    pub fn new() -> Self {
        Self { tar: Builder::new(GzEncoder::new(Vec::new(), Compression::fast())) }
    }

    /// With a file. The name is written as it is, however wrong.
    #[must_use]
    pub fn file(mut self, name: &str, content: &[u8]) -> Self {
        let header = header(name, EntryType::Regular, "", content.len());
        self.tar.append(&header, content).expect("memory can be written");
        self
    }

    /// With a link, symbolic or hard; both names are written as they are.
    #[must_use]
    pub fn link(mut self, kind: EntryType, name: &str, target: &str) -> Self {
        let header = header(name, kind, target, 0);
        self.tar.append(&header, std::io::empty()).expect("memory can be written");
        self
    }

    /// With a file of that many zero bytes, which take almost no room while packed.
    #[must_use]
    pub fn zeros(mut self, name: &str, length: u64) -> Self {
        let size = usize::try_from(length).expect("a test's file fits");
        let header = header(name, EntryType::Regular, "", size);
        let zeros = std::io::Read::take(std::io::repeat(0), length);
        self.tar.append(&header, zeros).expect("memory can be written");
        self
    }

    /// The bytes.
    pub fn bytes(self) -> Vec<u8> {
        let gzip = self.tar.into_inner().expect("memory can be written");
        gzip.finish().expect("memory can be written")
    }
}

/// A header whose names are not checked by anybody: the `tar` crate would refuse the bad ones.
fn header(name: &str, kind: EntryType, target: &str, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(u64::try_from(size).expect("a length fits"));
    let old = header.as_old_mut();
    old.name[..name.len()].copy_from_slice(name.as_bytes());
    old.linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.set_cksum();
    header
}
