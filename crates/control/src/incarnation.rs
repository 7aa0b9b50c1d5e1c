//! What incarnations are made of, and those that run no workload: their whole life, from intent to end.
//!
//! An intent holds everything its runner needs, resolved here from the image, the VMM root and the agent that
//! belongs to this version. Workloads' incarnations begin in [`crate::run()`]; how one ends is told by the store.

use crate::accelerator::Accelerator;
use crate::birth::{Birth, bring_to_life};
use crate::error::Error;
use crate::launch::{Lease, Order};
use crate::request::RequestError;
use crate::site::{Site, SiteError, home_directory, private_directory};
use crate::{clock, reconcile, wait};
use outlast_machine::backend::Backend;
use outlast_machine::host;
use outlast_machine::image::{
    self, Bootable, Image, Initramfs, Lease as Lock, LibraryError, MemoryNeeds, PartKind,
};
use outlast_machine::qemu::{self, Qemu};
use outlast_machine::vmm_root::{self, VmmRoot};
use outlast_machine::{lock, process};
use outlast_model::{Hold, IncarnationId, Memory, VcpuCount, timeout};
use outlast_store::{IncarnationRow, NewIncarnation};
use outlast_wire::intent::{Intent, Machine, Purpose, Start, VERSION};
use outlast_wire::template::TemplateIngredients;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

/// Raised when clones of older templates would not fit the machine any more.
const TEMPLATE_GENERATION: u32 = 1;

/// Before the name of an evidence directory that is not locked yet.
pub(crate) const PREPARING: &str = ".preparing-";

/// What a guest's CPU depends on under emulation: the VMM alone.
const EMULATED_CPU: &str = "emulated";

const _: () = assert!(
    timeout::STORE.as_millis() >= outlast_store::BUSY_TIMEOUT.as_millis(),
    "the ladder counts on the store's patience"
);

/// What a machine stands on: an image and its kernel, a VMM and an initramfs, whole and locked against removal.
#[derive(Debug)]
pub(crate) struct Ground {
    bootable: Bootable,
    vmm: VmmRoot,
    initramfs: Initramfs,
}

impl Ground {
    /// Opens and checks everything; hashes nothing that has not changed since it was hashed.
    ///
    /// # Errors
    /// Something is missing or damaged.
    pub(crate) fn open(site: &Site, bootable: Bootable) -> Result<Self, Error> {
        let library = site.places().library();
        image::require_own(library.path())?;
        let vmm = match vmm_root::find(&site.places().libraries()) {
            Err(LibraryError::NoVmmRoot) => return Err(RequestError::NoQemu.into()),
            opened => opened?,
        };
        vmm.check(&library)?;
        bootable.check(&library)?;
        let initramfs = image::initramfs(&library, &bootable, &site.agent()?)?;
        Ok(Self { bootable, vmm, initramfs })
    }

    /// The image.
    pub(crate) fn image(&self) -> &Image {
        self.bootable.image()
    }

    /// What memory the image needs with its kernel.
    pub(crate) fn needs(&self) -> MemoryNeeds {
        self.bootable.needs()
    }

    /// SHA-256 of the lean kernel, when it is that which boots.
    pub(crate) fn lean_kernel(&self) -> Option<String> {
        self.bootable.lean_kernel().map(|kernel| kernel.digest().to_string())
    }

    /// What tells the kernel that boots from the distribution's; `None` for that one.
    pub(crate) fn other_kernel(&self) -> Option<String> {
        self.lean_kernel().or_else(|| {
            let manifest = self.image().manifest();
            (!manifest.takes_lean_kernel()).then(|| manifest.digest().to_string())
        })
    }

    /// The VMM root's digest.
    pub(crate) fn vmm_digest(&self) -> String {
        self.vmm.digest().to_string()
    }

    /// Keep image, kernel and VMM from being removed, for as long as somebody holds them open.
    pub(crate) fn locks(&self) -> Vec<Lock> {
        let mut locks = self.bootable.leases();
        locks.push(self.vmm.lease());
        locks
    }

