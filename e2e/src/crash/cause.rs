//! Real causes of errors and timeouts, made while a runner or its launcher stands still.

use super::ends::incarnation;
use crate::ballast::Ballast;
use crate::cgroups;
use crate::deadline::until;
use crate::freezer::Frozen;
use crate::lab::Lab;
use crate::setup::Setup;
use outlast_wire::paths::Evidence;
use rustix::mount::{MountFlags, mount_remount};
use rustix::process::Signal;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

/// What makes the next thing fail, or never end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The disk of a VM is gone.
    VmDiskGone,
    /// The disk of a VM holds no file system any more.
    VmDiskDamaged,
    /// The control group file systems are read-only.
    CgroupsReadOnly,
    /// No process can be started any more.
    NoMoreProcesses,
    /// The control group of all runners is gone.
    RunnersGroupGone,
    /// The home's disk is full.
    DiskFull,
    /// The home's disk has less than its reserve.
    DiskNearlyFull,
    /// The directory of run directories is gone.
    RunGone,
    /// The incarnation's run directory is gone.
    RunDirectoryGone,
    /// The initramfs is gone.
    InitramfsGone,
    /// A file of the program's cannot be read.
    InputUnreadable,
    /// The program's standard input is gone.
    StdinGone,
    /// What is handed back has no place to go to.
    OutputsInTheWay,
    /// The incarnation's control group has one in it.
    CgroupInItsCgroup,
    /// The incarnation's control group has a living process in it that is none of its own.
    StrangerInItsCgroup,
    /// The launcher is stopped.
    LauncherStopped,
    /// It goes on standing still, until somebody minds.
    HeldTooLong,
    /// It stands still until the boot's deadline has passed.
    BootDeadline,
    /// The same of a restore, which may read much.
    RestoreDeadline,
    /// A file that the VMM must read cannot be opened: nobody writes at the other end of a pipe.
    FileNeverOpens,
    /// The VMM is stopped.
    VmmStopped,
    /// The VMM is frozen, and does not die of SIGKILL.
    VmmFrozen,
    /// Somebody else holds the store's lock for longer than a writer waits.
    StoreLocked,
    /// It stands still until the program's time is over.
    ProgramDeadline,
}

/// Where a cause is made.
pub(super) struct Scene<'a> {
    pub(super) lab: &'a Lab,
    pub(super) evidence: &'a Evidence,
    pub(super) clone: bool,
}

/// Undoes a cause; or, where the product is to do that itself, waits until it has.
pub(super) type Heal<'a> = Box<dyn FnOnce() + 'a>;

fn nothing<'a>() -> Heal<'a> {
    Box::new(|| {})
}

impl Cause {
    /// The lab it needs.
    pub(super) fn setup(self) -> Setup {
        match self {
            Self::DiskFull | Self::DiskNearlyFull => Setup::new().home_of_size("256m"),
            Self::InitramfsGone | Self::FileNeverOpens => {
                Setup::new().library_with_only(&["images", "kernels", "vmm", "canary"])
            }
            _ => Setup::new(),
        }
    }

    /// Whether the one who stands still is let go once the cause is there.
    pub(super) fn releases(self) -> bool {
        !matches!(self, Self::LauncherStopped | Self::HeldTooLong)
    }

    /// Whether the client may fail to say what became of the run: the store is out of order, or the thing is dying.
    pub(super) fn silences_the_client(self) -> bool {
        matches!(self, Self::DiskFull | Self::StoreLocked)
    }

    /// Whether something is left that cannot be removed as long as the cause is there.
    pub(super) fn leaves_something(self) -> bool {
        self == Self::CgroupInItsCgroup
    }

    /// Whether the program must go on until it is ended.
    pub(super) fn needs_a_long_program(self) -> bool {
        matches!(self, Self::ProgramDeadline | Self::RunnersGroupGone)
    }

