//! `vm cp`: files, directories and streams, in and out; whole or not at all; and a guest that is not to be trusted.

use outlast_e2e::{Lab, Setup, on_lab, until};
use outlast_wire::vm_live_view::VmCopyView;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

const SOON: Duration = Duration::from_secs(20);
const LONG_AGO: u64 = 1_000_000_000;

fn cp(lab: &Lab, from: impl AsRef<Path>, to: impl AsRef<Path>) -> outlast_e2e::Output {
    let word = |path: &Path| path.to_str().expect("paths of tests are text").to_owned();
    lab.outlast(&["vm", "cp", &word(from.as_ref()), &word(to.as_ref())])
}

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).expect("a directory of the test").flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[test]
fn files_and_directories_go_in_and_come_back_with_modes_and_times() {
    on_lab(|lab| {
        lab.running_vm("web");
        let data = lab.path("data");
        fs::create_dir_all(data.join("d")).unwrap();
        fs::write(data.join("d/big"), vec![b'x'; 3_000_000]).unwrap();
        fs::write(data.join("run.sh"), "echo ran").unwrap();
        symlink("d/big", data.join("link")).unwrap();
        fs::set_permissions(data.join("run.sh"), fs::Permissions::from_mode(0o751)).unwrap();
        let old = fs::File::open(data.join("run.sh")).unwrap();
        old.set_modified(UNIX_EPOCH + Duration::from_secs(LONG_AGO)).unwrap();
        cp(lab, &data, "web:/srv/").expect_code(0).expect_stdout("");
        let look =
            "cd /srv/data && stat -c '%a %Y %u %n' run.sh && readlink link && wc -c < d/big && sh run.sh";
        let expected = format!("751 {LONG_AGO} 0 run.sh\nd/big\n3000000\nran\n");
        lab.sh("web", look).expect_code(0).expect_stdout(&expected);
        lab.sh("web", "echo made there > /srv/data/new; chmod 4755 /srv/data/new").expect_code(0);
        let view: VmCopyView = lab
            .outlast(&["vm", "cp", "--json", "web:/srv/data", lab.path("back").to_str().unwrap()])
            .expect_code(0)
            .json();
        assert_eq!((view.files, view.direction.as_str(), view.left_out.len()), (Some(3), "out", 0));
        let back = lab.path("back");
        assert_eq!(names(&back), ["d", "link", "new", "run.sh"]);
        assert_eq!(fs::read(back.join("d/big")).unwrap(), fs::read(data.join("d/big")).unwrap());
        let status = |name: &str| {
            let status = fs::symlink_metadata(back.join(name)).unwrap();
            (status.mode() & 0o7777, status.mtime(), status.uid())
        };
        assert_eq!(status("run.sh"), (0o751, i64::try_from(LONG_AGO).unwrap(), 0));
        assert_eq!(status("new").0, 0o755, "a guest makes no setuid files on its host");
        // One file: under a name of its own, into a directory, over a file that is there.
        cp(lab, "web:/srv/data/new", lab.path("one")).expect_code(0);
        cp(lab, "web:/srv/data/new", back.join("d")).expect_code(0);
        cp(lab, data.join("run.sh"), "web:/srv/data/new").expect_code(0);
        lab.sh("web", "cat /srv/data/new").expect_stdout("echo ran");
        assert_eq!(fs::read_to_string(lab.path("one")).unwrap(), "made there\n");
        assert_eq!(names(&back.join("d")), ["big", "new"]);
        // What was copied survives the VM's death: it is on its disk when the copy says that it is done.
        lab.outlast(&["vm", "stop", "--force", "web"]).expect_code(0);
        lab.start_vm("web");
        lab.sh("web", "cat /srv/data/new").expect_stdout("echo ran");
    });
}

