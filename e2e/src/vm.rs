//! VMs of a lab: small ones, all alike, so that they share one template.

use crate::call::Output;
use crate::lab::Lab;
use crate::process::{self, Process};
use outlast_wire::paths::{SnapshotDirectory, VmDirectory};
use outlast_wire::vm_snapshot_view::{SnapshotVerifiedView, SnapshotView, VmRestoredView, VmSnapshotView};
use outlast_wire::vm_view::{VmStartedView, VmSummary, VmView};
use std::path::PathBuf;
use std::time::Duration;

/// What every VM of a test is made of.
const MACHINE: [&str; 8] = ["--image", "base", "--memory", "128M", "--disk", "64M", "--disk-format", "raw"];
/// The kernel takes processes away after the fact.
const SOON: Duration = Duration::from_secs(10);

impl Lab {
    /// Makes a VM.
    #[track_caller]
    pub fn create_vm(&self, name: &str) -> VmSummary {
        let mut line = vec!["vm", "create", "--json", name];
        line.extend(MACHINE);
        self.outlast(&line).expect_code(0).json()
    }

    /// Starts a VM.
    #[track_caller]
    pub fn start_vm(&self, name: &str) -> VmStartedView {
        self.outlast(&["vm", "start", "--json", name]).expect_code(0).json()
    }

    /// Makes and starts a VM.
    #[track_caller]
    pub fn running_vm(&self, name: &str) -> VmStartedView {
        self.create_vm(name);
        self.start_vm(name)
    }

    /// What `vm show --json` prints.
    #[track_caller]
    pub fn show_vm(&self, name: &str) -> VmView {
        self.outlast(&["vm", "show", "--json", name]).expect_code(0).json()
    }

    /// Takes a snapshot of a VM.
    #[track_caller]
    pub fn snapshot(&self, name: &str, snapshot: &str) -> VmSnapshotView {
        self.outlast(&["vm", "snapshot", "--json", name, snapshot]).expect_code(0).json()
    }

    /// Restores a VM.
    #[track_caller]
    pub fn restore(&self, name: &str, snapshot: &str) -> VmRestoredView {
        self.outlast(&["vm", "restore", "--json", name, snapshot]).expect_code(0).json()
    }

    /// What `vm snapshots ls --json` prints.
    #[track_caller]
    pub fn snapshots(&self, name: &str) -> Vec<SnapshotView> {
        self.outlast(&["vm", "snapshots", "ls", "--json", name]).expect_code(0).json()
    }

    /// What `vm snapshots verify --json` prints.
    #[track_caller]
    pub fn verified(&self, name: &str, code: i32) -> Vec<SnapshotVerifiedView> {
        self.outlast(&["vm", "snapshots", "verify", "--json", name]).expect_code(code).json()
    }

    /// The directory of a VM.
    #[track_caller]
    pub fn directory_of(&self, name: &str) -> VmDirectory {
        VmDirectory::at(PathBuf::from(self.show_vm(name).directory))
    }

    /// The directory of a snapshot.
    #[track_caller]
    pub fn snapshot_directory(&self, name: &str, snapshot: &str) -> SnapshotDirectory {
        SnapshotDirectory::at(self.directory_of(name).snapshots().join(snapshot))
    }

    /// What `vm ls --json` prints.
    #[track_caller]
    pub fn vms(&self) -> Vec<VmSummary> {
        self.outlast(&["vm", "ls", "--json"]).expect_code(0).json()
    }

    /// Runs a shell line in a VM.
    #[track_caller]
    pub fn sh(&self, name: &str, line: &str) -> Output {
        self.outlast(&["vm", "exec", name, "--", "sh", "-c", line])
    }

    /// The runner of a VM that lives, and its VMM, both held.
    #[track_caller]
    pub fn processes_of(&self, name: &str) -> (Process, Process) {
        let view = self.show_vm(name);
        let pid = view.summary.runner_pid.expect("it lives");
        let entry = process::runners().into_iter().find(|entry| entry.pid == pid);
        let runner = entry.as_ref().and_then(Process::hold).expect("the runner's pid is as we see it");
        let vmm = self.vmm(&runner);
        assert_eq!(view.incarnations[0].vmm_pid, Some(vmm.pid()), "the VMM's pid is as we see it");
        (runner, vmm)
    }

    /// Waits until a VM is in this state, looking as any user may.
    #[track_caller]
    pub fn until_vm(&self, name: &str, state: &str) -> VmView {
        let view = || Some(self.show_vm(name)).filter(|view| view.summary.state == state);
        match crate::deadline::within(SOON, view) {
            Some(view) => view,
            None => panic!("VM {name} is not {state} within {SOON:?}: {:#?}", self.show_vm(name)),
        }
    }

    /// Removes what VMs a test left, as anybody would.
    #[track_caller]
    pub(crate) fn remove_vms(&self) {
        for vm in self.vms() {
            self.outlast(&["vm", "rm", "--force", &vm.name]).expect_code(0);
        }
    }
}
