//! Deaths in the middle of a snapshot: the VM is what it was, or dead of what it died of, and nothing half made stays.

use outlast_e2e::{Lab, Process, Running, on_lab, until};
use outlast_wire::journal::{Journal, JournalEntry};
use outlast_wire::paths::VmDirectory;
use outlast_wire::vm_view::VmStoppedView;
use rustix::process::Signal;
use std::fs;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

/// A VM of which a snapshot is being taken.
struct Scene<'a> {
    lab: &'a Lab,
    runner: Process,
    vmm: Process,
    directory: VmDirectory,
}

impl<'a> Scene<'a> {
    /// A VM with something on its disk.
    #[track_caller]
    fn set(lab: &'a Lab) -> Self {
        lab.running_vm("web");
        lab.sh("web", "echo kept > /root/kept; sync").expect_code(0);
        let (runner, vmm) = lab.processes_of("web");
        Self { lab, runner, vmm, directory: lab.directory_of("web") }
    }

    /// Begins a snapshot that comes no further: a VMM that stands still does not stop its virtual CPUs, nor does its
    /// guest say that it has heard everything.
    #[track_caller]
    fn begin(&self) -> Running {
        self.vmm.signal(Signal::STOP);
        let taking = self.lab.call(&["vm", "snapshot", "web", "before"]).start();
        until("its runner is at it", SOON, || self.has_begun().then_some(()));
        let half = names(&self.directory);
        assert!(half.len() == 1 && half[0].starts_with(".new-"), "{half:?}");
        taking
    }

    /// By the word of the VM's runner.
    fn has_begun(&self) -> bool {
        let newest = self.lab.incarnations().pop().expect("the VM has an incarnation");
        let journal = Journal::parse(&fs::read(newest.journal()).unwrap_or_default());
        let is_it =
            |entry: &JournalEntry| matches!(entry, JournalEntry::Snapshot { phase, .. } if phase == "began");
        journal.lines.iter().any(|line| is_it(&line.entry))
    }

    /// Nothing of the snapshot is there.
    #[track_caller]
    fn expect_nothing(&self) {
        assert!(self.lab.snapshots("web").is_empty());
        assert_eq!(names(&self.directory), [""; 0], "nothing half made");
        let leaks = self.lab.doctor().leaks;
        assert!(leaks.is_empty(), "{leaks:?}");
    }

    /// The VM runs, its disk is whole, and the next snapshot is one.
    #[track_caller]
    fn expect_as_ever(&self) {
        let read = self.lab.call(&["vm", "exec", "web", "--", "cat", "/root/kept"]).within(SOON);
        read.run().expect_code(0).expect_stdout("kept\n");
        self.lab.snapshot("web", "before");
        assert!(self.lab.verified("web", 0)[0].whole);
    }
}

/// What lies among a VM's snapshots, whole or not.
fn names(directory: &VmDirectory) -> Vec<String> {
    let entries = fs::read_dir(directory.snapshots()).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_client_killed_in_a_snapshot_leaves_a_vm_that_runs_and_nothing_half_made() {
    on_lab(|lab| {
        let scene = Scene::set(lab);
        scene.begin().kill();
        // Whoever looks next removes it, and whoever still writes there writes to nobody.
        scene.expect_nothing();
        scene.vmm.signal(Signal::CONT);
        scene.expect_as_ever();
        assert!(!scene.runner.is_dead(), "it is the same incarnation");
    });
}

/// Its parts are there, and it is still no snapshot: the client dies while it reads them.
#[test]
fn a_client_killed_before_its_snapshot_has_its_name_leaves_none_or_a_whole_one() {
    on_lab(|lab| {
        let scene = Scene::set(lab);
        // Enough that reading it takes a while.
        lab.sh("web", "head -c 8000000 /dev/urandom > /run/ballast").expect_code(0);
        let taking = lab.call(&["vm", "snapshot", "web", "before"]).start();
        until("its memory is being written", SOON, || {
            let mut there =
                names(&scene.directory).into_iter().map(|name| scene.directory.snapshots().join(name));
            there.find(|path| path.join("machine").exists()).map(drop)
        });
        taking.kill();
        let left = lab.snapshots("web");
        assert!(lab.verified("web", 0).iter().all(|view| view.whole), "{left:?}");
        assert!(names(&scene.directory).iter().all(|name| name == "before"));
        if !left.is_empty() {
            lab.outlast(&["vm", "snapshots", "rm", "web", "before"]).expect_code(0);
        }
        scene.expect_as_ever();
    });
}

#[test]
fn a_runner_killed_in_a_snapshot_takes_its_vm_along_and_leaves_nothing_half_made() {
    on_lab(|lab| {
        let scene = Scene::set(lab);
        let taking = scene.begin();
        scene.runner.kill();
        taking.wait().expect_code(4).expect_stderr(&["web is not running", "runner killed"]);
        scene.expect_nothing();
        lab.start_vm("web");
        scene.expect_as_ever();
    });
}

#[test]
fn a_vmm_killed_in_a_snapshot_is_the_end_of_its_vm_and_leaves_nothing_half_made() {
    on_lab(|lab| {
        let scene = Scene::set(lab);
        let taking = scene.begin();
        scene.vmm.signal(Signal::KILL);
        taking.wait().expect_code(4).expect_stderr(&["web is not running", "VMM killed by signal 9"]);
        scene.expect_nothing();
        let death = lab.show_vm("web").summary.death.expect("a death certificate");
        assert_eq!((death.cause.as_str(), death.by.as_str()), ("vmm_signalled", "runner"));
        lab.start_vm("web");
        scene.expect_as_ever();
    });
}

#[test]
fn a_stop_during_a_snapshot_wins_and_leaves_nothing_half_made() {
    on_lab(|lab| {
        let scene = Scene::set(lab);
        let taking = scene.begin();
        let stopped: VmStoppedView =
            lab.call(&["vm", "stop", "--force", "--json", "web"]).within(SOON).run().expect_code(0).json();
        assert_eq!(stopped.rung.as_deref(), Some("kill"));
        taking.wait().expect_code(4).expect_stderr(&["web is not running", "stopped"]);
        scene.expect_nothing();
        lab.start_vm("web");
        scene.expect_as_ever();
    });
}

/// A snapshot that its runner cannot write fails, and the VM does not notice.
#[test]
fn a_snapshot_that_cannot_be_written_fails_and_the_vm_goes_on() {
    on_lab(|lab| {
        let scene = Scene::set(lab);
        let taking = scene.begin();
        for name in names(&scene.directory) {
            fs::remove_dir_all(scene.directory.snapshots().join(name)).unwrap();
        }
        scene.vmm.signal(Signal::CONT);
        let output = taking.wait();
        output.expect_code(4).expect_stderr(&["web:", ".new-"]);
        scene.expect_nothing();
        scene.expect_as_ever();
        assert!(!scene.runner.is_dead(), "it is the same incarnation");
    });
}

/// The VM is removed under the hands of whoever takes a snapshot of it.
#[test]
fn a_removal_during_a_snapshot_removes_that_too() {
    on_lab(|lab| {
        let scene = Scene::set(lab);
        let taking = scene.begin();
        lab.call(&["vm", "rm", "--force", "web"]).within(2 * SOON).run().expect_code(0);
        let output = taking.wait();
        assert!(matches!(output.code(), Some(3 | 4)), "{output}");
        assert!(!scene.directory.path().exists());
        assert!(lab.doctor().leaks.is_empty());
    });
}
