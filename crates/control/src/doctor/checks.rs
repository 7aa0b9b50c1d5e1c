//! The list of what is looked at. Each answers by itself: one that fails does not keep the others from being told.

use super::Mend;
use crate::accelerator::{self, KvmVerdict};
use crate::error::{Error, chain};
use crate::incarnation::Ground;
use crate::notice::Notify;
use crate::site::{Site, closed_home};
use outlast_machine::cgroup::{CgroupError, Hierarchy};
use outlast_machine::host::{self, KvmDevice};
use outlast_machine::image::lean::{self, LeanKernel};
use outlast_machine::image::{self, Bootable, LibraryError, Recipe};
use outlast_machine::{jail, namespace, vmm_root};
use outlast_model::limit::DISK_RESERVE;
use outlast_model::timeout;
use outlast_wire::view::CheckView;
use rustix::fs::{Access, access};
use std::path::{Path, PathBuf};

const OK: &str = "ok";
const WARNING: &str = "warning";
pub(super) const MISSING: &str = "missing";
const UNKNOWN: &str = "unknown";

/// Without these no workload runs.
pub(super) const VITAL: &[&str] = &["user-namespaces", "programs", "qemu"];

/// Below this much free disk a warning is due: one image, one template and some evidence.
const ROOMY_DISK: u64 = 2 << 30;
/// Below this much available memory a warning is due: one machine of the default size with its VMM.
const ROOMY_MEMORY: u64 = 512 << 20;

/// Programs that build images, and the packages that have them.
const TOOLS: &[(&str, &str, &str)] =
    &[("mmdebstrap", "mmdebstrap", "mmdebstrap"), ("squashfs-tools", "mksquashfs", "squashfs-tools")];

pub(super) fn checks(site: &Site, mend: Mend, notify: Notify<'_>) -> Vec<CheckView> {
    let mut checks = vec![user(site), programs(site), kvm(site, mend, notify), qemu(site)];
    for backend in ["firecracker", "cloud-hypervisor"] {
        // Nothing that could be done here would mend it, so it is not called missing.
        checks.push(check(backend, WARNING, "not available yet: not built into this version", None));
    }
    checks.extend([tap(), cgroup(), user_namespaces(site), disk(site), memory()]);
    checks.extend(TOOLS.iter().map(|(name, program, package)| tool(name, program, package)));
    checks.extend(vmm_user());
    checks.extend(subordinate_ids());
    checks.extend(images(site));
    checks
}

fn check(name: &str, status: &str, found: impl Into<String>, fix: Option<String>) -> CheckView {
    CheckView { name: name.to_owned(), status: status.to_owned(), found: found.into(), fix }
}

fn user(site: &Site) -> CheckView {
    let home = site.places().home().display();
    match host::ordinary_user() {
        None => match closed_home(site.places()) {
            None => check("user", OK, format!("this is root, at home in {home}"), None),
            Some(why) => {
                let fix = Some(format!("move out of {home} what is not outlast's"));
                check("user", WARNING, format!("this is root, at home in {home}; {why}"), fix)
            }
        },
        Some(uid) => check("user", OK, format!("this is uid {uid}, at home in {home}"), None),
    }
}

fn programs(site: &Site) -> CheckView {
    match site.runner().and_then(|runner| Ok((runner, site.agent()?))) {
        Ok((runner, agent)) => {
            check("programs", OK, format!("{} and {}", runner.display(), agent.display()), None)
        }
        Err(error) => {
            let fix = "put them beside outlast, or set OUTLAST_LIBEXEC to their directory".to_owned();
            check("programs", MISSING, chain(&error), Some(fix))
        }
    }
}

fn kvm(site: &Site, mend: Mend, notify: Notify<'_>) -> CheckView {
    let emulation = "QEMU emulates instead";
    match host::kvm_device() {
        KvmDevice::Absent => {
            return check("kvm", WARNING, format!("there is no /dev/kvm; {emulation}"), None);
        }
        KvmDevice::NoPermission => {
            let fix = Some("sudo usermod -aG kvm $USER".to_owned());
            return check("kvm", WARNING, format!("/dev/kvm may not be opened; {emulation}"), fix);
        }
        KvmDevice::Present => {}
    }
    let Some(ground) = any_ground(site) else {
        let found =
            "/dev/kvm is there; without an image and QEMU it cannot be tried whether a guest boots on it";
        return check("kvm", UNKNOWN, found, Some("outlast image build base".to_owned()));
    };
    if mend == Mend::Yes {
        accelerator::pardon(site, &ground);
    }
    let verdict = accelerator::verdict(site, &ground, notify)
        .unwrap_or_else(|error| KvmVerdict::Unknown(chain(&error)));
    match verdict {
        KvmVerdict::Usable => check("kvm", OK, "a canary booted on it", None),
        KvmVerdict::Absent(why) => check("kvm", WARNING, format!("{why}; {emulation}"), None),
        KvmVerdict::Unusable(why) | KvmVerdict::TooSlow(why) => {
            let again = Some("outlast doctor --fix tries it again".to_owned());
            check("kvm", WARNING, format!("{why}; {emulation}"), again)
        }
        KvmVerdict::Unknown(why) => check("kvm", UNKNOWN, format!("{why}; {emulation}"), None),
    }
}

