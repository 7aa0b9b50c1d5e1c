//! What was installed or unpacked, from dpkg's status file or from the names of package files; and the running of
//! mmdebstrap that both kinds of tree share.
//!
//! What a tree is for, and what is thrown out of it, is decided by [`super::rootfs`], [`super::kernel`] and
//! [`crate::vmm_root`].

use super::error::LibraryError;
use super::program::Program;
use super::progress::{Phase, Progress, Report};
use super::shelf::BuildLock;
use super::source::{Mirror, Suite, keyring};
use outlast_wire::image::Package;
use std::fs;
use std::path::{Path, PathBuf};

/// A tree for mmdebstrap to make.
#[derive(Debug)]
pub(crate) struct TreeRequest<'a> {
    pub(crate) suite: Suite,
    pub(crate) mirror: &'a Mirror,
    pub(crate) variant: Variant,
    pub(crate) include: &'a [&'a str],
    /// A directory of this build; the tree is made in it.
    pub(crate) scratch: &'a Path,
    /// Which phase of the build this is.
    pub(crate) phase: Phase,
}

/// How far packages are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// Unpacked, nothing is run: for files that are used from outside.
    Extract,
    /// Debian's essential packages and what was asked for, set up as on a real system.
    Essential,
}

/// A tree that mmdebstrap made.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) root: PathBuf,
    /// Names of the package files it was made of, `NAME_VERSION_ARCH.deb`.
    files: Vec<String>,
    /// What the archive says about the kernel package.
    kernel: String,
}

/// mmdebstrap's own way to a merged /usr without the package that merges it, which would bring all of Perl.
const MERGED_USR: &str = "/usr/share/mmdebstrap/hooks/merged-usr";
/// Written by the hook below, into the tree, and taken out of it again.
const FILES_LIST: &str = ".outlast-files";
const KERNEL_LIST: &str = ".outlast-kernel";

/// Makes a tree; the archive's lists are fetched once, and the newest kernel version is asked for on the way.
pub(crate) fn make_tree(
    request: &TreeRequest<'_>,
    lock: &BuildLock,
    report: Report<'_>,
) -> Result<Tree, LibraryError> {
    let hook = format!(
        "ls \"$1/var/cache/apt/archives\" > \"$1/{FILES_LIST}\"; APT_CONFIG=\"$MMDEBSTRAP_APT_CONFIG\" apt-cache show \
         --no-all-versions {} > \"$1/{KERNEL_LIST}\" || true",
        super::recipe::KERNEL_PACKAGE
    );
    let root = root_of(request);
    let mut counter = Counter::new(request.phase, request.variant);
    mmdebstrap(request, &[format!("--extract-hook={hook}")])?
        .run(lock, &mut |line| counter.line(line, report))?;
    let take = |name: &str| {
        let path = root.join(name);
        let text = fs::read_to_string(&path).map_err(LibraryError::io("read", &path))?;
        fs::remove_file(&path).map_err(LibraryError::io("remove", &path))?;
        Ok(text)
    };
    let files = take(FILES_LIST)?.lines().map(str::to_owned).collect();
    let kernel = take(KERNEL_LIST)?;
    Ok(Tree { root, files, kernel })
}

/// What a tree would be made of now: asks the archive and fetches nothing but its lists.
pub(crate) fn offered(request: &TreeRequest<'_>, lock: &BuildLock) -> Result<Vec<Package>, LibraryError> {
    let lines = mmdebstrap(request, &["--simulate".to_owned()])?.lines(lock)?;
    super::tree::remove(&root_of(request))?;
    let mut packages: Vec<_> = lines.iter().filter_map(|line| simulated(line)).collect();
    packages.sort();
    packages.dedup();
    Ok(packages)
}

fn root_of(request: &TreeRequest<'_>) -> PathBuf {
    request.scratch.join("tree")
}

fn mmdebstrap(request: &TreeRequest<'_>, more: &[String]) -> Result<Program, LibraryError> {
    let program = Program::new("mmdebstrap", request.scratch)
        .args(["--mode=root", "--architectures=amd64", "--format=directory", "--verbose"])
        .arg(format!("--keyring={}", keyring()?.display()))
        .arg(format!("--include={}", request.include.join(",")))
        .args(more);
    let program = match request.variant {
        Variant::Extract => program.arg("--variant=extract"),
        Variant::Essential if Path::new(MERGED_USR).exists() => {
            program.arg("--variant=essential").arg(format!("--hook-dir={MERGED_USR}"))
        }
        Variant::Essential => program.arg("--variant=essential"),
    };
    Ok(program.arg(request.suite.name()).arg(root_of(request)).args(request.mirror.lines(request.suite)))
}

impl Tree {
    /// The packages that were unpacked first, by the names of their files: all of them when nothing is set up.
    pub(crate) fn packages(&self) -> Vec<Package> {
        let mut packages: Vec<_> = self.files.iter().filter_map(|name| package_of_file(name)).collect();
        packages.sort();
        packages
    }