    /// Makes it so.
    #[track_caller]
    pub(super) fn make<'a>(self, scene: &Scene<'a>) -> Heal<'a> {
        let Scene { lab, evidence, clone } = *scene;
        let run_directory = lab.places().run().join(incarnation(evidence));
        match self {
            Self::VmDiskGone => away(&vm_disk(lab, evidence)),
            Self::VmDiskDamaged => damage(vm_disk(lab, evidence)),
            Self::CgroupsReadOnly => {
                remount_cgroups(MountFlags::RDONLY);
                Box::new(|| remount_cgroups(MountFlags::empty()))
            }
            Self::NoMoreProcesses => no_more_processes(),
            Self::RunnersGroupGone => {
                remove_runners_group();
                nothing()
            }
            Self::DiskFull => fill(lab, 0),
            Self::DiskNearlyFull => fill(lab, 8 * 1024 * 1024),
            Self::RunGone => away(lab.places().run()),
            Self::InitramfsGone => away(&lab.places().library().boot()),
            Self::RunDirectoryGone => for_good(fs::remove_dir_all(run_directory)),
            Self::InputUnreadable => for_good(symlink("/nowhere", evidence.input_files().join("gone"))),
            Self::StdinGone => for_good(fs::remove_file(evidence.input_stdin())),
            Self::OutputsInTheWay => for_good(fs::create_dir(evidence.partial_outputs())),
            Self::CgroupInItsCgroup => cgroup_in_cgroup(evidence),
            Self::StrangerInItsCgroup => stranger_in_cgroup(evidence),
            Self::LauncherStopped => {
                lab.launcher().signal(Signal::STOP);
                nothing()
            }
            Self::HeldTooLong => nothing(),
            Self::BootDeadline => pass(Duration::from_secs(61)),
            Self::RestoreDeadline => pass(Duration::from_secs(90)),
            Self::ProgramDeadline => pass(Duration::from_millis(2500)),
            Self::FileNeverOpens => never_opens(lab, clone),
            Self::VmmStopped => {
                lab.vmm(&lab.runner()).signal(Signal::STOP);
                nothing()
            }
            Self::VmmFrozen => {
                let frozen = Frozen::freeze(&lab.vmm(&lab.runner()));
                Box::new(|| frozen.thaw())
            }
            Self::StoreLocked => lock_store(lab),
        }
    }
}

/// Lets time pass: here its passing is what is tried.
fn pass<'a>(time: Duration) -> Heal<'a> {
    let since = Instant::now();
    until("time passes", time * 2, || (since.elapsed() >= time).then_some(()));
    nothing()
}

/// What was done to the files goes with the incarnation.
#[track_caller]
fn for_good<'a>(done: std::io::Result<()>) -> Heal<'a> {
    done.expect("the files of an incarnation can be changed by its owner");
    nothing()
}

/// In every hierarchy that has one: at least one does, or nothing would fail.
#[track_caller]
fn remove_runners_group() {
    let groups: Vec<_> = cgroups::mounts().iter().map(|mount| mount.join("outlast/runners")).collect();
    let there: Vec<_> = groups.iter().filter(|group| group.is_dir()).collect();
    assert!(!there.is_empty(), "none of these is there: {groups:?}");
    for group in there {
        fs::remove_dir(group).expect("a control group without members can be removed");
    }
}

fn remount_cgroups(flags: MountFlags) {
    for mount in cgroups::mounts() {
        mount_remount(&mount, MountFlags::BIND | flags, c"").expect("a mount of our own can be changed");
    }
}

fn no_more_processes<'a>() -> Heal<'a> {
    let group = cgroups::own_pids();
    let current = fs::read_to_string(group.join("pids.current")).expect("processes are counted");
    fs::write(group.join("pids.max"), current.trim()).expect("processes can be limited");
    Box::new(move || fs::write(group.join("pids.max"), "max").expect("processes can be allowed"))
}

fn fill(lab: &Lab, leave: u64) -> Heal<'static> {
    let ballast = Ballast::fill(lab.home(), leave);
    Box::new(move || ballast.throw_off())
}

