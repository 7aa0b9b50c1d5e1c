//! Writes cpio archives in the "newc" format that the kernel unpacks as initramfs.
//!
//! The same content always gives the same bytes: no times, no inode numbers of the host, owner root. What goes
//! into an archive is decided by [`super::modules`] and [`crate::image::boot`].

use cpio::newc::{Builder, trailer};
use std::io::{self, Write};

/// An archive being written to `W`. Parents must be added before what they hold: the kernel makes none.
#[derive(Debug)]
pub(crate) struct Archive<W: Write> {
    out: W,
    entries: u32,
}

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

impl<W: Write> Archive<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, entries: 0 }
    }

    /// Adds an empty directory; `path` has no leading slash.
    pub(crate) fn directory(self, path: &str) -> io::Result<Self> {
        self.entry(path, DIRECTORY | 0o755, &[])
    }

    /// Adds a file; `path` has no leading slash.
    pub(crate) fn file(self, path: &str, mode: u32, content: &[u8]) -> io::Result<Self> {
        self.entry(path, REGULAR | mode, content)
    }

    /// Writes the trailer and gives the writer back. Another archive may follow in the same file.
    pub(crate) fn finish(self) -> io::Result<W> {
        trailer(self.out)
    }

    fn entry(mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<Self> {
        let size = u32::try_from(content.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        self.entries += 1;
        let mut writer = Builder::new(path).ino(self.entries).mode(mode).nlink(1).write(self.out, size);
        writer.write_all(content)?;
        self.out = writer.finish()?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpio::newc::Reader;
    use proptest::prelude::*;
    use std::io::Read;

    /// Every entry of all archives in `bytes`: path, mode, content.
    pub(crate) fn entries(bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let (mut rest, mut found) = (bytes, Vec::new());
        while !rest.is_empty() {
            let mut reader = Reader::new(rest).unwrap();
            let (path, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            let mut content = Vec::new();
            reader.read_to_end(&mut content).unwrap();
            let trailer = reader.entry().is_trailer();
            rest = reader.finish().unwrap();
            if !trailer {
                found.push((path, mode, content));
            }
        }
        found
    }

    #[test]
    fn two_archives_in_one_file_are_both_read() {
        let first = Archive::new(Vec::new()).directory("modules").unwrap().finish().unwrap();
        let both = Archive::new(first).file("init", 0o755, b"agent").unwrap().finish().unwrap();
        let expected =
            [("modules".to_owned(), 0o040_755, vec![]), ("init".to_owned(), 0o100_755, b"agent".to_vec())];
        assert_eq!(entries(&both), expected);
    }

    proptest! {
        #[test]
        fn content_comes_out_as_it_went_in(content: Vec<u8>, path in "[a-z]{1,20}") {
            let archive = Archive::new(Vec::new()).file(&path, 0o644, &content).unwrap().finish().unwrap();
            prop_assert_eq!(archive.len() % 4, 0, "the kernel wants archives aligned to four bytes");
            prop_assert_eq!(entries(&archive), [(path, 0o100_644, content)]);
        }
    }
}
