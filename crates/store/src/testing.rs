//! What the tests share: a scratch store and rows to put in it.

use crate::{NewIncarnation, NewVm, NewVmStart, NewWorkload, Publication, StartedFrom, Store};
use outlast_model::spec::{EnvVar, WorkloadSpec};
use outlast_model::{
    BootStep, DeathCause, DiskFormat, DiskSpec, IncarnationId, Memory, Outcome, Timeout, VcpuCount, VmId,
    VmName, VmSpec, WorkloadId,
};
use outlast_wire::identity::ProcessIdentity;
use outlast_wire::intent::{Intent, Machine, Program, Purpose, Start};
use outlast_wire::record::{CertificateRecord, DeathRecord, EndRecord, FailedStart, OutcomeRecord, Timings};
use rusqlite::Connection;
use std::path::PathBuf;

/// A value of the environment that must be seen nowhere.
pub(crate) const SECRET: &str = "hunter2-do-not-show";

/// A store in a directory that goes away.
pub(crate) struct Scratch {
    directory: tempfile::TempDir,
}

impl Scratch {
    /// With a store in it.
    pub(crate) fn new() -> Self {
        let scratch = Self::empty();
        scratch.open();
        scratch
    }

    pub(crate) fn empty() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join("home")
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.home().join("outlast.db")
    }

    pub(crate) fn open(&self) -> Store {
        Store::open(&self.database()).unwrap()
    }

    /// A connection that nothing holds back: what an intruder has.
    pub(crate) fn raw(&self) -> Connection {
        Connection::open(self.database()).unwrap()
    }
}

pub(crate) fn workload_id(number: u64) -> WorkloadId {
    WorkloadId::from_parts(1_700_000_000_000 + number, u128::from(number) << 17)
}

pub(crate) fn incarnation_id(number: u64) -> IncarnationId {
    IncarnationId::from_parts(1_700_000_000_000 + number, u128::from(number) << 19 | 1)
}

pub(crate) fn process(pid: u32) -> ProcessIdentity {
    ProcessIdentity {
        pid,
        start_time: u64::from(pid) * 100,
        boot_id: "b5e2e3ad-4f4b-4b8e-9d7e-000000000001".to_owned(),
        pid_namespace: 4_026_531_836,
        observer_namespace: 4_026_531_837,
    }
}

pub(crate) fn intent(purpose: Purpose) -> Intent {
    Intent {
        version: outlast_wire::intent::VERSION,
        purpose,
        machine: Machine {
            backend: "qemu".to_owned(),
            accelerator: "tcg".to_owned(),
            cpu_model: "max".to_owned(),
            vcpus: 1,
            memory: 192 << 20,
            kernel: "/images/python/vmlinux".into(),
            initramfs: "/boot/x.cpio".into(),
            rootfs: Some("/images/python/rootfs.squashfs".into()),
            command_line: "console=ttyS0".to_owned(),
            vmm_root: "/vmm/qemu/root".into(),
            vmm_binary: "/usr/bin/qemu-system-x86_64".into(),
            vmm_version: "10.0".to_owned(),
            image: Some("python".to_owned()),
            image_digest: Some("00".repeat(32)),
            scratch: None,
        },
        start: Start::Boot,
        boot_timeout_ms: 60_000,
        hold: None,
        fell_back: None,
        ingredients: None,
        requested_unix_ns: 1,
        requested_boot_id: None,
        requested_monotonic_ns: None,
    }
}

pub(crate) fn program() -> Program {
    Program {
        argv: vec!["python3".to_owned(), "hello.py".to_owned()],
        env: vec![format!("TOKEN={SECRET}")],
        cwd: "/outlast".to_owned(),
        uid: 1000,
        gid: 1000,
        memory_max: 128 << 20,
        pids_max: 1024,
        timeout_ms: 30_000,
        output_limit: 1 << 24,
        stdin: false,
    }
}

/// A workload whose incarnation has the same number.
pub(crate) fn new_workload(number: u64, key: Option<&str>) -> NewWorkload {
    let id = workload_id(number);
    NewWorkload {
        id,
        incarnation: incarnation_id(number),
        idempotency_key: key.map(str::to_owned),
        spec: WorkloadSpec {
            image: "python".to_owned(),
            runtime: Some("python".to_owned()),
            argv: vec!["python3".to_owned(), "hello.py".to_owned()],
            env: vec![EnvVar::parse(&format!("TOKEN={SECRET}")).unwrap()],
            vcpus: VcpuCount::ONE,
            memory: Memory::from_mib(128).unwrap(),
            timeout: Timeout::from_millis(30_000).unwrap(),
            output_limit: 1 << 24,
        },
        intent: intent(Purpose::Workload { workload: id.to_string(), program: program(), outputs: false }),
        created_unix_ns: 1_000 + number,
    }
}

