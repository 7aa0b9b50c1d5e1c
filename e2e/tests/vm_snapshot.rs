//! Snapshots of VMs on real machines: what comes back, what is refused, what a snapshot leaves as it was.

use outlast_e2e::file::sha256;
use outlast_e2e::{Lab, Setup, on_lab};
use outlast_wire::paths::SnapshotDirectory;
use outlast_wire::snapshot::SnapshotManifest;
use outlast_wire::view::ErrorView;
use outlast_wire::vm_live_view::VmStateView;
use outlast_wire::vm_snapshot_view::{SnapshotRemovedView, SnapshotVerifiedView};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// One line of a shell's output in a VM.
#[track_caller]
fn line(lab: &Lab, name: &str, command: &str) -> String {
    let call = lab.call(&["vm", "exec", "--timeout", "30s", name, "--", "sh", "-c", command]);
    call.run().expect_code(0).stdout_text().trim().to_owned()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// Changes one bit.
fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("a part is there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte is there");
    file.write_all_at(&[byte[0] ^ 0x04], at).expect("root may write");
}

fn length(path: &Path) -> u64 {
    path.metadata().expect("it is there").len()
}

#[track_caller]
fn stop(lab: &Lab, name: &str) {
    lab.outlast(&["vm", "stop", "--force", name]).expect_code(0);
}

#[test]
fn memory_and_disk_are_what_they_were_and_the_vm_lives_as_ever() {
    on_lab(|lab| {
        lab.running_vm("web");
        lab.sh("web", "echo old > /root/kept; echo memory > /run/mark; sync").expect_code(0);
        // A number that is nowhere but in a program's memory, told when it is asked for.
        let counter = "n=0; while :; do if [ -e /run/ask ]; then \
                       rm /run/ask; n=$((n+1)); echo $n > /run/new; mv /run/new /run/told; fi; sleep 0.02; done";
        lab.outlast(&["vm", "exec", "--detach", "web", "--", "sh", "-c", counter]).expect_code(0);
        let count = || {
            let ask =
                "rm -f /run/told; touch /run/ask; until [ -e /run/told ]; do sleep 0.02; done; cat /run/told";
            line(lab, "web", ask).parse::<u32>().expect("a number")
        };
        assert_eq!((count(), count()), (1, 2));
        let taken = lab.snapshot("web", "before");
        assert!(taken.paused_us > 0 && taken.snapshot.bytes > 1 << 20, "{taken:?}");
        assert_eq!((taken.vm_name.as_str(), taken.snapshot.state.as_str()), ("web", "ready"));

        // The VM itself goes on.
        assert_eq!(count(), 3);
        lab.sh("web", "echo new > /root/kept; echo later > /root/later; rm /run/mark; sync").expect_code(0);
        stop(lab, "web");

        let restored = lab.restore("web", "before");
        assert_eq!(restored.restored_from, "before");
        assert_eq!(restored.started.started_from.as_deref(), Some("restore"));
        assert_eq!(restored.started.certificate.expect("it is certified").host_name, "web");
        assert_eq!(line(lab, "web", "cat /run/mark /root/kept; ls /root"), "memory\nold\nkept");
        assert_eq!(count(), 3, "the program goes on where it was");
        let view = lab.show_vm("web");
        assert_eq!(view.incarnations[0].restored_from.as_deref(), Some("before"));
        assert_eq!(view.incarnations[1].restored_from, None);
        assert_eq!(view.snapshots.len(), 1);
        let text = lab.outlast(&["vm", "show", "web"]).expect_code(0).stdout_text();
        assert!(text.contains("restored from before") && text.contains("snapshots"), "{text}");

        // It lives as ever: what is written now is there after a restart, which is another boot.
        lab.sh("web", "echo newest > /root/kept; sync").expect_code(0);
        lab.outlast(&["vm", "stop", "web"]).expect_code(0);
        lab.start_vm("web");
        assert_eq!(line(lab, "web", "cat /root/kept; ls /root"), "newest\nkept");
        lab.sh("web", "test -e /run/mark").expect_code(1);
        lab.outlast(&["vm", "stop", "web"]).expect_code(0);
        lab.restore("web", "before");
        assert_eq!(line(lab, "web", "cat /run/mark /root/kept"), "memory\nold", "as often as one likes");
        let disks = fs::read_dir(lab.directory_of("web").path()).unwrap().flatten();
        let disks: Vec<_> = disks.map(|entry| entry.file_name()).collect();
        assert_eq!(disks.len(), 2, "one disk, and the snapshots: {disks:?}");
    });
}

