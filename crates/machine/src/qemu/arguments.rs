//! QEMU's command line, as a pure function of the plan, and what of the host it lets QEMU see.
//!
//! Nothing here touches the host. The same devices at the same addresses are given when a template is made and
//! when it is cloned: QEMU restores a machine only into its like, and [`topology`] names it for the template's
//! key. Golden files keep the command lines.

use crate::backend::{LaunchError, LaunchPlan, MemoryBacking};
use crate::jail::BoundFile;
use outlast_model::DiskFormat;
use outlast_wire::intent::Machine;
use rustix::fd::RawFd;

/// The name of the driver in errors.
pub(super) const NAME: &str = "qemu";

/// The board, without what is never used: no system management mode (SeaBIOS would set it up in every boot),
/// no AHCI, SMBus, USB, keyboard controller or VGA adapter, no VMware port. Guest memory is kept out of core
/// files and of page merging.
///
/// The HPET stays: without it, on a busy host, Linux believes the PIT when it measures the frequency of its time
/// stamp counter, and in 5 of 24 boots it was wrong by a factor of 3 to 19. With it, in 0 of 12.
const BOARD: &str = "q35,smm=off,vmport=off,sata=off,smbus=off,usb=off,graphics=off,i8042=off,\
                     dump-guest-core=off,mem-merge=off";

/// The devices that are always there. One port beside the console's reserved number 0.
const DEVICES: [&str; 3] = [
    "virtio-serial-pci,id=link,bus=pcie.0,addr=0x2,max_ports=2,disable-legacy=on",
    "virtserialport,id=agent-port,bus=link.0,nr=1,chardev=agent,name=outlast.agent",
    "pvpanic-pci,id=panic,bus=pcie.0,addr=0x3",
];

/// The root file system's disk. Read-only twice: the device says so to the guest, the block layer to QEMU.
const ROOT_DISK: &str = "virtio-blk-pci,id=root,bus=pcie.0,addr=0x4,drive=rootfs,disable-legacy=on";

/// The machine's own disk. An error of the file goes to the guest, which then knows what it has not kept; a machine that
/// stood still instead would look like one that is busy.
const SCRATCH_DISK: &str = "virtio-blk-pci,id=scratch,bus=pcie.0,addr=0x5,drive=scratch,disable-legacy=on,\
                            rerror=report,werror=report";
/// The name of its node, in the monitor's commands.
pub(super) const SCRATCH_NODE: &str = "scratch";

/// Translated guest code that emulation keeps, in MiB; only what a guest makes of it is used. Three Node hellos
/// make 121 MiB, and with less room for it each takes twice as long. QEMU's own default is an eighth of the
/// host's memory.
pub(super) const TRANSLATIONS_MIB: u32 = 256;

/// QEMU may not make processes, gain rights or change its resources; its own filter says so, under ours.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// The set of descriptors in which the state to restore arrives.
pub(super) const INCOMING_SET: i64 = 1;
/// The set of descriptors through which state is saved.
pub(super) const OUTGOING_SET: i64 = 2;
/// The set of descriptors with the machine's own disk.
const SCRATCH_SET: i64 = 3;

const KERNEL: &str = "kernel";
const INITRAMFS: &str = "initramfs";
const ROOTFS: &str = "rootfs";
const MEMORY: &str = "memory";

/// The numbers under which QEMU inherits its channels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Channels {
    /// The monitor's listening socket.
    pub(super) monitor: RawFd,
    /// The agent's listening socket.
    pub(super) agent: RawFd,
    /// One end of a connection for the serial console.
    pub(super) console: RawFd,
    /// The device state to restore, open for reading.
    pub(super) incoming: Option<RawFd>,
    /// The machine's own disk, open for reading and writing. A descriptor, and no file of the jail: the VMM needs no
    /// right to the file's name, and the file stays its owner's.
    pub(super) scratch: Option<RawFd>,
}

/// What hardware a machine has, in words that change when a template could no longer be restored.
pub(super) fn topology(machine: &Machine) -> String {
    let mut parts = vec![BOARD];
    parts.extend(DEVICES);
    parts.extend([ROOT_DISK, "isa-serial"]);
    parts.extend(machine.scratch.is_some().then_some(SCRATCH_DISK));
    parts.join(";")
}