pub(crate) fn new_canary(number: u64) -> NewIncarnation {
    NewIncarnation { id: incarnation_id(number), intent: intent(Purpose::Canary), created_unix_ns: 1 }
}

pub(crate) fn publication() -> Publication {
    Publication {
        certificate: Some(CertificateRecord {
            agent_version: "0.1.0".to_owned(),
            guest_kernel: "6.1.0".to_owned(),
            clock_offset_ns: [-1_000, 2_000],
            clock_samples: 1,
            entropy_bytes: 512,
            host_name: "o-x".to_owned(),
            machine_id: "0".repeat(32),
        }),
        started_from: StartedFrom::Clone,
        fell_back: None,
        vmm: process(77),
        timings: Timings { ready: Some(55.5), exec: None, total: None },
        unix_ns: 3_000,
    }
}

pub(crate) fn end_with(outcome: Option<&Outcome>) -> EndRecord {
    EndRecord {
        outcome: outcome.map(OutcomeRecord::from),
        failed_start: None,
        death: DeathRecord::new(&DeathCause::Stopped, vec!["it was over".to_owned()], 4_000, "runner"),
        output_log_bytes: 123,
        truncated_bytes: 0,
        timings: Timings { ready: None, exec: Some(1.5), total: Some(60.0) },
    }
}

pub(crate) fn not_started() -> Outcome {
    Outcome::NotStarted { step: BootStep::LaunchVmm, cause: "no space".to_owned() }
}

/// Accepts and runs workload `number` to its end.
pub(crate) fn run_through(store: &Store, number: u64) {
    let new = new_workload(number, None);
    let who = process(u32::try_from(number % 1_000_000).unwrap() + 2);
    assert_eq!(store.accept(&new).unwrap(), crate::Acceptance::New);
    store.claim(new.incarnation, &who, 2_000).unwrap();
    store.publish(new.incarnation, &who, &publication()).unwrap();
    store.end(new.incarnation, &crate::Owner::Runner(&who), &end_with(Some(&Outcome::Completed))).unwrap();
}

pub(crate) fn vm_id(number: u64) -> VmId {
    VmId::from_parts(1_700_000_000_000 + number, u128::from(number) << 23 | 3)
}

pub(crate) fn vm_name(number: u64) -> VmName {
    format!("vm-{number}").parse().unwrap()
}

pub(crate) fn new_vm(number: u64) -> NewVm {
    let disk = DiskSpec::new(DiskFormat::Qcow2, Memory::from_mib(1024).unwrap()).unwrap();
    let memory = Memory::from_mib(256).unwrap();
    NewVm {
        id: vm_id(number),
        name: vm_name(number),
        spec: VmSpec::new("base".to_owned(), VcpuCount::ONE, memory, disk).unwrap(),
        origins: [("memory".to_owned(), "command line".to_owned())].into(),
        created_unix_ns: 1_000 + number,
    }
}

/// A start of VM `number` whose incarnation has the number `incarnation`.
pub(crate) fn new_vm_start(number: u64, incarnation: u64) -> NewVmStart {
    let (vm, name) = (vm_id(number).to_string(), vm_name(number).to_string());
    NewVmStart {
        vm: vm_id(number),
        incarnation: incarnation_id(incarnation),
        intent: intent(Purpose::Vm { vm, name, memory_max: 1 << 27, pids_max: 1024 }),
        created_unix_ns: 1_100,
    }
}

/// The end of a VM's incarnation that never ran.
pub(crate) fn failed_end() -> EndRecord {
    EndRecord { failed_start: FailedStart::of(&not_started()), ..end_with(None) }
}

/// Starts VM `number`, pauses and resumes it, and stops it.
pub(crate) fn run_vm(store: &Store, number: u64, incarnation: u64) {
    let start = new_vm_start(number, incarnation);
    let (id, who) = (start.incarnation, process(9));
    assert_eq!(store.start_vm(&start).unwrap(), crate::StartNote::New);
    store.claim(id, &who, 2_000).unwrap();
    store.publish(id, &who, &publication()).unwrap();
    store.pause_vm(id, &who, true, 3_100).unwrap();
    store.pause_vm(id, &who, false, 3_200).unwrap();
    let noted = store.request_stop(start.vm, 3_300).unwrap();
    assert_eq!(noted, crate::StopNote::Noted { incarnation: id });
    store.end(id, &crate::Owner::Runner(&who), &end_with(None)).unwrap();
}