/// Something to boot a canary from: the first image that is whole.
fn any_ground(site: &Site) -> Option<Ground> {
    let libraries = site.places().libraries();
    let names = image::list_all(&libraries).ok()?.into_iter().filter(|listed| listed.manifest.is_ok());
    let mut grounds = names.filter_map(|listed| {
        let image = image::find(&libraries, &listed.name).ok()?;
        Ground::open(site, Bootable::choose(&libraries, image).ok()?).ok()
    });
    grounds.next()
}

fn qemu(site: &Site) -> CheckView {
    let build = || Some("outlast image build vmm".to_owned());
    let library = site.places().library();
    match vmm_root::find(&site.places().libraries()).and_then(|root| root.check(&library).map(|()| root)) {
        Ok(root) => check("qemu", OK, format!("QEMU {} in {}", root.version(), root.path().display()), None),
        Err(LibraryError::NoVmmRoot) => {
            check("qemu", MISSING, "QEMU (package qemu-system-x86) is not in the library", build())
        }
        Err(error) => check("qemu", MISSING, chain(&error), build()),
    }
}

fn tap() -> CheckView {
    match access(Path::new("/dev/net/tun"), Access::READ_OK | Access::WRITE_OK) {
        Ok(()) => check("tap", OK, "/dev/net/tun can be opened", None),
        Err(error) => {
            check("tap", WARNING, format!("/dev/net/tun: {error}"), Some("modprobe tun".to_owned()))
        }
    }
}

/// Systemd is asked, and not only looked at: a manager that does not answer gives no scope.
fn cgroup() -> CheckView {
    let hierarchy = Hierarchy::detect_or_do_without();
    let scopes = hierarchy.as_ref().ok().and_then(Hierarchy::scopes);
    let Some(refusal) = scopes.and_then(|scopes| scopes.attempt(timeout::SCOPE).err()) else {
        return groups(hierarchy);
    };
    let groups = groups(hierarchy.map(Hierarchy::without_scopes));
    let again = Some("systemctl list-jobs; systemctl --user list-jobs".to_owned());
    check("cgroup", WARNING, format!("{}; systemd gives no scope: {}", groups.found, chain(&refusal)), again)
}

fn groups(hierarchy: Result<Hierarchy, CgroupError>) -> CheckView {
    match hierarchy {
        Ok(hierarchy) if hierarchy.scopes().is_some() => scoped(&hierarchy),
        Ok(hierarchy) => match hierarchy.stand_in() {
            None => check("cgroup", OK, hierarchy.describe(), None),
            Some(words) => check("cgroup", WARNING, format!("limits: {words}"), delegation()),
        },
        Err(error) => check("cgroup", WARNING, chain(&error), None),
    }
}

/// A user's systemd ends with the last login, and takes along what is in its scopes.
fn scoped(hierarchy: &Hierarchy) -> CheckView {
    let found = hierarchy.describe();
    if host::ordinary_user().is_none_or(host::lingers) {
        return check("cgroup", OK, found, None);
    }
    let ends = "your last logout ends your runs and VMs";
    check("cgroup", WARNING, format!("{found}; {ends}"), delegation())
}

/// What has control groups delegated to a user: systemd's manager of that user, on cgroup v2. It runs while the user
/// is logged in, or lingers.
fn delegation() -> Option<String> {
    let has_systemd = Path::new("/run/systemd/system").is_dir();
    let is_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    (has_systemd && is_v2).then(|| "sudo loginctl enable-linger $USER".to_owned())
}

fn user_namespaces(site: &Site) -> CheckView {
    let name = "user-namespaces";
    match (host::ordinary_user(), site.require_namespaces(), namespace::ban()) {
        (Some(_), Ok(()), _) => check(name, OK, "a runner's namespaces can be made", None),
        (Some(_), Err(error), _) => {
            let fix = Error::from(error);
            check(name, MISSING, chain(&fix), fix.hint())
        }
        (None, _, None) => check(name, OK, "nothing forbids them; root does not need them", None),
        (None, _, Some(ban)) => {
            let fix = Some(ban.fix().to_owned());
            check(name, WARNING, format!("{ban}; root does not need them, ordinary users do"), fix)
        }
    }
}