#[test]
fn a_tar_goes_through_standard_streams() {
    on_lab(|lab| {
        lab.running_vm("web");
        let made = lab.path("t");
        fs::create_dir(&made).unwrap();
        fs::write(made.join("a"), "a\n").unwrap();
        let tar =
            |arguments: &[&str]| Command::new("tar").current_dir(&made).args(arguments).output().unwrap();
        let packed = tar(&["c", "--owner=1000", "a"]).stdout;
        lab.call(&["vm", "cp", "-", "web:/srv"]).stdin(packed).run().expect_code(0);
        lab.sh("web", "cat /srv/a; stat -c %u /srv/a; ln -s /etc/passwd /srv/l").expect_stdout("a\n1000\n");
        let out = lab.outlast(&["vm", "cp", "web:/srv", "-"]);
        out.expect_code(0);
        let file = lab.file("out.tar", &out.stdout);
        let listed = tar(&["tf", file.to_str().unwrap()]);
        let listed = String::from_utf8(listed.stdout).unwrap();
        let mut listed: Vec<&str> = listed.lines().collect();
        listed.sort_unstable();
        assert_eq!(listed, ["srv/", "srv/a", "srv/l"], "links as they are");
        // Half a tar is none, and no tar is none.
        let half = &out.stdout[..1024];
        lab.call(&["vm", "cp", "-", "web:/opt"])
            .stdin(half)
            .run()
            .expect_code(1)
            .expect_stderr(&["too early"]);
        lab.call(&["vm", "cp", "-", "web:/opt"]).stdin("no tar").run().expect_code(1);
        lab.sh("web", "ls -A /opt").expect_stdout("");
    });
}

#[test]
fn what_cannot_be_copied_is_said_with_its_code_and_changes_nothing() {
    on_lab(|lab| {
        let file = lab.file("file", "x");
        cp(lab, &file, "nobody:/srv").expect_code(3).expect_stderr(&["nobody"]);
        lab.create_vm("web");
        cp(lab, &file, "web:/srv").expect_code(4).expect_stderr(&["not running"]);
        lab.start_vm("web");
        for (from, to, code, words) in [
            ("web:/absent", ".", 3, "there is no /absent"),
            ("web:/etc", file.to_str().unwrap(), 4, "not a directory"),
            ("web:/etc/passwd", "absent/x", 3, "absent"),
            ("absent", "web:/srv", 3, "absent"),
            (file.to_str().unwrap(), "web:/absent/x", 3, "/absent"),
            (file.to_str().unwrap(), "web:/etc/passwd/", 4, "not a directory"),
            ("web:/dev/null", ".", 4, "neither a file"),
            ("web:srv", ".", 2, "begins with /"),
            ("a", "b", 2, "neither"),
        ] {
            cp(lab, from, to).expect_code(code).expect_stderr(&[words]);
        }
        lab.outlast(&["vm", "pause", "web"]).expect_code(0);
        cp(lab, &file, "web:/srv").expect_code(4).expect_stderr(&["paused"]);
        assert_eq!(fs::read_to_string(&file).unwrap(), "x");
        assert_eq!(names(&lab.path("")), ["file"], "nothing of ours is left");
    });
}

/// The copy must not follow what the guest leaves, now or when it is made again.
#[test]
fn links_devices_and_names_of_a_guest_lead_nowhere() {
    on_lab(|lab| {
        lab.running_vm("web");
        let secret = lab.file("secret", "kept");
        let place = lab.path("place");
        fs::create_dir(&place).unwrap();
        let make = format!(
            "mkdir -p /srv/o/d && cd /srv/o && ln -s {} out && ln -s ../../x d/up && ln -s d/f in && \
             echo f > d/f && mknod null c 1 3 && mkfifo pipe && mkdir -p deep",
            secret.display()
        );
        lab.sh("web", &make).expect_code(0);
        let output = cp(lab, "web:/srv/o", &place);
        output.expect_code(0).expect_stderr(&["left out", "out", "up", "null", "pipe"]);
        assert_eq!(names(&place.join("o")), ["d", "deep", "in"]);
        assert_eq!(names(&place.join("o/d")), ["f"]);
        // A link that was ours, in the place of what comes: neither walked through nor written through.
        symlink(lab.path(""), place.join("o/trap")).unwrap();
        symlink(&secret, place.join("o/file")).unwrap();
        lab.sh("web", "cd /srv/o && mkdir trap && echo gone > trap/secret").expect_code(0);
        cp(lab, "web:/srv/o", &place).expect_code(4).expect_stderr(&["in the way"]);
        lab.sh("web", "cd /srv/o && rm -r trap && echo gone > file").expect_code(0);
        cp(lab, "web:/srv/o", &place).expect_code(0);
        assert_eq!(fs::read_to_string(&secret).unwrap(), "kept");
        assert_eq!(fs::read_to_string(place.join("o/file")).unwrap(), "gone\n");
        assert_eq!(names(&lab.path("")), ["place", "secret"]);
    });
}

