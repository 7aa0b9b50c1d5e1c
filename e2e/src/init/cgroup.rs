//! Cgroups of one test: a directory in every mounted hierarchy that becomes the root the test sees.
//!
//! ```text
//!   HIERARCHY/outlast-e2e/PID/            what the test sees as the hierarchy's root
//!   HIERARCHY/outlast-e2e/PID/test/       version 2 only: where its processes are (inner nodes hold none)
//! ```
//!
//! Version 2 wants controllers passed down by hand, and cpuset in version 1 wants its masks copied.

use anyhow::Context as _;
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const FAMILY: &str = "outlast-e2e";
/// How long the kernel may take to let go of a cgroup whose processes are dead.
const EMPTY_WITHIN: Duration = Duration::from_secs(2);

/// The cgroups of one test, by name.
pub(super) struct Cgroups {
    name: OsString,
}

struct Hierarchy {
    mount: PathBuf,
    is_v2: bool,
}

impl Cgroups {
    /// Makes one in every hierarchy, named by our pid.
    pub(super) fn create() -> anyhow::Result<Self> {
        let cgroups = Self { name: std::process::id().to_string().into() };
        for hierarchy in hierarchies()? {
            let family = hierarchy.mount.join(FAMILY);
            let directory = family.join(&cgroups.name);
            fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
            for directory in [&family, &directory] {
                hierarchy.pass_down(directory).with_context(|| directory.display().to_string())?;
            }
            if hierarchy.is_v2 {
                fs::create_dir(directory.join("test"))?;
            }
        }
        Ok(cgroups)
    }

    /// Those that were made under this name.
    pub(super) fn named(name: &OsStr) -> Self {
        Self { name: name.to_owned() }
    }

    /// What [`Cgroups::named`] takes.
    pub(super) fn argument(&self) -> &OsStr {
        &self.name
    }

    /// Moves the calling process into them.
    pub(super) fn join(&self) -> anyhow::Result<()> {
        for hierarchy in hierarchies()? {
            let procs = hierarchy.mount.join(FAMILY).join(&self.name).join("cgroup.procs");
            // "0" is the writer itself, whatever its pid is in the kernel's eyes.
            fs::write(&procs, "0").with_context(|| format!("write {}", procs.display()))?;
        }
        Ok(())
    }

    /// Puts them in the place of the hierarchies' own roots, in our own mount namespace only.
    pub(super) fn become_root(&self) -> anyhow::Result<()> {
        for Hierarchy { mount, is_v2 } in hierarchies()? {
            let directory = mount.join(FAMILY).join(&self.name);
            let context = || format!("put {} in the place of {}", directory.display(), mount.display());
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let tree = open_tree(CWD, &directory, flags).with_context(context)?;
            unmount(&mount, UnmountFlags::DETACH).with_context(context)?;
            move_mount(&tree, "", CWD, &mount, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
                .with_context(context)?;
            if is_v2 {
                // A node that hands controllers down may hold no process, unless it is the true root.
                fs::write(mount.join("test/cgroup.procs"), "0").with_context(context)?;
                Hierarchy::enable_controllers(&mount).with_context(context)?;
            }
        }
        Ok(())
    }

    /// Removes them with everything the test left in them. What does not go is said on standard error.
    pub(super) fn remove(&self) {
        let deadline = Instant::now() + EMPTY_WITHIN;
        for hierarchy in hierarchies().unwrap_or_default() {
            let directory = hierarchy.mount.join(FAMILY).join(&self.name);
            while let Err(error) = remove_below(&directory) {
                if Instant::now() > deadline {
                    eprintln!("outlast-e2e-init: remove {}: {error}", directory.display());
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// Removes those of tests that were killed together with their `outside`. One whose pid exists stays.
    pub(super) fn sweep() {
        for hierarchy in hierarchies().unwrap_or_default() {
            let entries = fs::read_dir(hierarchy.mount.join(FAMILY)).into_iter().flatten().flatten();
            for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
                if !Path::new("/proc").join(entry.file_name()).exists() {
                    // Somebody else may be sweeping too, and what still has processes must stay.
                    let _ = remove_below(&entry.path());
                }
            }
        }
    }
}

impl Hierarchy {
    fn pass_down(&self, directory: &Path) -> io::Result<()> {
        let parent = directory.parent().unwrap_or(&self.mount);
        if self.is_v2 {
            return Self::enable_controllers(parent);
        }
        for mask in ["cpuset.cpus", "cpuset.mems"] {
            match fs::read_to_string(parent.join(mask)) {
                Ok(text) => fs::write(directory.join(mask), text)?,
                // Only the cpuset hierarchy has these.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn enable_controllers(directory: &Path) -> io::Result<()> {
        let controllers = fs::read_to_string(directory.join("cgroup.controllers"))?;
        for controller in controllers.split_whitespace() {
            // One that cannot be had below is one less for the test; the product copes or says so.
            let _ = fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        Ok(())
    }
}

fn remove_below(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_below(&entry.path())?;
        }
    }
    fs::remove_dir(directory)
}

/// The hierarchies mounted in our mount namespace, each once.
fn hierarchies() -> io::Result<Vec<Hierarchy>> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in fs::read_to_string("/proc/self/mounts")?.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(mount), Some(fstype)) = (fields.next(), fields.next()) else { continue };
        let mount = PathBuf::from(mount);
        if matches!(fstype, "cgroup" | "cgroup2") && found.iter().all(|other| other.mount != mount) {
            found.push(Hierarchy { mount, is_v2: fstype == "cgroup2" });
        }
    }
    Ok(found)
}