/// Only ordinary users need them, and only to build images of their own.
fn subordinate_ids() -> Option<CheckView> {
    host::ordinary_user()?;
    let name = "subordinate-ids";
    Some(match image::subordinate_ids() {
        Ok(()) => check(name, OK, "images can be built", None),
        Err(missing) => {
            check(name, WARNING, format!("{missing}: images cannot be built"), Some(missing.fix()))
        }
    })
}

/// Only in a container is there anything to say.
fn vmm_user() -> Option<CheckView> {
    let fix = "map more ids in this user namespace, or run outlast outside of it".to_owned();
    Some(check("vmm-user", WARNING, jail::keeps_root()?, Some(fix)))
}

fn disk(site: &Site) -> CheckView {
    let home = site.places().home();
    let there = home.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    match host::disk_free(there) {
        Ok(free) => {
            let found = format!("{} MiB free on the disk of {}", free >> 20, there.display());
            match free {
                _ if free < DISK_RESERVE => {
                    check("disk", MISSING, found, Some("outlast template ls".to_owned()))
                }
                _ if free < ROOMY_DISK => {
                    check("disk", WARNING, found, Some("outlast template ls".to_owned()))
                }
                _ => check("disk", OK, found, None),
            }
        }
        Err(error) => check("disk", UNKNOWN, chain(&error), None),
    }
}

fn memory() -> CheckView {
    match (host::memory_available(), host::memory_total()) {
        (Ok(available), Ok(total)) => {
            let status = if available < ROOMY_MEMORY { WARNING } else { OK };
            check("memory", status, format!("{} of {} MiB available", available >> 20, total >> 20), None)
        }
        (Err(error), _) | (_, Err(error)) => check("memory", UNKNOWN, chain(&error), None),
    }
}

fn tool(name: &str, program: &str, package: &str) -> CheckView {
    if let Some(path) = find_program(program) {
        return check(name, OK, path.display().to_string(), None);
    }
    let fix = Some(format!("apt-get install {package}"));
    check(name, WARNING, format!("{program} is not installed; images cannot be built"), fix)
}

/// Where programs that builds use are looked for, whatever the caller's PATH is.
fn find_program(program: &str) -> Option<PathBuf> {
    let directories = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let paths = directories.iter().map(|directory| Path::new(directory).join(program));
    paths.into_iter().find(|path| access(path, Access::EXEC_OK).is_ok())
}

fn lean_kernel(site: &Site) -> Result<Option<LeanKernel>, LibraryError> {
    let Some(kernel) = lean::find(&site.places().libraries())? else { return Ok(None) };
    kernel.check(&site.places().library())?;
    Ok(Some(kernel))
}

/// Which kernel guests boot.
fn kernel(found: &Result<Option<LeanKernel>, LibraryError>) -> CheckView {
    let build = Some(format!("outlast image build {}", lean::NAME));
    match found {
        Ok(Some(kernel)) => check("kernel", OK, format!("{}, the lean one", kernel.release()), None),
        Ok(None) => {
            let found =
                "the lean kernel is not built; guests boot the distribution's, slower and with more memory";
            check("kernel", WARNING, found, build)
        }
        Err(error) => check("kernel", WARNING, chain(error), build),
    }
}

fn images(site: &Site) -> Vec<CheckView> {
    let listed = match image::list_all(&site.places().libraries()) {
        Ok(listed) => listed,
        Err(error) => return vec![check("images", UNKNOWN, chain(&error), None)],
    };
    let lean = lean_kernel(site);
    let mut checks = vec![kernel(&lean)];
    for name in Recipe::names() {
        if !listed.iter().any(|image| image.name == name) {
            let fix = Some(format!("outlast image build {name}"));
            checks.push(check(&format!("image {name}"), WARNING, "not built", fix));
        }
    }
    for image in listed {
        let name = format!("image {}", image.name);
        checks.push(match image.manifest {
            Ok(manifest) => {
                let lean =
                    lean.as_ref().ok().and_then(Option::as_ref).filter(|_| manifest.takes_lean_kernel());
                let release = lean.map_or(manifest.kernel_release(), LeanKernel::release);
                check(&name, OK, format!("{}, kernel {release}", manifest.digest().short()), None)
            }
            Err(error) => {
                check(&name, WARNING, chain(&error), Some(format!("outlast image build {}", image.name)))
            }
        });
    }
    checks
}
