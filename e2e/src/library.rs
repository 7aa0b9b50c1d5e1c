//! Libraries for tests: the shared one, or one of a test's own that it may damage.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

/// Names the library the tests share.
pub const SHARED: &str = "OUTLAST_LIBRARY";
/// Where it is unless that says otherwise.
const DEFAULT: &str = "/var/lib/outlast/library";

/// The library the tests share.
pub fn shared() -> PathBuf {
    env::var_os(SHARED).map_or_else(|| PathBuf::from(DEFAULT), PathBuf::from)
}

/// Makes a library at `path` whose immutable parts of these names lead to the shared one, and whose other
/// parts are its own and empty.
///
/// # Errors
/// What the file system answers.
pub fn make(path: &Path, borrowed: &[&str]) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    for name in borrowed {
        symlink(shared().join(name), path.join(name))?;
    }
    Ok(())
}

/// The parts that nothing but `outlast image build` and the canary ever change.
pub const IMMUTABLE: [&str; 6] = ["images", "kernels", "lean", "vmm", "boot", "canary"];
