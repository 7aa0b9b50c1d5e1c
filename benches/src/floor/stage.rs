//! The stage: a directory that looks to QEMU like the jail in which the product runs it.
//!
//! Lives in a mount namespace of this process alone, so nothing of it is left when the process ends, whatever
//! way it ends; but for an empty directory in the run directory, which the next stage uses again.

use crate::recipe::Recipe;
use anyhow::Context as _;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::thread::UnshareFlags;
use std::fs;
use std::path::{Path, PathBuf};

/// Where sockets can be made, on the stage.
pub(super) const SOCKETS: &str = "/vm";
/// What the stage is built on.
const DIRECTORY: &str = "/run/outlast-bench";

const NULL: &str = "null";

/// A stage that was built.
#[derive(Debug)]
pub(super) struct Stage(PathBuf);

impl Stage {
    /// Builds it.
    pub(super) fn make(recipe: &Recipe) -> anyhow::Result<Self> {
        let stage = PathBuf::from(DIRECTORY);
        fs::create_dir_all(&stage)?;
        #[expect(deprecated, reason = "the sound subset: no CLONE_FILES, and this process has one thread")]
        rustix::thread::unshare(UnshareFlags::NEWNS).context("make a mount namespace")?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        mount_bind(&recipe.root, &stage).with_context(|| format!("bind {}", recipe.root.display()))?;
        for (name, devices) in [("vm", MountFlags::NODEV), ("dev", MountFlags::empty())] {
            let target = stage.join(name);
            mount("outlast-bench", &target, "tmpfs", MountFlags::NOSUID | devices, c"mode=0755")
                .with_context(|| format!("mount {}", target.display()))?;
        }
        for file in &recipe.files {
            bind(&file.source, &below(&stage, &file.inside))?;
        }
        // "null" is what this process gives QEMU as standard input; the product opens its own outside the jail.
        for device in recipe.devices.iter().map(String::as_str).filter(|name| *name != NULL).chain([NULL]) {
            bind(&Path::new("/dev").join(device), &stage.join("dev").join(device))?;
        }
        Ok(Self(stage))
    }

    /// Makes it this process's root.
    pub(super) fn enter(&self) -> anyhow::Result<()> {
        std::os::unix::fs::chroot(&self.0).context("enter the stage")?;
        std::env::set_current_dir("/").context("enter the stage")
    }
}

fn below(stage: &Path, inside: &Path) -> PathBuf {
    stage.join(inside.strip_prefix("/").unwrap_or(inside))
}

fn bind(source: &Path, target: &Path) -> anyhow::Result<()> {
    fs::File::create(target).with_context(|| format!("make {}", target.display()))?;
    mount_bind(source, target).with_context(|| format!("bind {}", source.display()))
}