    /// A machine with the image's root file system.
    pub(crate) fn machine(&self, accelerator: Accelerator, vcpus: VcpuCount, memory: Memory) -> Machine {
        let name = accelerator.name();
        Machine {
            backend: Qemu::NAME.to_owned(),
            accelerator: name.to_owned(),
            cpu_model: qemu::cpu_model(name).to_owned(),
            vcpus: vcpus.get(),
            memory: memory.bytes(),
            kernel: self.bootable.kernel(),
            initramfs: self.initramfs.path.clone(),
            rootfs: Some(self.image().path(PartKind::RootFs)),
            command_line: qemu::command_line(name),
            vmm_root: self.vmm.path().to_owned(),
            vmm_binary: self.vmm.qemu().to_owned(),
            vmm_version: self.vmm.version().to_owned(),
            image: Some(self.image().name().to_owned()),
            image_digest: Some(self.image().manifest().digest().to_string()),
            scratch: None,
        }
    }

    /// A machine that only boots until its agent answers, with KVM.
    pub(crate) fn canary_machine(&self, vcpus: VcpuCount, memory: Memory) -> Machine {
        Machine {
            rootfs: None,
            image: None,
            image_digest: None,
            scratch: None,
            ..self.machine(Accelerator::Kvm, vcpus, memory)
        }
    }

    /// What must be equal for a clone of a template of `machine` to be allowed.
    ///
    /// # Errors
    /// The host's CPU cannot be told.
    pub(crate) fn ingredients(&self, machine: &Machine) -> Result<TemplateIngredients, host::HostError> {
        let manifest = self.image().manifest();
        let host_cpu = if machine.accelerator == Accelerator::Kvm.name() {
            host::host_cpu_fingerprint()?
        } else {
            EMULATED_CPU.to_owned()
        };
        Ok(TemplateIngredients {
            generation: TEMPLATE_GENERATION,
            image: self.image().name().to_owned(),
            image_digest: manifest.digest().to_string(),
            initramfs_digest: self.initramfs.digest.to_string(),
            command_line: machine.command_line.clone(),
            backend: machine.backend.clone(),
            vmm_digest: self.vmm_digest(),
            topology: Qemu::topology(machine),
            accelerator: machine.accelerator.clone(),
            cpu_model: machine.cpu_model.clone(),
            host_cpu,
            vcpus: machine.vcpus,
            memory: machine.memory,
            warm_up: manifest.runtime().map(|runtime| runtime.warm_up.clone()).unwrap_or_default(),
            lean_kernel: self.lean_kernel(),
        })
    }
}

/// An incarnation as it is to be.
#[derive(Debug)]
pub(crate) struct Made {
    /// What it is for.
    pub(crate) purpose: Purpose,
    /// The machine.
    pub(crate) machine: Machine,
    /// How it comes to life.
    pub(crate) start: Start,
    /// From claim to published.
    pub(crate) boot_timeout: Duration,
    /// Why it boots cold although a template was wanted.
    pub(crate) fell_back: Option<String>,
    /// What a VM's machine is made of.
    pub(crate) ingredients: Option<TemplateIngredients>,
}

impl Made {
    /// The intent, as it is written down.
    pub(crate) fn intent(self, hold: Option<Hold>, requested_unix_ns: u64) -> Intent {
        Intent {
            version: VERSION,
            purpose: self.purpose,
            machine: self.machine,
            start: self.start,
            boot_timeout_ms: u64::try_from(self.boot_timeout.as_millis()).unwrap_or(u64::MAX),
            hold: hold.map(|hold| hold.to_string()),
            fell_back: self.fell_back,
            ingredients: self.ingredients.map(Box::new),
            requested_unix_ns,
            requested_boot_id: process::boot_id().ok(),
            requested_monotonic_ns: u64::try_from(clock::since_boot().as_nanos()).ok(),
        }
    }
}

/// A new incarnation's id.
///
/// # Errors
/// [`SiteError::Random`].
pub(crate) fn new_id() -> Result<IncarnationId, SiteError> {
    clock::new_incarnation_id().map_err(SiteError::Random)
}

