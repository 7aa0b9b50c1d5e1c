//! What a VM keeps and what becomes of it: its disk, its names, its states, its removal.

use outlast_e2e::{Setup, on_lab, until};
use outlast_prove::FaultPoint;
use outlast_wire::view::ErrorView;
use outlast_wire::vm_live_view::{VmStateView, VmStatsView};
use outlast_wire::vm_view::{VmRemovedView, VmSpecView, VmStoppedView, VmSummary};
use rustix::process::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(30);

#[test]
fn what_is_written_to_the_root_survives_restarts_and_deaths() {
    on_lab(|lab| {
        for (name, format) in [("rawvm", "raw"), ("qcowvm", "qcow2")] {
            let line = [
                "vm",
                "create",
                name,
                "--image",
                "base",
                "--memory",
                "128M",
                "--disk",
                "64M",
                "--disk-format",
                format,
            ];
            lab.outlast(&line).expect_code(0).expect_stdout(&format!("{name}\n"));
            lab.start_vm(name);
            lab.sh(name, "mkdir -p /srv/data && echo kept > /srv/data/file && sync").expect_code(0);
            lab.outlast(&["vm", "stop", name]).expect_code(0);
            lab.start_vm(name);
            lab.sh(name, "cat /srv/data/file").expect_code(0).expect_stdout("kept\n");
            lab.sh(name, "echo again >> /srv/data/file && sync").expect_code(0);
            lab.processes_of(name).0.kill();
            lab.start_vm(name);
            lab.sh(name, "cat /srv/data/file").expect_code(0).expect_stdout("kept\nagain\n");
        }
    });
}