/// The files of the plan that QEMU may see. A machine that is restored has its kernel in its memory.
pub(super) fn files(plan: &LaunchPlan) -> Vec<BoundFile> {
    let mut files = Vec::new();
    if plan.incoming.is_none() {
        files.push(BoundFile::read(&plan.machine.kernel, KERNEL));
        files.push(BoundFile::read(&plan.machine.initramfs, INITRAMFS));
    }
    files.extend(plan.machine.rootfs.iter().map(|rootfs| BoundFile::read(rootfs, ROOTFS)));
    match &plan.memory {
        MemoryBacking::Anonymous => {}
        MemoryBacking::SharedFile(file) => files.push(BoundFile::write(file, MEMORY)),
        MemoryBacking::PrivateFile(file) => files.push(BoundFile::read(file, MEMORY)),
    }
    files
}

/// The devices of the host that QEMU may see.
pub(super) fn host_devices(plan: &LaunchPlan) -> Vec<String> {
    if plan.machine.accelerator == "kvm" { vec!["kvm".to_owned()] } else { Vec::new() }
}

/// The arguments of QEMU, or why this plan is refused.
pub(super) fn arguments(plan: &LaunchPlan, channels: &Channels) -> Result<Vec<String>, LaunchError> {
    check(plan)?;
    let mut list = Arguments::default();
    list.flags(&["-nodefaults", "-no-user-config"]);
    list.option("-name", &name(plan));
    list.option("-display", "none");
    list.option("-sandbox", SANDBOX);
    machine(&mut list, plan);
    channel_devices(&mut list, channels);
    root_disk(&mut list, plan);
    scratch_disk(&mut list, plan, channels);
    // A guest cannot leave its machine in a state that nobody looks at: a reset ends it, and a panic stops it
    // with an event (and without a flood of them).
    list.option("-action", "reboot=shutdown,shutdown=poweroff,panic=pause,watchdog=none");
    beginning(&mut list, plan, channels);
    Ok(list.0)
}

/// Refuses what QEMU would misunderstand. The values come from our own store; a damaged one must not become
/// another option.
fn check(plan: &LaunchPlan) -> Result<(), LaunchError> {
    let refuse = |reason: String| Err(LaunchError::Refused { backend: NAME, reason });
    let machine = &plan.machine;
    if !matches!(machine.accelerator.as_str(), "kvm" | "tcg") {
        return refuse(format!("there is no accelerator '{}'", machine.accelerator));
    }
    let harmless = |c: char| c.is_ascii_alphanumeric() || "-_+.,=".contains(c);
    if machine.cpu_model.is_empty() || !machine.cpu_model.chars().all(harmless) {
        return refuse(format!("'{}' is no CPU model", machine.cpu_model));
    }
    if machine.memory == 0 || machine.memory % (1 << 20) != 0 {
        return refuse(format!("{} bytes of memory are no whole mebibytes", machine.memory));
    }
    if machine.scratch.as_ref().is_some_and(|scratch| scratch.format.parse::<DiskFormat>().is_err()) {
        return refuse("the format of its disk is unknown".to_owned());
    }
    if machine.vcpus == 0 {
        return refuse("a machine needs a vCPU".to_owned());
    }
    match (&plan.memory, &plan.incoming) {
        (MemoryBacking::PrivateFile(_), None) => refuse("a private memory file is for restoring".to_owned()),
        (MemoryBacking::SharedFile(_), Some(_)) => {
            refuse("a memory file that is written through is for making a template".to_owned())
        }
        (MemoryBacking::PrivateFile(_) | MemoryBacking::Anonymous, Some(_))
        | (MemoryBacking::Anonymous | MemoryBacking::SharedFile(_), None) => Ok(()),
    }
}

/// Shown by ps(1): the incarnation, after which the run directory is named.
fn name(plan: &LaunchPlan) -> String {
    let name = plan.run_directory.path().file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.chars().filter(char::is_ascii_alphanumeric).collect()
}

fn machine(list: &mut Arguments, plan: &LaunchPlan) {
    let machine = &plan.machine;
    list.option("-machine", &format!("{BOARD},memory-backend=ram"));
    match machine.accelerator.as_str() {
        "kvm" => list.option("-accel", "kvm"),
        _ => list.option("-accel", &format!("tcg,tb-size={TRANSLATIONS_MIB}")),
    }
    list.option("-cpu", &machine.cpu_model);
    list.option("-smp", &machine.vcpus.to_string());
    list.option("-m", &format!("{}M", machine.memory >> 20));
    let file = |access: &str| {
        format!("memory-backend-file,id=ram,size={},mem-path=/vm/{MEMORY},{access}", machine.memory)
    };
    match &plan.memory {
        // Named as the others are: what was saved of one machine is restored into another, whatever its memory was.
        MemoryBacking::Anonymous => {
            list.option("-object", &format!("memory-backend-ram,id=ram,size={}", machine.memory));
        }
        MemoryBacking::SharedFile(_) => list.option("-object", &file("share=on")),
        // The file is opened read-only, and yet the guest's memory can be written: its pages are copied.
        MemoryBacking::PrivateFile(_) => list.option("-object", &file("share=off,readonly=on,rom=off")),
    }
}

