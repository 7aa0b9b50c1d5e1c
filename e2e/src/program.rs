//! Where the binaries under test are.

use std::env;
use std::path::{Path, PathBuf};

/// Names the directory of the binaries under test.
pub const BIN_DIR: &str = "OUTLAST_BIN_DIR";
/// The binaries that are shipped together.
pub const BINARIES: [&str; 3] = ["outlast", "outlast-runner", "outlast-agent"];

/// The directory of the binaries under test: [`BIN_DIR`], or the release directory beside the tests' own.
pub fn directory() -> PathBuf {
    let named = env::var_os(BIN_DIR).map(PathBuf::from);
    let directory = named.unwrap_or_else(release_directory);
    for binary in BINARIES {
        let path = directory.join(binary);
        assert!(
            path.is_file(),
            "{} is missing: build with 'cargo build --release --bins', or set {BIN_DIR}",
            path.display()
        );
    }
    directory
}

/// Copies the binaries of a directory into another.
pub fn copy(from: &Path, to: &Path) {
    for binary in BINARIES {
        std::fs::copy(from.join(binary), to.join(binary)).expect("a binary can be copied");
    }
}

/// Tests lie in TARGET/TRIPLE/debug/deps, what is shipped in TARGET/TRIPLE/release.
fn release_directory() -> PathBuf {
    let this = env::current_exe().expect("a test knows its own program");
    let triple = this.ancestors().nth(3).map(Path::to_owned);
    triple.expect("cargo's layout of the target directory").join("release")
}

/// A program of this package that is built together with its tests.
pub fn beside(name: &str) -> PathBuf {
    let named = env::var_os(format!("NEXTEST_BIN_EXE_{name}")).map(PathBuf::from);
    let this = env::current_exe().expect("a test knows its own program");
    let beside = || this.parent().and_then(Path::parent).map(|up| up.join(name));
    let found = named.or_else(beside).filter(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is built together with the tests"))
}