#[test]
fn two_restores_of_one_snapshot_have_fresh_randomness_their_own_names_and_the_right_time() {
    on_lab(|lab| {
        lab.running_vm("web");
        let identity = "cat /etc/machine-id /etc/hostname /proc/sys/kernel/hostname";
        let mine = line(lab, "web", identity);
        // The clock of what is saved is wrong, by more than an age of the snapshot could make it.
        for (name, away) in [("slow", -3600i64), ("fast", 3600)] {
            lab.sh("web", &format!("date -s @$(($(date +%s) + {away}))")).expect_code(0);
            lab.snapshot("web", name);
            let told: u64 = line(lab, "web", "date +%s").parse().unwrap();
            assert!(now().abs_diff(told) <= 2, "the VM that goes on is certified, too");
        }
        let mut random = Vec::new();
        for name in ["slow", "slow", "fast", "fast"] {
            stop(lab, "web");
            let restored = lab.restore("web", name);
            let certificate = restored.started.certificate.expect("it is certified");
            assert!(certificate.entropy_bytes >= 32, "{certificate:?}");
            assert!(certificate.clock_offset_ns.iter().all(|ns| ns.unsigned_abs() <= 50_000_000));
            let told: u64 = line(lab, "web", "date +%s").parse().unwrap();
            assert!(now().abs_diff(told) <= 2, "{name}: {told} and not {}", now());
            random.push(line(lab, "web", "cat /proc/sys/kernel/random/uuid"));
            random.push(line(lab, "web", "od -An -tx1 -N16 /dev/urandom"));
            assert_eq!(line(lab, "web", identity), mine);
        }
        let different: std::collections::BTreeSet<_> = random.iter().collect();
        assert_eq!(different.len(), random.len(), "{random:?}");
    });
}

#[test]
fn a_flipped_byte_in_any_part_is_found_and_named_and_nothing_is_done() {
    on_lab(|lab| {
        lab.running_vm("web");
        lab.snapshot("web", "before");
        lab.sh("web", "echo now > /root/now; sync").expect_code(0);
        lab.outlast(&["vm", "stop", "web"]).expect_code(0);
        let parts = lab.snapshot_directory("web", "before");
        let incarnations = lab.show_vm("web").incarnations.len();
        for (part, path) in
            [("manifest", parts.manifest()), ("machine", parts.machine()), ("disk", parts.disk())]
        {
            let end = length(&path) - 1;
            // Of the machine: its head, memory, and the devices, which come last.
            for at in [0, 5, end / 4, end / 2, end / 4 * 3, end - 2000.min(end), end] {
                flip(&path, at);
                let view: ErrorView =
                    lab.outlast(&["vm", "restore", "--json", "web", "before"]).expect_code(1).json();
                let said = format!("is damaged: its {part}");
                assert!(view.error.message.contains(&said), "byte {at} of {part}: {view:?}");
                let verified = lab.verified("web", 1);
                assert_eq!(verified[0].part.as_deref(), Some(part), "byte {at}: {verified:?}");
                flip(&path, at);
            }
        }
        let view = lab.show_vm("web");
        assert_eq!((view.summary.state.as_str(), view.incarnations.len()), ("stopped", incarnations));
        let verified: Vec<SnapshotVerifiedView> = lab.verified("web", 0);
        assert!(verified[0].whole && verified[0].bytes == length(&parts.machine()) + length(&parts.disk()));

        // A part that is not there, or not a file, is no better. It is said without reading the rest.
        fs::rename(parts.disk(), lab.path("away")).unwrap();
        std::os::unix::fs::symlink(lab.path("away"), parts.disk()).unwrap();
        let output = lab.outlast(&["vm", "restore", "web", "before"]);
        output.expect_code(1).expect_stderr(&["its disk", "no regular file"]);
        assert_eq!(lab.snapshots("web")[0].state, "damaged");
        fs::remove_file(parts.disk()).unwrap();
        lab.outlast(&["vm", "restore", "web", "before"])
            .expect_code(1)
            .expect_stderr(&["its disk", "not there"]);
        fs::rename(lab.path("away"), parts.disk()).unwrap();

        // What was never the snapshot's fault is as it was.
        lab.start_vm("web");
        lab.sh("web", "cat /root/now").expect_code(0).expect_stdout("now\n");
        lab.outlast(&["vm", "restore", "--force", "web", "before"]).expect_code(0);
        lab.sh("web", "test -e /root/now").expect_code(1);
    });
}

/// What makes a manifest say something else.
type Change = fn(&mut SnapshotManifest);

/// Writes a manifest anew that says something else, with a checksum that is right.
fn rewrite(parts: &SnapshotDirectory, change: impl FnOnce(&mut SnapshotManifest)) {
    let text = fs::read(parts.manifest()).expect("a manifest is there");
    let mut manifest = SnapshotManifest::parse(&text, sha256).expect("it is one");
    change(&mut manifest);
    let text = manifest.encode(sha256).expect("it can be written");
    fs::write(parts.manifest(), text).expect("root may write");
}