fn away<'a>(path: &Path) -> Heal<'a> {
    let (path, aside) = (path.to_owned(), path.with_extension("away"));
    fs::rename(&path, &aside).expect("a directory can be moved");
    // If one was made in its place meanwhile that is replaced, unless there is something in it.
    Box::new(move || fs::rename(&aside, &path).expect("a directory can be moved back"))
}

/// The disk of the one VM there is, which this incarnation uses: the one that it restored, if it has.
fn vm_disk(lab: &Lab, evidence: &Evidence) -> PathBuf {
    let vms = fs::read_dir(lab.home().join("vms")).expect("the VMs' directory");
    let directories: Vec<_> = vms.flatten().map(|vm| vm.path()).collect();
    let [directory] = directories.as_slice() else { panic!("one VM: {directories:?}") };
    let restored = directory.join(format!("disk-{}", incarnation(evidence)));
    if restored.exists() { restored } else { directory.join("disk") }
}

/// Overwrites where the file system says that it is one.
fn damage<'a>(disk: PathBuf) -> Heal<'a> {
    let file = File::options().read(true).write(true).open(disk).expect("a disk can be opened by its owner");
    let mut beginning = vec![0; 64 * 1024];
    file.read_exact_at(&mut beginning, 0).expect("a disk is longer than its superblock");
    file.write_all_at(&vec![0; beginning.len()], 0).expect("it can be overwritten");
    Box::new(move || file.write_all_at(&beginning, 0).expect("it can be written back"))
}

fn cgroup_in_cgroup<'a>(evidence: &Evidence) -> Heal<'a> {
    let groups = cgroups::of_incarnation(&incarnation(evidence));
    assert!(!groups.is_empty(), "the incarnation has a control group");
    let inner: Vec<_> = groups.iter().map(|group| group.join("inner")).collect();
    for inner in &inner {
        fs::create_dir(inner).expect("a control group can be made");
    }
    Box::new(move || {
        for inner in inner {
            fs::remove_dir(inner).expect("a control group can be removed");
        }
    })
}

fn stranger_in_cgroup<'a>(evidence: &Evidence) -> Heal<'a> {
    let groups = cgroups::of_incarnation(&incarnation(evidence));
    assert!(!groups.is_empty(), "the incarnation has a control group");
    let mut stranger = Command::new("sleep").arg("1000").spawn().expect("a process can be started");
    for group in groups {
        fs::write(group.join("cgroup.procs"), stranger.id().to_string()).expect("it can be moved");
    }
    // Its parent here only looks at how it ended: whoever removes the group has to kill what is in it.
    Box::new(move || {
        let ended = || stranger.try_wait().expect("it can be waited for");
        let status = until("what is in the incarnation's control group is killed", SOON, ended);
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{status}");
    })
}

/// A clone reads its memory file, a cold boot its initramfs.
fn never_opens(lab: &Lab, clone: bool) -> Heal<'static> {
    let file = if clone {
        lab.templates().first().expect("a template").join("memory")
    } else {
        let boot = fs::read_dir(lab.places().library().boot()).expect("the library's boot directory");
        let mut files = boot.flatten().map(|entry| entry.path());
        files.find(|path| path.extension().is_some_and(|end| end == "cpio")).expect("an initramfs")
    };
    let aside = file.with_extension("aside");
    fs::rename(&file, &aside).expect("a file can be moved");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR | rustix::fs::Mode::ROTH;
    rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, mode, 0)
        .expect("a pipe can be made");
    Box::new(move || fs::rename(&aside, &file).expect("a file can be moved back"))
}

fn lock_store<'a>(lab: &Lab) -> Heal<'a> {
    let store = rusqlite::Connection::open(lab.places().database()).expect("the store can be opened");
    store.busy_timeout(Duration::from_secs(10)).expect("a wait can be set");
    store.execute_batch("BEGIN IMMEDIATE").expect("its lock can be had");
    Box::new(move || store.execute_batch("ROLLBACK").expect("its lock can be given back"))
}