    /// The packages that are set up in it.
    pub(crate) fn installed(&self) -> Result<Vec<Package>, LibraryError> {
        let path = self.root.join("var/lib/dpkg/status");
        let status = fs::read_to_string(&path).map_err(LibraryError::io("read", &path))?;
        Ok(installed(&status))
    }

    /// The version that the archive offers of the kernel package.
    pub(crate) fn kernel_version(&self) -> Option<&str> {
        self.kernel.lines().find_map(|line| line.strip_prefix("Version: "))
    }
}

/// Counts what mmdebstrap and the programs it runs say they did.
#[derive(Debug)]
struct Counter {
    phase: Phase,
    done: u64,
    total: u64,
    steps_per_package: u64,
}

impl Counter {
    fn new(phase: Phase, variant: Variant) -> Self {
        // Fetched; fetched, unpacked and set up.
        let steps_per_package = if variant == Variant::Extract { 1 } else { 3 };
        Self { phase, done: 0, total: 0, steps_per_package }
    }

    fn line(&mut self, line: &str, report: Report<'_>) {
        if let Some(new) = newly_installed(line) {
            self.total += new * self.steps_per_package;
        } else if ["Get:", "Unpacking ", "Setting up "].iter().any(|start| line.starts_with(start)) {
            self.done += 1;
        }
        let total = (self.total > 0).then_some(self.total.max(self.done));
        report(Progress { phase: self.phase, done: self.done, total, detail: line });
    }
}

/// `0 upgraded, 64 newly installed, 0 to remove and 0 not upgraded.`
fn newly_installed(line: &str) -> Option<u64> {
    line.split(", ").nth(1)?.strip_suffix(" newly installed")?.parse().ok()
}

/// `qemu-system-x86_1%3a10.0.2+ds-2_amd64.deb` → its name and version.
fn package_of_file(name: &str) -> Option<Package> {
    let mut parts = name.strip_suffix(".deb")?.split('_');
    let (name, version) = (parts.next()?.to_owned(), parts.next()?.replace("%3a", ":"));
    Some(Package { name, version })
}

/// `Inst gcc-12 (12.2.0-14 Debian:12.15/oldstable [amd64])`, as apt says what it would install.
fn simulated(line: &str) -> Option<Package> {
    let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
    let version = rest.split_once('(')?.1.split_whitespace().next()?;
    Some(Package { name: name.to_owned(), version: version.to_owned() })
}

/// The installed packages of a dpkg status file (deb822 paragraphs), sorted by name.
fn installed(status: &str) -> Vec<Package> {
    let mut packages: Vec<_> = status
        .split("\n\n")
        .filter_map(|paragraph| {
            let field = |key: &str| paragraph.lines().find_map(|line| line.strip_prefix(key));
            (field("Status: ")? == "install ok installed").then_some(())?;
            Some(Package { name: field("Package: ")?.to_owned(), version: field("Version: ")?.to_owned() })
        })
        .collect();
    packages.sort();
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> Package {
        Package { name: name.into(), version: version.into() }
    }

    #[test]
    fn names_of_package_files_hold_name_and_version() {
        let found = package_of_file("qemu-system-x86_1%3a10.0.2+ds-2_amd64.deb");
        assert_eq!(found, Some(package("qemu-system-x86", "1:10.0.2+ds-2")));
        assert_eq!(package_of_file("lock"), None);
    }

    #[test]
    fn what_apt_would_install_is_read_from_its_simulation() {
        let line = "Inst gcc-12 (12.2.0-14+deb12u1 Debian:12.15/oldstable [amd64])";
        assert_eq!(simulated(line), Some(package("gcc-12", "12.2.0-14+deb12u1")));
        // One that would be upgraded says what it is upgraded from.
        let line = "Inst libc6 [2.36-9] (2.36-10 Debian:12/x [amd64]) []";
        assert_eq!(simulated(line), Some(package("libc6", "2.36-10")));
        assert_eq!(simulated("Conf gcc-12 (12.2.0-14 Debian:12 [amd64])"), None);
        assert_eq!(simulated("Inst broken"), None);
    }

    #[test]
    fn only_installed_packages_are_listed() {
        let status = "Package: b\nStatus: install ok installed\nDescription: x\n Package: c\nVersion: 2\n\n\
                      Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n\
                      Package: a\nStatus: install ok installed\nVersion: 1:1\n";
        assert_eq!(installed(status), [package("a", "1:1"), package("b", "2")]);
    }

    #[test]
    fn progress_counts_towards_what_apt_announced() {
        let mut counter = Counter::new(Phase::Packages, Variant::Essential);
        let mut last = None;
        for line in
            ["0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.", "Get:1 http://x", "I: y"]
        {
            counter.line(line, &mut |p| last = Some((p.done, p.total)));
        }
        assert_eq!(last, Some((1, Some(6))));
    }
}
