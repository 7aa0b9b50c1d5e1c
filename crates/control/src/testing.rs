//! Scenes for tests: a site with a store in which one workload has been accepted.

use crate::clock;
use crate::site::Site;
use outlast_machine::process;
use outlast_model::spec::WorkloadSpec;
use outlast_model::{IncarnationId, Timeout, VcpuCount, WorkloadId};
use outlast_store::{Acceptance, NewWorkload, Publication, StartedFrom};
use outlast_wire::identity::ProcessIdentity;
use outlast_wire::intent::{Intent, Machine, Program, Purpose, Start, VERSION};
use outlast_wire::paths::Places;
use outlast_wire::record::Timings;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command};
use std::time::Duration;

/// Where a stage's programs lie.
const PROGRAMS: &str = "bin";

/// One accepted workload.
pub(crate) struct Stage {
    top: tempfile::TempDir,
    pub(crate) site: Site,
    pub(crate) workload: WorkloadId,
    pub(crate) incarnation: IncarnationId,
}

/// A workload that was accepted this long ago.
pub(crate) fn accept(ago: Duration) -> Stage {
    accept_changed(ago, |_| {})
}

/// The same with something about its intent changed.
pub(crate) fn accept_changed(ago: Duration, change: impl FnOnce(&mut Intent)) -> Stage {
    let top = tempfile::tempdir().unwrap();
    let at = |name: &str| top.path().join(name);
    let site = Site::new(Places::new(at("home"), at("run"), at("library")), at(PROGRAMS));
    let (workload, incarnation) = (clock::new_workload_id().unwrap(), clock::new_incarnation_id().unwrap());
    drop(crate::incarnation::make_evidence(&site, incarnation).unwrap());
    let created_unix_ns = clock::unix_ns() - u64::try_from(ago.as_nanos()).unwrap();
    let mut intent = intent(workload, created_unix_ns);
    change(&mut intent);
    let new = NewWorkload {
        id: workload,
        incarnation,
        idempotency_key: None,
        spec: spec(),
        intent,
        created_unix_ns,
    };
    assert_eq!(site.store().unwrap().accept(&new).unwrap(), Acceptance::New);
    Stage { top, site, workload, incarnation }
}

/// A workload that was accepted just now, and whose launcher is this shell script: a real program, though not a
/// real launcher.
pub(crate) fn launched_by(script: &str) -> Stage {
    let stage = accept(Duration::ZERO);
    let programs = stage.top.path().join(PROGRAMS);
    let program = programs.join("outlast-runner");
    std::fs::create_dir(programs).unwrap();
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    stage
}

impl Stage {
    pub(crate) fn claim(&self, runner: &ProcessIdentity) {
        self.site.store().unwrap().claim(self.incarnation, runner, clock::unix_ns()).unwrap();
    }

    pub(crate) fn publish(&self, runner: &ProcessIdentity) {
        let publication = Publication {
            certificate: None,
            started_from: StartedFrom::Boot,
            fell_back: None,
            vmm: runner.clone(),
            timings: Timings::default(),
            unix_ns: clock::unix_ns(),
        };
        self.site.store().unwrap().publish(self.incarnation, runner, &publication).unwrap();
    }
}

/// A process that plays a runner; the test ends it.
pub(crate) fn sleeper() -> Child {
    Command::new("sleep").arg("600").spawn().unwrap()
}

pub(crate) fn identity_of_child(child: &Child) -> ProcessIdentity {
    process::identity_of(child.id()).unwrap()
}

fn spec() -> WorkloadSpec {
    WorkloadSpec {
        image: "base".to_owned(),
        runtime: None,
        argv: vec!["true".to_owned()],
        env: Vec::new(),
        vcpus: VcpuCount::ONE,
        memory: crate::DEFAULT_MEMORY,
        timeout: Timeout::from_millis(5000).unwrap(),
        output_limit: 1024,
    }
}

fn intent(workload: WorkloadId, requested_unix_ns: u64) -> Intent {
    let program = Program {
        argv: vec!["true".to_owned()],
        env: Vec::new(),
        cwd: "/".to_owned(),
        uid: 1,
        gid: 1,
        memory_max: 1,
        pids_max: 1,
        timeout_ms: 5000,
        output_limit: 1024,
        stdin: false,
    };
    let machine = Machine {
        backend: "qemu".to_owned(),
        accelerator: "tcg".to_owned(),
        cpu_model: "max".to_owned(),
        vcpus: 1,
        memory: 1 << 28,
        kernel: "/k".into(),
        initramfs: "/i".into(),
        rootfs: None,
        command_line: String::new(),
        vmm_root: "/v".into(),
        vmm_binary: "/q".into(),
        vmm_version: "10".to_owned(),
        image: Some("base".to_owned()),
        image_digest: None,
        scratch: None,
    };
    Intent {
        version: VERSION,
        purpose: Purpose::Workload { workload: workload.to_string(), program, outputs: false },
        machine,
        start: Start::Boot,
        boot_timeout_ms: 1000,
        hold: None,
        fell_back: None,
        ingredients: None,
        requested_unix_ns,
        requested_boot_id: None,
        requested_monotonic_ns: None,
    }
}
