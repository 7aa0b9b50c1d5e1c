//! The disk with what is under test: the shipped binaries, the lab's own program, and a library with a VMM and one
//! image. In the guest it lies over the system's root file system, below a layer in memory that takes all writes.

use super::system::finish;
use crate::{library, program};
use anyhow::Context as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the binaries are in the guest.
pub(super) const BINARIES: &str = "/usr/libexec/outlast";
/// The lab's own program, in the guest and beside the tests.
pub(super) const PROGRAM: &str = "outlast-e2e-guest";
/// Where the library is in the guest.
pub(super) const LIBRARY: &str = "/var/lib/outlast/library";
/// The image in it. It has a shell, which is all the cases need.
const IMAGE: &str = "base";
/// Makes the disk at `disk`, by way of a tree beside it.
pub(super) fn make(disk: &Path) -> anyhow::Result<()> {
    let tree = disk.with_extension("tree");
    let at = |path: &str| tree.join(path.trim_start_matches('/'));
    fs::create_dir_all(at(BINARIES)).context("make a tree")?;
    for binary in program::BINARIES {
        fs::copy(program::directory().join(binary), at(BINARIES).join(binary))
            .with_context(|| binary.to_owned())?;
    }
    fs::copy(guest_program()?, at(BINARIES).join(PROGRAM)).context(PROGRAM)?;
    copy_library(&at(LIBRARY))?;
    squash(&tree, disk)?;
    fs::remove_dir_all(&tree).context("remove the tree")
}

/// The VMM and the image as they are: links to what a digest names, and that.
fn copy_library(to: &Path) -> anyhow::Result<()> {
    let shared = library::shared();
    fs::create_dir_all(to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o700))?;
    copy(&shared.join("vmm"), &to.join("vmm"))?;
    let (from, images) = (shared.join("images"), to.join("images"));
    let entry = fs::read_link(from.join(IMAGE))
        .with_context(|| format!("image {IMAGE} is missing: outlast image build {IMAGE}"))?;
    fs::create_dir_all(images.join(&entry).parent().context("an image has a shelf")?)?;
    copy(&from.join(&entry), &images.join(&entry))?;
    symlink(&entry, images.join(IMAGE)).context("name the image")
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("cp");
    command.args(["--archive", "--reflink=auto", "--no-target-directory"]).args([from, to]);
    finish(command)
}

/// Packs a tree, quickly: the guest's emulated CPU unpacks it.
pub(super) fn squash(tree: &Path, to: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("mksquashfs");
    command.args([tree, to]).args(["-noappend", "-quiet", "-no-progress", "-comp", "lz4", "-no-xattrs"]);
    finish(command)
}

/// Cargo builds the binaries of a package before its tests, into the directory above theirs.
pub(super) fn guest_program() -> anyhow::Result<PathBuf> {
    let this = std::env::current_exe().context("find the test's own program")?;
    let directory = this.parent().and_then(Path::parent).context("cargo's layout of the target directory")?;
    Ok(directory.join(PROGRAM))
}