/// Keeps an evidence directory, for which there is no row yet, from being taken for something left behind.
#[derive(Debug)]
pub(crate) struct Preparation {
    _lock: File,
}

/// Makes an incarnation's evidence directory, and the directories above it and of its runner.
///
/// It gets its name only when it is locked: whoever finds it unlocked and without a row knows that the process
/// that made it is dead.
///
/// # Errors
/// [`SiteError`].
pub(crate) fn make_evidence(site: &Site, id: IncarnationId) -> Result<Preparation, SiteError> {
    let places = site.places();
    home_directory(places)?;
    private_directory(places.run())?;
    private_directory(&places.incarnations())?;
    let path = places.evidence(id).path().to_owned();
    let aside = places.incarnations().join(format!("{PREPARING}{id}"));
    // Not recursive: it must be new.
    let made = DirBuilder::new().mode(0o700).create(&aside).and_then(|()| {
        let directory = File::open(&aside)?;
        lock_alone(&directory)?;
        std::fs::rename(&aside, &path)?;
        Ok(Preparation { _lock: directory })
    });
    made.map_err(|source| SiteError::MakeDirectory { path, source })
}

/// Locks a directory for its only maker, without waiting.
pub(crate) fn lock_alone(directory: &File) -> io::Result<()> {
    let alone = lock::try_lock(directory, lock::Hold::Exclusive)?;
    alone.then_some(()).ok_or_else(|| io::ErrorKind::ResourceBusy.into())
}

/// Removes the evidence of what was never written down.
pub(crate) fn forget(site: &Site, incarnation: IncarnationId) {
    let path = site.places().evidence(incarnation).path().to_owned();
    if let Err(error) = std::fs::remove_dir_all(&path) {
        tracing::warn!(%error, path = %path.display(), "what was made for a refused request stays");
    }
}

/// The same after a commit that failed: below SQLite it may have taken effect, and only what is surely not there is
/// forgotten.
pub(crate) fn forget_unless_written(site: &Site, incarnation: IncarnationId) {
    if !matches!(site.store().map(|store| store.incarnation(incarnation)), Ok(Ok(Some(_)) | Err(_))) {
        forget(site, incarnation);
    }
}

/// Takes over an evidence directory from a process that is dead, or has written its row. `None` when that
/// process is at work: then there is nothing to be said of the directory. While the lock is held nobody can
/// write its row: what the store says is true until it is given back.
pub(crate) fn take_over(path: &Path) -> Option<Preparation> {
    // What cannot be looked at is better left lying.
    let directory = File::open(path).ok()?;
    lock_alone(&directory).ok()?;
    Some(Preparation { _lock: directory })
}

/// Makes an incarnation that runs no workload, and waits until it is over: at most `within` and the time its
/// runner needs to put it to an end. It ends with this process, too.
///
/// # Errors
/// It could not be started, or it cannot be told what became of it.
pub(crate) fn live_through(
    site: &Site,
    id: IncarnationId,
    made: Made,
    locks: &[Lock],
    within: Duration,
) -> Result<IncarnationRow, Error> {
    let preparation = make_evidence(site, id)?;
    let now = clock::unix_ns();
    let store = site.store()?;
    store.intend(&NewIncarnation { id, intent: made.intent(None, now), created_unix_ns: now })?;
    drop(preparation);
    let order = Order { store: store.id(), incarnation: id, leased: true, locks, hold: None };
    match bring_to_life(site, &order)? {
        Birth::Alive(lease) => {
            if let Some(lease) = lease {
                await_runner(&lease, within)?;
            }
            reconcile::settle(site, id)
        }
        Birth::Stillborn(failure) => Err(failure.into()),
    }
}

/// Waits for the runner's end; after `within` it is told to end, and given the time its ladder takes.
fn await_runner(lease: &Lease, within: Duration) -> Result<(), Error> {
    let failed = crate::follow::FollowError::Wait;
    if wait::readable(&[lease.as_fd()], within).map_err(failed)?.is_none() {
        lease.give_up();
        wait::readable(&[lease.as_fd()], timeout::LADDER).map_err(failed)?;
    }
    Ok(())
}
