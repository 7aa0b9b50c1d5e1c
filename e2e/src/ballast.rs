//! A disk that is full: for tests whose home is a small file system of its own.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// What fills it.
#[derive(Debug)]
pub struct Ballast {
    path: PathBuf,
}

impl Ballast {
    /// Fills the file system of that directory, but for so many bytes; for 0 to the last one.
    #[track_caller]
    pub fn fill(directory: &Path, leave: u64) -> Self {
        let path = directory.join("ballast");
        let mut file = File::create(&path).expect("the directory can be written");
        let mut block = vec![0u8; 1024 * 1024];
        loop {
            let disk = rustix::fs::fstatvfs(&file).expect("a disk can be asked");
            if leave > 0 && disk.f_bavail * disk.f_frsize <= leave {
                break;
            }
            // In ever smaller pieces, so that the last page is taken as well.
            if let Err(error) = file.write_all(&block) {
                assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
                block.truncate(block.len() / 2);
                if block.is_empty() {
                    break;
                }
            }
        }
        Self { path }
    }

    /// Makes room again.
    #[track_caller]
    pub fn throw_off(self) {
        fs::remove_file(self.path).expect("the ballast can be thrown off");
    }
}