#[test]
fn what_is_not_this_vms_or_does_not_fit_it_any_more_is_refused_with_what_differs() {
    on_lab(|lab| {
        lab.running_vm("web");
        lab.snapshot("web", "before");
        stop(lab, "web");
        lab.create_vm("other");
        let from = lab.snapshot_directory("web", "before");
        let to = lab.snapshot_directory("other", "before");
        fs::create_dir_all(to.path()).unwrap();
        for (from, to) in
            [(from.machine(), to.machine()), (from.disk(), to.disk()), (from.manifest(), to.manifest())]
        {
            fs::copy(from, to).unwrap();
        }
        let id = lab.show_vm("web").summary.id;
        lab.outlast(&["vm", "restore", "other", "before"])
            .expect_code(4)
            .expect_stderr(&["not one of other", &id]);
        assert_eq!(lab.show_vm("other").summary.state, "created");

        let kept = fs::read(from.manifest()).unwrap();
        let changes: [(Change, &str); 5] = [
            (|manifest| manifest.machine.vmm_digest = "ab".repeat(32), "its VMM is another one"),
            (|manifest| manifest.machine.accelerator = "kvm".to_owned(), "accelerator is another one"),
            (|manifest| manifest.machine.initramfs_digest = "cd".repeat(32), "its agent is another build"),
            (|manifest| manifest.machine.topology.push('x'), "its devices are other ones"),
            (|manifest| manifest.machine.memory *= 2, "another amount of memory"),
        ];
        for (change, said) in changes {
            rewrite(&from, change);
            lab.outlast(&["vm", "restore", "web", "before"]).expect_code(4).expect_stderr(&[said]);
            fs::write(from.manifest(), &kept).unwrap();
        }
        // A VM that lives is not killed for one that cannot be restored.
        lab.start_vm("web");
        let (runner, _) = lab.processes_of("web");
        rewrite(&from, |manifest| manifest.machine.vmm_digest = "ab".repeat(32));
        lab.outlast(&["vm", "restore", "--force", "web", "before"]).expect_code(4);
        assert!(!runner.is_dead());
        fs::write(from.manifest(), &kept).unwrap();
    });
}

/// Its checksums are right, and its VMM makes nothing of it: that is no reason to boot.
#[test]
fn a_machine_that_its_vmm_cannot_read_fails_the_start_and_the_vm_has_the_disk_it_had() {
    on_lab(|lab| {
        lab.running_vm("web");
        lab.snapshot("web", "before");
        lab.sh("web", "echo now > /root/now; sync").expect_code(0);
        lab.outlast(&["vm", "stop", "web"]).expect_code(0);
        let parts = lab.snapshot_directory("web", "before");
        let mut machine = fs::read(parts.machine()).unwrap();
        let middle = machine.len() / 2;
        machine.truncate(middle);
        fs::write(parts.machine(), &machine).unwrap();
        rewrite(&parts, |manifest| {
            manifest.machine_part.sha256 = sha256(&machine);
            manifest.machine_part.bytes = u64::try_from(machine.len()).unwrap();
        });
        assert!(lab.verified("web", 0)[0].whole);
        let output = lab.outlast(&["vm", "restore", "web", "before"]);
        output.expect_code(1).expect_stderr(&["web did not start", "start-guest"]);
        let view = lab.show_vm("web");
        assert_eq!(view.summary.state, "failed");
        assert_eq!(view.summary.failed_start.expect("step and cause").step, "start-guest");
        lab.start_vm("web");
        lab.sh("web", "cat /root/now").expect_code(0).expect_stdout("now\n");
    });
}

#[test]
fn a_vm_that_was_paused_stays_paused_and_one_taken_of_it_runs() {
    on_lab(|lab| {
        lab.running_vm("web");
        lab.sh("web", "echo memory > /run/mark").expect_code(0);
        lab.outlast(&["vm", "pause", "web"]).expect_code(0);
        let taken = lab.snapshot("web", "before");
        assert_eq!(taken.paused_us, 0, "nothing stood still because of it");
        assert_eq!(lab.show_vm("web").summary.state, "paused");
        let resumed: VmStateView = lab.outlast(&["vm", "resume", "--json", "web"]).expect_code(0).json();
        assert!(!resumed.already);
        lab.sh("web", "rm /run/mark").expect_code(0);
        let output = lab.outlast(&["vm", "restore", "--force", "web", "before"]);
        assert!(
            output.expect_code(0).stdout_text().starts_with("web runs, restored from before in "),
            "{output}"
        );
        assert_eq!(lab.show_vm("web").summary.state, "running");
        assert_eq!(line(lab, "web", "cat /run/mark"), "memory");
    });
}

