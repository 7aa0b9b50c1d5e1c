//! Fills a store with workloads that are over, or with VMs that have stopped, for measurements of what many of them cost:
//!
//! ```text
//! fill DATABASE COUNT [vms]
//! ```
//!
//! Every workload and every VM goes the whole way through the store, from its acceptance to its outcome, as if it had been
//! run; the chain of events stays intact. None leaves evidence. Not part of the product.

use outlast_model::spec::WorkloadSpec;
use outlast_model::{
    DeathCause, DiskFormat, DiskSpec, IncarnationId, Memory, Outcome, Timeout, VcpuCount, VmId, VmName,
    VmSpec, WorkloadId,
};
use outlast_store::{
    Acceptance, NewVm, NewVmStart, NewWorkload, Owner, Publication, StartNote, StartedFrom, Store,
};
use outlast_wire::identity::ProcessIdentity;
use outlast_wire::intent::{Intent, Machine, Program, Purpose, Start};
use outlast_wire::record::{DeathRecord, EndRecord, OutcomeRecord, Timings};
use outlast_wire::vm::Origins;
use std::error::Error;
use std::path::PathBuf;

/// The first one's milliseconds since the Unix epoch: older than anything that was really run.
const LONG_AGO_MS: u64 = 1_600_000_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(database), Some(count)) = (arguments.next().map(PathBuf::from), arguments.next()) else {
        return Err("usage: fill DATABASE COUNT".into());
    };
    let count: u64 = count.to_string_lossy().parse()?;
    let store = Store::open(&database)?;
    if arguments.next().is_some_and(|what| what == "vms") {
        return (0..count).try_for_each(|number| run_vm(&store, number));
    }
    (0..count).try_for_each(|number| run_through(&store, number))
}

fn run_through(store: &Store, number: u64) -> Result<(), Box<dyn Error>> {
    let new = workload(number)?;
    let runner = process(number);
    if store.accept(&new)? != Acceptance::New {
        return Err("without a key no workload is an earlier one".into());
    }
    store.claim(new.incarnation, &runner, nanoseconds(number))?;
    store.publish(new.incarnation, &runner, &publication(number))?;
    store.end(new.incarnation, &Owner::Runner(&runner), &end(number))?;
    Ok(())
}

fn run_vm(store: &Store, number: u64) -> Result<(), Box<dyn Error>> {
    let id = VmId::from_parts(LONG_AGO_MS + number, 3);
    let name: VmName = format!("filled-{number}").parse()?;
    let memory = Memory::from_mib(256).ok_or("256 MiB are a size")?;
    let disk = DiskSpec::new(DiskFormat::Qcow2, memory)?;
    let spec = VmSpec::new("base".to_owned(), VcpuCount::ONE, memory, disk)?;
    let created_unix_ns = nanoseconds(number);
    store.create_vm(&NewVm { id, name: name.clone(), spec, origins: Origins::default(), created_unix_ns })?;
    let purpose =
        Purpose::Vm { vm: id.to_string(), name: name.to_string(), memory_max: 1 << 27, pids_max: 1024 };
    let incarnation = IncarnationId::from_parts(LONG_AGO_MS + number, 4);
    let start = NewVmStart { vm: id, incarnation, intent: intent_of(purpose, number), created_unix_ns };
    if store.start_vm(&start)? != StartNote::New {
        return Err("a new VM does not live".into());
    }
    let runner = process(number);
    store.claim(incarnation, &runner, created_unix_ns)?;
    store.publish(incarnation, &runner, &publication(number))?;
    let end = EndRecord { outcome: None, output_log_bytes: 0, ..end(number) };
    store.end(incarnation, &Owner::Runner(&runner), &end)?;
    Ok(())
}

fn nanoseconds(number: u64) -> u64 {
    (LONG_AGO_MS + number) * 1_000_000
}

fn workload(number: u64) -> Result<NewWorkload, Box<dyn Error>> {
    let id = WorkloadId::from_parts(LONG_AGO_MS + number, 1);
    let spec = WorkloadSpec {
        image: "python".to_owned(),
        runtime: Some("python".to_owned()),
        argv: vec!["python3".to_owned(), "/outlast/in/hello.py".to_owned()],
        env: Vec::new(),
        vcpus: VcpuCount::ONE,
        memory: Memory::from_mib(128).ok_or("128 MiB are a size")?,
        timeout: Timeout::from_millis(30_000).ok_or("30 s are a timeout")?,
        output_limit: 16 << 20,
    };
    Ok(NewWorkload {
        id,
        incarnation: IncarnationId::from_parts(LONG_AGO_MS + number, 2),
        idempotency_key: None,
        spec,
        intent: intent(id, number),
        created_unix_ns: nanoseconds(number),
    })
}

fn intent(workload: WorkloadId, number: u64) -> Intent {
    let program = Program {
        argv: vec!["python3".to_owned(), "/outlast/in/hello.py".to_owned()],
        env: Vec::new(),
        cwd: "/outlast".to_owned(),
        uid: 1000,
        gid: 1000,
        memory_max: 128 << 20,
        pids_max: 1024,
        timeout_ms: 30_000,
        output_limit: 16 << 20,
        stdin: false,
    };
    intent_of(Purpose::Workload { workload: workload.to_string(), program, outputs: false }, number)
}

fn intent_of(purpose: Purpose, number: u64) -> Intent {
    Intent {
        version: outlast_wire::intent::VERSION,
        purpose,
        machine: machine(),
        start: Start::Boot,
        boot_timeout_ms: 60_000,
        hold: None,
        fell_back: None,
        ingredients: None,
        requested_unix_ns: nanoseconds(number),
        requested_boot_id: None,
        requested_monotonic_ns: None,
    }
}

fn machine() -> Machine {
    Machine {
        backend: "qemu".to_owned(),
        accelerator: "tcg".to_owned(),
        cpu_model: "max".to_owned(),
        vcpus: 1,
        memory: 384 << 20,
        kernel: "/library/images/python/vmlinux".into(),
        initramfs: "/library/boot/agent.cpio".into(),
        rootfs: Some("/library/images/python/rootfs.squashfs".into()),
        command_line: "console=ttyS0".to_owned(),
        vmm_root: "/library/vmm/qemu/root".into(),
        vmm_binary: "/usr/bin/qemu-system-x86_64".into(),
        vmm_version: "10.0".to_owned(),
        image: Some("python".to_owned()),
        image_digest: Some("00".repeat(32)),
        scratch: None,
    }
}

/// Nobody: of a boot that never was.
fn process(number: u64) -> ProcessIdentity {
    ProcessIdentity {
        pid: 2,
        start_time: number,
        boot_id: "00000000-0000-4000-8000-000000000000".to_owned(),
        pid_namespace: 1,
        observer_namespace: 1,
    }
}

fn publication(number: u64) -> Publication {
    Publication {
        certificate: None,
        started_from: StartedFrom::Clone,
        fell_back: None,
        vmm: process(number),
        timings: Timings { ready: Some(90.0), exec: None, total: None },
        unix_ns: nanoseconds(number),
    }
}

fn end(number: u64) -> EndRecord {
    let evidence = vec!["the program ended with exit code 0".to_owned()];
    EndRecord {
        outcome: Some(OutcomeRecord::from(&Outcome::Completed)),
        failed_start: None,
        death: DeathRecord::new(&DeathCause::Stopped, evidence, nanoseconds(number), "runner"),
        output_log_bytes: 6,
        truncated_bytes: 0,
        timings: Timings { ready: None, exec: Some(400.0), total: Some(600.0) },
    }
}