fn channel_devices(list: &mut Arguments, channels: &Channels) {
    let listening = |id: &str, number: RawFd| format!("socket,id={id},fd={number},server=on,wait=off");
    list.option("-chardev", &listening("monitor", channels.monitor));
    list.option("-mon", "chardev=monitor,mode=control");
    list.option("-chardev", &listening("agent", channels.agent));
    list.option("-chardev", &format!("socket,id=console,fd={}", channels.console));
    list.option("-serial", "chardev:console");
    for device in DEVICES {
        list.option("-device", device);
    }
}

fn root_disk(list: &mut Arguments, plan: &LaunchPlan) {
    if plan.machine.rootfs.is_none() {
        return;
    }
    // Locks are for disks that somebody writes; many machines share this file.
    let file = format!("driver=file,node-name=rootfs-file,filename=/vm/{ROOTFS},read-only=on,locking=off");
    list.option("-blockdev", &file);
    list.option("-blockdev", "driver=raw,node-name=rootfs,file=rootfs-file,read-only=on");
    list.option("-device", ROOT_DISK);
}

fn scratch_disk(list: &mut Arguments, plan: &LaunchPlan, channels: &Channels) {
    let (Some(scratch), Some(number)) = (&plan.machine.scratch, channels.scratch) else { return };
    list.option("-add-fd", &format!("fd={number},set={SCRATCH_SET}"));
    // Locked by QEMU, so that no second machine writes there. What the guest discards is a hole in the file again.
    let file = format!("driver=file,node-name=scratch-file,filename=/dev/fdset/{SCRATCH_SET},discard=unmap");
    list.option("-blockdev", &file);
    let format = &scratch.format;
    list.option(
        "-blockdev",
        &format!("driver={format},node-name={SCRATCH_NODE},file=scratch-file,discard=unmap"),
    );
    list.option("-device", SCRATCH_DISK);
}

fn beginning(list: &mut Arguments, plan: &LaunchPlan, channels: &Channels) {
    if let Some(number) = channels.incoming {
        list.option("-add-fd", &format!("fd={number},set={INCOMING_SET}"));
        list.option("-incoming", "defer");
    } else {
        // No vCPU runs until the driver says so.
        list.flags(&["-S"]);
        list.option("-kernel", &format!("/vm/{KERNEL}"));
        list.option("-initrd", &format!("/vm/{INITRAMFS}"));
        list.option("-append", &plan.machine.command_line);
    }
}

#[derive(Debug, Default)]
struct Arguments(Vec<String>);

impl Arguments {
    fn flags(&mut self, flags: &[&str]) {
        self.0.extend(flags.iter().map(|&flag| flag.to_owned()));
    }