#[test]
fn a_copy_that_is_cut_off_leaves_nothing_under_its_name() {
    on_lab(|lab| {
        lab.running_vm("web");
        // Without end: whoever copies it is always in the middle.
        lab.sh("web", "truncate -s 1T /srv/endless").expect_code(0);
        let copy = lab.path("copy");
        let line = ["vm", "cp", "web:/srv/endless", copy.to_str().unwrap()];
        let begun = || until("it has begun", SOON, || (!names(&lab.path("")).is_empty()).then_some(()));
        let mut call = lab.call(&line).start();
        begun();
        call.signal(Signal::INT);
        call.limit_from_now(SOON);
        call.wait().expect_code(1);
        assert_eq!(names(&lab.path("")), Vec::<String>::new(), "interrupted");
        // Nobody can tidy up after SIGKILL but whoever comes next.
        let call = lab.call(&line).start();
        begun();
        call.kill();
        assert!(!copy.exists());
        cp(lab, "web:/etc/hostname", &copy).expect_code(0);
        assert_eq!(names(&lab.path("")), ["copy"], "what it left is swept");
        // The VM dies.
        let (_runner, vmm) = lab.processes_of("web");
        let mut call = lab.call(&["vm", "cp", "web:/srv/endless", lab.path("c2").to_str().unwrap()]).start();
        until("it has begun", SOON, || (names(&lab.path("")).len() > 1).then_some(()));
        vmm.signal(Signal::KILL);
        call.limit_from_now(SOON);
        call.wait().expect_code(1).expect_stderr(&["not finished"]);
        assert_eq!(names(&lab.path("")), ["copy"]);
    });
}

#[test]
fn a_full_disk_on_either_side_is_said_and_leaves_nothing() {
    on_lab(|lab| {
        lab.running_vm("web");
        // The VM's disk has 64 MiB.
        let large = lab.file("large", vec![b'x'; 80 << 20]);
        let there = cp(lab, &large, "web:/srv/large");
        there.expect_code(1).expect_stderr(&["web", "No space left"]);
        lab.sh("web", "ls -A /srv").expect_stdout("");
        let small = lab.path("small");
        fs::create_dir(&small).unwrap();
        mount("tmpfs", &small, "tmpfs", MountFlags::empty(), Some(c"size=1m")).unwrap();
        lab.sh("web", "head -c 4000000 /dev/zero > /srv/four").expect_code(0);
        cp(lab, "web:/srv/four", small.join("four")).expect_code(1).expect_stderr(&["space"]);
        assert_eq!(names(&small), Vec::<String>::new());
        unmount(&small, UnmountFlags::DETACH).unwrap();
        // What has room is not filled to its end either: a guest's file is as long as the guest says.
        mount("tmpfs", &small, "tmpfs", MountFlags::empty(), Some(c"size=100m")).unwrap();
        lab.sh("web", "truncate -s 100G /srv/long").expect_code(0);
        let output = cp(lab, "web:/srv/long", small.join("long"));
        output.expect_code(1).expect_stderr(&["less than 64 MiB of space"]);
        assert_eq!(names(&small), Vec::<String>::new());
        unmount(&small, UnmountFlags::DETACH).unwrap();
        lab.sh("web", "true").expect_code(0);
    });
}

/// The first Ctrl-C is not the guest's to ignore: it is passed on to nobody.
#[test]
fn a_copy_ends_on_the_first_signal_whatever_the_guest_does() {
    on_lab(|lab| {
        lab.running_vm("web");
        lab.sh("web", "truncate -s 1T /srv/endless").expect_code(0);
        let mut call =
            lab.call(&["vm", "cp", "web:/srv/endless", lab.path("copy").to_str().unwrap()]).start();
        until("it has begun", SOON, || (!names(&lab.path("")).is_empty()).then_some(()));
        let stop = "cd /proc && for p in [0-9]*; do grep -aqs '/srv/endles[s]' $p/cmdline && kill -STOP $p \
                    && echo stopped; done; true";
        lab.sh("web", stop).expect_code(0).expect_stdout("stopped\n");
        call.signal(Signal::INT);
        call.limit_from_now(SOON);
        call.wait().expect_code(1).expect_stderr(&["interrupted"]);
        assert_eq!(names(&lab.path("")), Vec::<String>::new());
    });
}