#[test]
fn programs_that_run_during_a_snapshot_do_not_notice_it() {
    on_lab(|lab| {
        lab.running_vm("web");
        let counter = "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); sleep 0.02; done";
        let mut attached = lab.call(&["vm", "exec", "web", "--", "sh", "-c", counter]).start();
        attached.line(3, std::time::Duration::from_secs(20));
        for name in ["one", "two", "three"] {
            lab.snapshot("web", name);
        }
        let lines: Vec<String> = (0..200).map(|number| format!("line {number}")).collect();
        attached.wait().expect_code(0).expect_stdout(&(lines.join("\n") + "\n"));
        let names: Vec<String> = lab.snapshots("web").into_iter().map(|view| view.name).collect();
        assert_eq!(names, ["three", "two", "one"], "newest first");
        let removed: SnapshotRemovedView =
            lab.outlast(&["vm", "snapshots", "rm", "--json", "web", "two"]).expect_code(0).json();
        assert_eq!(removed.removed, "two");
        assert!(lab.verified("web", 0).iter().all(|view| view.whole));
        assert_eq!(lab.snapshots("web").len(), 2);
        // The name is free again.
        lab.snapshot("web", "two");
    });
}

#[test]
fn a_disk_in_qemus_own_format_comes_back_too() {
    on_lab(|lab| {
        let line = "vm create web --image base --memory 128M --disk 64M --disk-format qcow2";
        lab.outlast(&line.split(' ').collect::<Vec<_>>()).expect_code(0);
        lab.start_vm("web");
        lab.sh("web", "head -c 3000000 /dev/urandom > /root/data; sha256sum /root/data > /root/sum; sync")
            .expect_code(0);
        lab.snapshot("web", "before");
        lab.sh("web", "head -c 5000000 /dev/urandom > /root/data; sync").expect_code(0);
        stop(lab, "web");
        lab.restore("web", "before");
        lab.sh(
            "web",
            "sha256sum -c /root/sum && echo 3 > /proc/sys/vm/drop_caches && sha256sum -c /root/sum",
        )
        .expect_code(0);
        lab.outlast(&["vm", "stop", "web"]).expect_code(0);
        lab.start_vm("web");
        lab.sh("web", "sha256sum -c /root/sum").expect_code(0);
    });
}

#[test]
fn bad_wishes_about_snapshots_are_refused_by_name_and_leave_nothing() {
    on_lab(|lab| {
        lab.create_vm("web");
        let snapshot = |name: &str| lab.outlast(&["vm", "snapshot", "web", name]);
        snapshot("before").expect_code(4).expect_stderr(&["web is not running (it was never started)"]);
        lab.start_vm("web");
        for bad in ["Before", "a_b", "a.b", "../x", "x-", ""] {
            snapshot(bad).expect_code(2).expect_stderr(&["is not a name"]);
        }
        lab.outlast(&["vm", "snapshot", "wbe", "x"]).expect_code(3).expect_stderr(&["is web meant?"]);
        lab.snapshot("web", "before");
        snapshot("before").expect_code(4).expect_stderr(&["web has a snapshot 'before' already"]);
        for line in ["vm restore web befor", "vm snapshots rm web befor", "vm snapshots verify web befor"] {
            let output = lab.outlast(&line.split(' ').collect::<Vec<_>>());
            output.expect_code(3).expect_stderr(&["web has no snapshot 'befor'", "is before meant?"]);
        }
        lab.outlast(&["vm", "restore", "web", "before"]).expect_code(4).expect_stderr(&[
            "web is running",
            "--force",
            "outlast vm stop web",
        ]);
        lab.outlast(&["vm", "pause", "web"]).expect_code(0);
        lab.outlast(&["vm", "restore", "web", "before"]).expect_code(4).expect_stderr(&["web is paused"]);
        stop(lab, "web");
        snapshot("after").expect_code(4).expect_stderr(&["web is not running"]);
        assert_eq!(lab.snapshots("web").len(), 1);
        let text = lab.outlast(&["vm", "snapshots", "ls", "web"]).expect_code(0).stdout_text();
        assert!(text.contains("before") && text.contains("ready"), "{text}");
        let beside = fs::read_dir(lab.directory_of("web").snapshots()).unwrap().count();
        assert_eq!(beside, 1, "what was refused made nothing");
    });
}

#[test]
fn a_home_without_room_for_a_snapshot_says_how_much_it_has_and_needs() {
    Setup::new().home_of_size("180m").run(|lab| {
        lab.running_vm("web");
        lab.outlast(&["vm", "snapshot", "web", "before"]).expect_code(6).expect_stderr(&[
            "MiB free",
            "memory of 128 MiB and a disk of",
            "may take",
        ]);
        assert!(lab.snapshots("web").is_empty());
        lab.outlast(&["vm", "ping", "web"]).expect_code(0);
    });
}