#[test]
fn every_start_has_its_machine_id_its_name_the_right_time_and_fresh_randomness() {
    on_lab(|lab| {
        lab.running_vm("web");
        let ask = || {
            let output = lab.sh(
                "web",
                "cat /etc/machine-id; cat /etc/hostname; cat /proc/sys/kernel/random/uuid; date +%s",
            );
            output.expect_code(0).stdout_text().lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let first = ask();
        lab.outlast(&["vm", "stop", "web"]).expect_code(0);
        lab.start_vm("web");
        let second = ask();
        assert_eq!((&first[0], &first[1]), (&second[0], &second[1]), "it is the same machine");
        assert_eq!(second[1], "web");
        assert_ne!(first[2], second[2], "its randomness is new");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!(now.abs_diff(second[3].parse().unwrap()) <= 2);
    });
}

#[test]
fn a_vm_is_created_shown_and_removed_whole() {
    on_lab(|lab| {
        let created = lab.create_vm("web");
        assert_eq!(
            (created.name.as_str(), created.state.as_str(), created.spec.memory),
            ("web", "created", 128 << 20)
        );
        let view = lab.show_vm("web");
        assert!(Path::new(&view.directory).join("disk").exists());
        let spec: VmSpecView = lab.outlast(&["vm", "show", "--spec", "--json", "web"]).expect_code(0).json();
        assert_eq!(
            (spec.origins["memory"].as_str(), spec.origins["vcpus"].as_str()),
            ("command line", "default")
        );
        lab.start_vm("web");
        let text = lab.outlast(&["vm", "show", "web"]).expect_code(0).stdout_text();
        for word in ["running", "certificate", "agent-hello", "settle", "publish", "runner"] {
            assert!(text.contains(word), "'{word}' is missing in\n{text}");
        }
        lab.outlast(&["vm", "rm", "web"]).expect_code(4).expect_stderr(&["web is running", "--force"]);
        let removed: VmRemovedView =
            lab.outlast(&["vm", "rm", "--force", "--json", "web"]).expect_code(0).json();
        assert_eq!((removed.removed.as_str(), removed.kept), ("web", None));
        assert!(!Path::new(&view.directory).exists() && lab.vms().is_empty());
        // What is kept of it is shown by its name, and by its id once the name is another's.
        assert!(lab.show_vm("web").removed_unix_ns.is_some());
        lab.create_vm("web");
        assert!(lab.show_vm("web").removed_unix_ns.is_none());
        let death = lab.show_vm(&removed.id).summary.death.expect("a death certificate");
        assert_eq!(death.cause, "stopped");
    });
}

#[test]
fn a_disk_that_is_to_be_kept_is_kept() {
    on_lab(|lab| {
        lab.create_vm("web");
        let removed: VmRemovedView =
            lab.outlast(&["vm", "rm", "--keep-disks", "--json", "web"]).expect_code(0).json();
        let disk = removed.kept.expect("a path");
        assert!(Path::new(&disk).exists());
        assert!(lab.doctor().leaks.is_empty(), "what was to be kept is no leak");
        std::fs::remove_dir_all(Path::new(&disk).parent().unwrap()).unwrap();
    });
}

#[test]
fn bad_input_is_refused_by_name_and_leaves_nothing() {
    on_lab(|lab| {
        let create = |words: &[&str]| lab.outlast(&[&["vm", "create"], words].concat());
        let long = "x".repeat(64);
        for name in ["Web", "-web", "web-", "we_b", "", long.as_str()] {
            lab.outlast(&["vm", "create", "--image", "base", "--", name])
                .expect_code(2)
                .expect_stderr(&["is not a name"]);
        }
        create(&["web", "--image", "nonsense"]).expect_code(3).expect_stderr(&["nonsense"]);
        create(&["web", "--image", "base", "--memory", "1M"]).expect_code(2).expect_stderr(&["1M", "base"]);
        create(&["web", "--image", "base", "--memory", "100T"])
            .expect_code(6)
            .expect_stderr(&["this host has"]);
        create(&["web", "--image", "base", "--disk", "-1G"])
            .expect_code(2)
            .expect_stderr(&["disk.size", "-1G"]);
        create(&["web", "--image", "base", "--disk", "1M"]).expect_code(2).expect_stderr(&["64M"]);
        create(&["web", "--image", "base", "--disk", "17T"]).expect_code(2).expect_stderr(&["16T"]);
        create(&["web", "--image", "base", "--disk", "16T"]).expect_code(6).expect_stderr(&["free"]);
        assert!(lab.vms().is_empty());
        lab.create_vm("database");
        lab.create_vm("web");
        create(&["web", "--image", "base"]).expect_code(4).expect_stderr(&["there is a VM 'web' already"]);
        for command in ["start", "stop", "rm", "show", "ping", "stats", "console", "logs", "pause", "resume"]
        {
            let output = lab.outlast(&["vm", command, "wbe"]);
            output.expect_code(3).expect_stderr(&["there is no VM 'wbe'", "is web meant?"]);
        }
        lab.outlast(&["vm", "exec", "databse", "--", "ls"])
            .expect_code(125)
            .expect_stderr(&["is database meant?"]);
        let view: ErrorView = lab.outlast(&["vm", "ping", "--json", "wbe"]).expect_code(3).json();
        assert_eq!(view.error.kind, "not_found");
        assert_eq!(
            lab.vms().iter().map(|vm: &VmSummary| vm.state.as_str()).collect::<Vec<_>>(),
            ["created", "created"]
        );
    });
}

#[test]
fn a_vm_is_paused_and_goes_on() {
    on_lab(|lab| {
        lab.running_vm("web");
        let state = |command: &str| -> VmStateView {
            lab.outlast(&["vm", command, "--json", "web"]).expect_code(0).json()
        };
        let paused = state("pause");
        assert_eq!((paused.state.as_str(), paused.already), ("paused", false));
        assert!(state("pause").already);
        assert_eq!(lab.show_vm("web").summary.state, "paused");
        lab.outlast(&["vm", "start", "web"])
            .expect_code(4)
            .expect_stderr(&["paused", "outlast vm resume web"]);
        let output = lab.outlast(&["vm", "monitor", "web", "query-status"]);
        assert!(output.expect_code(0).stdout_text().contains("paused"), "{output}");
        assert!(!state("resume").already);
        lab.sh("web", "echo back").expect_code(0).expect_stdout("back\n");
        state("pause");
        let stopped: VmStoppedView = lab.outlast(&["vm", "stop", "--json", "web"]).expect_code(0).json();
        assert_eq!(stopped.rung.as_deref(), Some("agent"), "a paused one is stopped like any other");
    });
}

#[test]
fn what_a_vm_uses_is_told() {
    on_lab(|lab| {
        lab.running_vm("web");
        let (runner, vmm) = lab.processes_of("web");
        let view: VmStatsView = lab.outlast(&["vm", "stats", "--json", "web"]).expect_code(0).json();
        let (told_vmm, told_runner) = (view.vmm.unwrap(), view.runner.unwrap());
        assert_eq!((told_vmm.pid, told_runner.pid), (vmm.pid(), runner.pid()));
        assert!(told_vmm.resident_bytes > 1 << 20 && told_vmm.cpu_ms > 0, "{told_vmm:?}");
        assert_eq!(view.disk.unwrap().size, 64 << 20);
    });
}

#[test]
fn a_runner_that_stands_still_does_not_keep_its_vm_from_being_stopped() {
    on_lab(|lab| {
        lab.running_vm("web");
        let (runner, vmm) = lab.processes_of("web");
        runner.signal(Signal::STOP);
        let began = Instant::now();
        lab.outlast(&["vm", "stop", "web"]).expect_code(0);
        assert!(began.elapsed() < SOON);
        assert!(runner.is_dead() && vmm.is_dead());
        assert_eq!(lab.show_vm("web").summary.state, "stopped");
    });
}

#[test]
fn a_vmm_that_stands_still_is_stopped_by_a_later_rung() {
    on_lab(|lab| {
        lab.running_vm("web");
        let (_, vmm) = lab.processes_of("web");
        vmm.signal(Signal::STOP);
        let stopped: VmStoppedView =
            lab.outlast(&["vm", "stop", "--timeout", "4s", "--json", "web"]).expect_code(0).json();
        assert_eq!(stopped.rung.as_deref(), Some("kill"), "{stopped:?}");
    });
}

#[test]
fn a_guest_that_powers_itself_off_is_told_from_one_that_was_stopped() {
    on_lab(|lab| {
        lab.running_vm("web");
        lab.sh("web", "echo o > /proc/sysrq-trigger; sleep 60").expect_code(125);
        let view = lab.until_vm("web", "stopped");
        assert_eq!(view.summary.death.expect("a death certificate").cause, "guest_shutdown");
        lab.start_vm("web");
    });
}

#[test]
fn a_stop_during_a_start_ends_it_and_the_next_start_works() {
    Setup::new().marked_for_proofs().run(|lab| {
        lab.create_vm("web");
        let start = lab.call(&["vm", "start", "web"]).env("OUTLAST_HOLD", "certify:before").start();
        lab.until_held(FaultPoint::named("certify:before").expect("a fault point"));
        lab.outlast(&["vm", "exec", "web", "--", "true"])
            .expect_code(125)
            .expect_stderr(&["web is starting"]);
        lab.call(&["vm", "stop", "web"]).within(SOON).run().expect_code(0);
        start.wait().expect_code(4).expect_stderr(&["web was started and has ended"]);
        assert_eq!(lab.show_vm("web").summary.state, "stopped");
        assert!(!lab.start_vm("web").already);
    });
}

#[test]
fn a_start_that_fails_says_step_and_cause_and_the_next_one_works() {
    Setup::new().marked_for_proofs().run(|lab| {
        lab.create_vm("web");
        let start = lab.call(&["vm", "start", "web"]).env("OUTLAST_HOLD", "settle:before").start();
        lab.until_held(FaultPoint::named("settle:before").expect("a fault point"));
        lab.runner().kill();
        start.wait().expect_code(1).expect_stderr(&["web did not start", "settle", "its runner died"]);
        let view = lab.show_vm("web");
        assert_eq!(view.summary.state, "failed");
        assert_eq!(view.summary.failed_start.expect("step and cause").step, "settle");
        assert!(!lab.start_vm("web").already);
        until("it answers", SOON, || (lab.outlast(&["vm", "ping", "web"]).code() == Some(0)).then_some(()));
    });
}

/// A lock around the command, say: it must not live as long as the VM.
#[test]
fn a_vm_holds_nothing_open_that_its_callers_had_open() {
    on_lab(|lab| {
        lab.running_vm("web");
        lab.outlast(&["vm", "stop", "web"]).expect_code(0);
        let lock = lab.home().join("callers-lock");
        let outlast = lab.binaries().join("outlast");
        let script = format!("exec 9>{}; exec {} vm start web", lock.display(), outlast.display());
        lab.call_through("sh", &["-c", &script]).run().expect_code(0);
        let (runner, vmm) = lab.processes_of("web");
        for process in [&runner, &vmm] {
            let open = open_files(process.pid());
            assert!(!open.is_empty() && !open.contains(&lock), "{open:?}");
        }
        fs::remove_file(&lock).expect("it was made");
    });
}

fn open_files(pid: u32) -> Vec<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives");
    entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
}