    fn option(&mut self, name: &str, value: &str) {
        self.0.extend([name.to_owned(), value.to_owned()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::fixture;
    use outlast_wire::intent::Scratch;
    use std::path::PathBuf;

    const CHANNELS: Channels =
        Channels { monitor: 10, agent: 11, console: 12, incoming: None, scratch: None };

    /// One option and its value a line.
    fn shown(plan: &LaunchPlan, channels: &Channels) -> String {
        arguments(plan, channels).unwrap().join("\n").replace("\n-", "\n\n-").replace("\n\n-", "\n-")
    }

    #[test]
    fn a_boot_has_its_golden_command_line() {
        insta::assert_snapshot!("boot", shown(&fixture::plan(), &CHANNELS));
    }

    #[test]
    fn making_a_template_has_its_golden_command_line() {
        let mut plan = fixture::plan();
        plan.memory = MemoryBacking::SharedFile("/library/templates/x/memory".into());
        insta::assert_snapshot!("template", shown(&plan, &CHANNELS));
    }

    #[test]
    fn a_clone_has_its_golden_command_line() {
        let mut plan = fixture::plan();
        plan.memory = MemoryBacking::PrivateFile("/library/templates/x/memory".into());
        plan.incoming = Some("/library/templates/x/state".into());
        insta::assert_snapshot!("clone", shown(&plan, &Channels { incoming: Some(13), ..CHANNELS }));
    }

    #[test]
    fn a_canary_on_kvm_has_its_golden_command_line() {
        let mut plan = fixture::plan();
        plan.machine.rootfs = None;
        plan.machine.accelerator = "kvm".to_owned();
        plan.machine.cpu_model = "host".to_owned();
        insta::assert_snapshot!("canary", shown(&plan, &CHANNELS));
        assert_eq!(host_devices(&plan), ["kvm"]);
    }

    fn with_scratch(format: &str) -> LaunchPlan {
        let mut plan = fixture::plan();
        plan.machine.scratch =
            Some(Scratch { path: "/disks/web".into(), format: format.to_owned(), bytes: 1 << 30 });
        plan
    }

    #[test]
    fn a_machine_with_a_disk_of_its_own_has_its_golden_command_line() {
        let channels = Channels { scratch: Some(14), ..CHANNELS };
        insta::assert_snapshot!("scratch", shown(&with_scratch("qcow2"), &channels));
    }

    #[test]
    fn a_clone_with_a_disk_of_its_own_has_its_golden_command_line() {
        let mut plan = with_scratch("raw");
        plan.memory = MemoryBacking::PrivateFile("/library/templates/x/memory".into());
        plan.incoming = Some("/library/templates/x/state".into());
        let channels = Channels { incoming: Some(13), scratch: Some(14), ..CHANNELS };
        insta::assert_snapshot!("clone-scratch", shown(&plan, &channels));
        let names: Vec<String> = files(&plan).iter().map(BoundFile::inside).collect();
        assert_eq!(names, ["/vm/rootfs", "/vm/memory"], "the disk is reached through its descriptor alone");
    }

    #[test]
    fn a_machine_that_is_restored_whole_has_its_golden_command_line() {
        let mut plan = with_scratch("raw");
        plan.incoming = Some("/vms/x/snapshots/y/machine".into());
        let channels = Channels { incoming: Some(13), scratch: Some(14), ..CHANNELS };
        insta::assert_snapshot!("restore", shown(&plan, &channels));
        let names: Vec<String> = files(&plan).iter().map(BoundFile::inside).collect();
        assert_eq!(names, ["/vm/rootfs"], "what is restored is reached through its descriptor alone");
    }

    #[test]
    fn machines_with_and_without_a_disk_of_their_own_share_no_template() {
        let (with, without) = (topology(&with_scratch("raw").machine), topology(&fixture::plan().machine));
        assert_ne!(with, without);
        // What lies below it on the host, the guest does not see.
        assert_eq!(with, topology(&with_scratch("qcow2").machine));
    }

    #[test]
    fn the_port_is_the_one_the_agent_looks_for() {
        assert!(DEVICES[1].ends_with(&format!(",name={}", outlast_wire::guest::PORT_NAME)));
    }

    #[test]
    fn a_clone_sees_neither_kernel_nor_a_file_it_could_write() {
        let mut plan = fixture::plan();
        plan.memory = MemoryBacking::PrivateFile("/t/memory".into());
        plan.incoming = Some("/t/state".into());
        let names: Vec<String> = files(&plan).iter().map(BoundFile::inside).collect();
        assert_eq!(names, ["/vm/rootfs", "/vm/memory"]);
        assert!(files(&plan).iter().all(|file| file.access == crate::jail::FileAccess::Read));
    }

    #[test]
    fn plans_that_would_be_misunderstood_are_refused() {
        let spoilt: [fn(&mut LaunchPlan); 9] = [
            |plan| *plan = with_scratch("raw,read-only=off,file.filename=/etc/shadow"),
            |plan| plan.machine.accelerator = "hvf".to_owned(),
            |plan| plan.machine.cpu_model = String::new(),
            |plan| plan.machine.cpu_model = "max -device evil".to_owned(),
            |plan| plan.machine.memory = 1,
            |plan| plan.machine.memory = 0,
            |plan| plan.machine.vcpus = 0,
            |plan| plan.memory = MemoryBacking::PrivateFile(PathBuf::from("/m")),
            |plan| {
                plan.memory = MemoryBacking::SharedFile(PathBuf::from("/m"));
                plan.incoming = Some(PathBuf::from("/s"));
            },
        ];
        for spoil in spoilt {
            let mut plan = fixture::plan();
            spoil(&mut plan);
            let refused = arguments(&plan, &CHANNELS);
            assert!(matches!(refused, Err(LaunchError::Refused { backend: "qemu", .. })), "{plan:?}");
        }
    }
}