/// Ctrl-Z at whoever takes a copy, or a slow line behind a pipe.
#[test]
fn a_reader_that_stands_still_holds_the_guest_up_and_fills_no_disk() {
    on_lab(|lab| {
        lab.running_vm("web");
        lab.sh("web", "truncate -s 1T /srv/endless").expect_code(0);
        let call = lab.call(&["vm", "cp", "web:/srv/endless", lab.path("copy").to_str().unwrap()]).start();
        until("it has begun", SOON, || (!names(&lab.path("")).is_empty()).then_some(()));
        call.signal(Signal::STOP);
        // Whatever the copy sends goes the same way, and would be there before the last of this is.
        let other = lab.sh("web", "head -c 40000000 /dev/zero");
        assert_eq!(other.expect_code(0).stdout.len(), 40_000_000);
        let logs =
            lab.incarnations().into_iter().flat_map(|evidence| (1..9).map(move |n| evidence.exec_log(n)));
        let kept: Vec<u64> =
            logs.filter_map(|log| fs::metadata(log).ok()).map(|status| status.blocks() * 512).collect();
        assert!(!kept.is_empty() && kept.iter().all(|kept| *kept < 16 << 20), "{kept:?}");
        call.kill();
    });
}

/// Nothing is renamed from one mount to another, which is no reason to stop half way.
#[test]
fn what_would_go_to_other_mounts_is_refused_before_anything_is_moved() {
    on_lab(|lab| {
        lab.running_vm("web");
        let tree = lab.path("tree");
        for (directory, name) in [("srv", "first"), ("run", "second"), ("zzz", "third")] {
            fs::create_dir_all(tree.join(directory)).unwrap();
            fs::write(tree.join(directory).join(name), "x").unwrap();
        }
        lab.sh("web", "grep -q ' /run ' /proc/self/mountinfo && mkdir /zzz").expect_code(0);
        cp(lab, tree.join("."), "web:/").expect_code(4).expect_stderr(&["/run", "mounted from elsewhere"]);
        lab.sh("web", "ls -A /srv /zzz").expect_stdout("/srv:\n\n/zzz:\n");
        // A file that is shown in the place of another.
        let place = lab.path("o");
        fs::create_dir(&place).unwrap();
        for name in ["a", "m", "z"] {
            fs::write(place.join(name), "old").unwrap();
        }
        let shown = lab.file("shown", "shown");
        mount_bind(&shown, place.join("m")).unwrap();
        lab.sh("web", "mkdir /srv/o && cd /srv/o && for n in a m z; do printf new > $n; done").expect_code(0);
        let refused = cp(lab, "web:/srv/o/.", &place);
        refused.expect_code(4).expect_stderr(&["o/m", "mounted from elsewhere"]);
        let content = |name: &str| fs::read_to_string(place.join(name)).unwrap();
        assert_eq!([content("a"), content("m"), content("z")], ["old", "shown", "old"]);
        unmount(place.join("m"), UnmountFlags::DETACH).unwrap();
        cp(lab, "web:/srv/o/.", &place).expect_code(0);
        assert_eq!([content("a"), content("m"), content("z")], ["new", "new", "new"]);
    });
}

/// What programs of a guest may write is limited; a copy is not, and takes no more of the host's disk than itself.
#[test]
fn a_copy_may_be_larger_than_what_is_kept_of_a_programs_output() {
    Setup::new().home_of_size("128m").run(|lab| {
        lab.running_vm("web");
        let line = "truncate -s 120M /srv/sparse; echo end >> /srv/sparse";
        lab.sh("web", line).expect_code(0);
        cp(lab, "web:/srv/sparse", lab.path("sparse")).expect_code(0);
        assert_eq!(fs::metadata(lab.path("sparse")).unwrap().len(), (120 << 20) + 4);
    });
}
