//! The lab's operating system: Debian's packages made into a kernel, its modules and a root file system, once.
//!
//! ```text
//!   target/guest-lab/KEY/   kernel, modules/NN-NAME.ko in loading order, root.squashfs
//! ```
//!
//! The key is the recipe: another list of packages is another entry. Whatever is half made has another name.

use super::payload::squash;
use anyhow::{Context as _, bail, ensure};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

const SUITE: &str = "bookworm";
const MIRROR: &str = "http://deb.debian.org/debian";
/// Names another mirror, as for images; an address behind a comma is for security updates, which the lab leaves out.
const MIRROR_VARIABLE: &str = "OUTLAST_MIRROR";
/// The stock kernel, which has KVM as modules, what the inventory asks, and systemd for those machines that begin
/// with it: with a bus and logins, without which no user has a manager.
const PACKAGES: &str = "nftables,linux-image-cloud-amd64,systemd-sysv,dbus,libpam-systemd";
/// What nobody reads in there.
const LEFT_OUT: [&str; 4] =
    ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"];
/// What the guest loads, with all that these need: its disks and root file system, what the inventory asks nft for,
/// and KVM for the CPU that QEMU emulates. ext4 and the serial ports are built in.
const MODULES: [&str; 6] = ["virtio_pci", "virtio_blk", "squashfs", "overlay", "nf_tables", "kvm-amd"];

/// The lab's operating system, ready to be booted.
#[derive(Debug, Clone)]
pub(super) struct System {
    directory: PathBuf,
}

impl System {
    /// Finds it, or makes it: a minute, from Debian's archive. Needs a network then, so not in a test's namespaces.
    ///
    /// # Errors
    /// A program is missing or failed, with its words.
    pub(super) fn obtain() -> anyhow::Result<Self> {
        let shelf = shelf()?;
        fs::create_dir_all(&shelf).with_context(|| format!("make {}", shelf.display()))?;
        let system = Self { directory: shelf.join(key()) };
        let lock = File::create(shelf.join("lock")).context("make the lock")?;
        flock(&lock, FlockOperation::LockExclusive).context("wait for another who makes it")?;
        if !system.directory.is_dir() {
            make(&shelf, &system.directory)?;
        }
        Ok(system)
    }

    pub(super) fn kernel(&self) -> PathBuf {
        self.directory.join("kernel")
    }

    pub(super) fn root(&self) -> PathBuf {
        self.directory.join("root.squashfs")
    }

    /// Names and contents, in loading order.
    pub(super) fn modules(&self) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
        let mut modules = Vec::new();
        for entry in fs::read_dir(self.directory.join("modules")).context("list the lab's modules")? {
            let entry = entry?;
            modules.push((entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?));
        }
        modules.sort();
        Ok(modules)
    }
}

/// `target/guest-lab`, beside the tests' own binaries: TARGET/TRIPLE/debug/deps/TEST.
fn shelf() -> anyhow::Result<PathBuf> {
    let this = std::env::current_exe().context("find the test's own program")?;
    let target = this.ancestors().nth(4).context("cargo's layout of the target directory")?;
    Ok(target.join("guest-lab"))
}

fn key() -> String {
    let recipe = [SUITE, PACKAGES].into_iter().chain(LEFT_OUT).chain(MODULES).collect::<Vec<_>>();
    let digest = format!("{:x}", Sha256::digest(format!("2 {}", recipe.join(" "))));
    digest[..16].to_owned()
}

fn make(shelf: &Path, directory: &Path) -> anyhow::Result<()> {
    let scratch = tempfile::Builder::new().prefix("making-").tempdir_in(shelf).context("make a directory")?;
    let tree = scratch.path().join("tree");
    bootstrap(&tree)?;
    let made = scratch.path().join("made");
    fs::create_dir_all(made.join("modules"))?;
    let release = release(&tree)?;
    fs::copy(tree.join("boot").join(format!("vmlinuz-{release}")), made.join("kernel"))
        .context("copy the kernel")?;
    take_modules(&tree.join("usr/lib/modules").join(&release), &made.join("modules"))?;
    fs::remove_dir_all(tree.join("usr/lib/modules")).context("leave out the modules")?;
    fs::remove_dir_all(tree.join("boot")).context("leave out the kernel")?;
    squash(&tree, &made.join("root.squashfs"))?;
    fs::rename(&made, directory).context("give it its name")
}

fn bootstrap(tree: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("mmdebstrap");
    command.args(["--mode=root", "--variant=essential", "--quiet"]).arg(format!("--include={PACKAGES}"));
    // Without it Debian's own way to a merged /usr brings all of Perl.
    let hooks = Path::new("/usr/share/mmdebstrap/hooks/merged-usr");
    if hooks.exists() {
        command.arg(format!("--hook-dir={}", hooks.display()));
    }
    for path in LEFT_OUT {
        command.arg(format!("--dpkgopt=path-exclude={path}"));
    }
    let mirror = std::env::var(MIRROR_VARIABLE).unwrap_or_else(|_| MIRROR.to_owned());
    command.arg(SUITE).arg(tree).arg(mirror.split(',').next().unwrap_or(MIRROR).trim());
    finish(command)
}

/// Runs a program to its end; its words are the error.
pub(super) fn finish(mut command: Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("start {program}: is it installed?"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} ended with {}: {said}", output.status);
    Ok(())
}

fn release(tree: &Path) -> anyhow::Result<String> {
    let entries = fs::read_dir(tree.join("usr/lib/modules")).context("list the kernels")?;
    let mut releases: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    match (releases.pop(), releases.is_empty()) {
        (Some(release), true) => Ok(release),
        _ => bail!("there is not exactly one kernel"),
    }
}

fn take_modules(from: &Path, to: &Path) -> anyhow::Result<()> {
    let list = fs::read_to_string(from.join("modules.dep")).context("read modules.dep")?;
    for (number, file) in loading_order(&list, &MODULES)?.into_iter().enumerate() {
        let name = Path::new(file).file_name().context("a module has a name")?.to_string_lossy();
        fs::copy(from.join(file), to.join(format!("{number:02}-{name}")))?;
    }
    Ok(())
}

/// The files of these modules and of all they need, by modules.dep(5): `FILE: NEEDED…`, where the last one needed
/// is to be loaded first.
fn loading_order<'list>(list: &'list str, names: &[&str]) -> anyhow::Result<Vec<&'list str>> {
    let mut order: Vec<&str> = Vec::new();
    for name in names {
        let end = format!("/{name}.ko");
        let mut lines = list.lines().filter_map(|line| line.split_once(':'));
        let found = lines.find(|(file, _)| file.ends_with(&end));
        let (file, needed) = found.with_context(|| format!("the kernel has no module {name}"))?;
        for file in needed.split_whitespace().rev().chain([file]) {
            if !order.contains(&file) {
                order.push(file);
            }
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_is_loaded_before_it_and_once() {
        let list = "k/virt/irqbypass.ko:\nk/kvm.ko: k/virt/irqbypass.ko\nk/kvm-amd.ko: k/kvm.ko k/virt/irqbypass.ko\n";
        let order = loading_order(list, &["kvm", "kvm-amd"]).unwrap();
        assert_eq!(order, ["k/virt/irqbypass.ko", "k/kvm.ko", "k/kvm-amd.ko"]);
        assert!(loading_order(list, &["vhost"]).is_err());
    }
}
