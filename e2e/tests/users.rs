//! Ordinary users: the same runs with no root, beside each other, with the images that root has built.

use outlast_e2e::{Lab, Setup, process};
use outlast_wire::view::{CheckView, DoctorView, WorkloadView};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

const NOBODY: u32 = 65_534;
const SOMEBODY: u32 = 65_531;
const SLEEP: &str = "import time; print('up', flush=True); time.sleep(600)";
const SOON: Duration = Duration::from_secs(60);

#[track_caller]
fn as_nobody(body: impl FnOnce(&Lab)) {
    Setup::new().as_user(NOBODY).run(body);
}

/// Everything below a directory that a change of anything would change.
fn facts(directory: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for path in fs::read_dir(&next).expect("it can be listed").flatten().map(|entry| entry.path()) {
            let stat = fs::symlink_metadata(&path).expect("it can be looked at");
            let times = (stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec());
            let what = format!("{:o} {} {} {} {times:?}", stat.mode(), stat.uid(), stat.ino(), stat.len());
            if stat.is_dir() {
                open.push(path.clone());
            }
            found.insert(path, what);
        }
    }
    found
}

#[test]
fn the_runs_of_an_ordinary_user_are_runs_like_any_other_and_change_nothing_of_roots() {
    as_nobody(|lab| {
        let before = facts(lab.read_library());
        assert!(!before.is_empty());
        assert_eq!(lab.python("print('hello')", &[]).run().expect_code(0).stdout_text(), "hello\n");
        let view = lab.show(&lab.only_workload().id);
        assert_eq!(view.started_from.as_deref(), Some("clone"), "{view:#?}");
        assert_eq!(lab.templates().len(), 1, "the template is the user's own");
        lab.python("import sys; sys.exit(3)", &[]).run().expect_code(3);
        lab.python("import os; os.kill(os.getpid(), 11)", &[]).run().expect_code(139);
        lab.python(SLEEP, &["--timeout", "2s"]).run().expect_code(124);
        let id = lab.detached_python(SLEEP);
        outlast_e2e::until("it says that it is up", SOON, || {
            lab.outlast(&["logs", &id]).expect_code(0).stdout_text().contains("up").then_some(())
        });
        let (runner, here) = (lab.runner(), "of the user and of nobody else");
        for process in [runner.status("Uid"), lab.vmm(&runner).status("Uid")] {
            let uids = process.expect("it lives");
            assert!(uids.split_whitespace().all(|uid| uid == NOBODY.to_string()), "{here}: {uids}");
        }
        lab.outlast(&["kill", &id]).expect_code(0);
        assert_eq!(lab.until_over(&id, SOON).outcome.expect("an outcome").kind, "killed");
        assert_eq!(facts(lab.read_library()), before, "what root has built is only read");
    });
}

#[test]
fn a_killed_runner_of_an_ordinary_user_is_lost_and_everything_of_it_is_gone() {
    as_nobody(|lab| {
        let id =
            lab.python(SLEEP, &["--detach", "--cold"]).run().expect_code(0).stdout_text().trim().to_owned();
        lab.until_state(&id, "running", SOON);
        let runner = lab.runner();
        let vmm = lab.vmm(&runner);
        runner.signal(Signal::KILL);
        outlast_e2e::until("the kernel takes the VMM along", SOON, || vmm.is_dead().then_some(()));
        assert_eq!(lab.until_over(&id, SOON).outcome.expect("an outcome").kind, "lost");
        assert!(process::runners().is_empty());
    });
}

#[test]
fn two_ordinary_users_do_not_see_each_others_runs() {
    as_nobody(|lab| {
        let id =
            lab.python(SLEEP, &["--detach", "--cold"]).run().expect_code(0).stdout_text().trim().to_owned();
        let view = lab.until_state(&id, "running", SOON);
        let home = lab.path("somebody");
        fs::create_dir(&home).unwrap();
        chown(&home, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
        let somebody = |arguments: &[&str]| {
            let call = lab.call(arguments).as_user(SOMEBODY).env("OUTLAST_HOME", &home).env("HOME", &home);
            call.env("OUTLAST_LIBRARY", home.join("library")).run()
        };
        assert!(somebody(&["ps", "-a", "--json"]).expect_code(0).json::<Vec<WorkloadView>>().is_empty());
        for command in ["show", "kill", "logs"] {
            somebody(&[command, &id]).expect_code(3);
        }
        let intruding = |arguments: &[&str]| lab.call(arguments).as_user(SOMEBODY).run();
        intruding(&["kill", &id]).expect_code(5).expect_stderr(&["ermission denied"]);
        let run = lab.places().run().join(&view.incarnation);
        assert_eq!(fs::metadata(lab.places().run()).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(run).unwrap().mode() & 0o777, 0o700);
        assert_eq!(lab.show(&id).state, "running");
        lab.outlast(&["kill", &id]).expect_code(0);
    });
}

#[test]
fn a_run_directory_in_tmp_that_somebody_else_has_made_is_refused() {
    Setup::new().as_user(SOMEBODY).run(|lab| {
        let planted = PathBuf::from(format!("/tmp/outlast-{SOMEBODY}"));
        let call = || {
            let call = lab.python("print('never')", &["--cold"]).env("OUTLAST_HOME", "");
            call.env("HOME", lab.home()).run()
        };
        fs::create_dir(&planted).unwrap();
        call().expect_code(125).expect_stderr(&["/tmp/outlast-", "uid 0"]);
        fs::remove_dir(&planted).unwrap();
        // A link leads to a directory that is the user's own and for something else.
        symlink(lab.home(), &planted).unwrap();
        call().expect_code(125).expect_stderr(&["/tmp/outlast-"]);
        fs::remove_file(&planted).unwrap();
        assert!(!lab.home().join(".local").exists() && !lab.home().join("incarnations").exists());
    });
}

#[test]
fn a_library_that_a_third_person_could_have_changed_is_not_used() {
    as_nobody(|lab| {
        let library = lab.path("planted");
        fs::create_dir(&library).unwrap();
        for name in ["images", "vmm"] {
            symlink(lab.read_library().join(name), library.join(name)).unwrap();
        }
        let libraries = std::env::join_paths([lab.places().library().path(), &library]).unwrap();
        let call = || lab.python("print('never')", &["--cold"]).env("OUTLAST_LIBRARY", &libraries).run();
        let refused = |words: &[&str]| {
            call().expect_code(125).expect_stderr(words);
            assert!(!lab.places().incarnations().exists(), "nothing was made");
        };
        // The lab's work directory is the user's own; what lies in it is judged by itself.
        chown(&library, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
        refused(&["planted", "uid 65531"]);
        chown(&library, Some(0), Some(0)).unwrap();
        fs::set_permissions(&library, fs::Permissions::from_mode(0o775)).unwrap();
        refused(&["planted", "others may write"]);
        fs::set_permissions(&library, fs::Permissions::from_mode(0o755)).unwrap();
        call().expect_code(0);
    });
}

/// Calls `outlast` where nobody may have a user namespace: in one that forbids any further ones.
fn without_namespaces(lab: &Lab, arguments: &[&str]) -> outlast_e2e::Output {
    let forbid = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"";
    let (uid, program) = (NOBODY.to_string(), lab.binaries().join("outlast"));
    let mut words: Vec<String> =
        ["--user", "--keep-caps", "--map-user", &uid, "--map-group", &uid, "sh", "-c", forbid, "sh"]
            .map(str::to_owned)
            .to_vec();
    words.push(program.display().to_string());
    words.extend(arguments.iter().map(|word| (*word).to_owned()));
    lab.call_through("unshare", &words).run()
}

#[test]
fn where_user_namespaces_are_forbidden_nothing_is_made_and_the_setting_is_named() {
    as_nobody(|lab| {
        let file = lab.file("a.py", "print('never')");
        let output = without_namespaces(lab, &["run", "--json", file.to_str().unwrap()]);
        output.expect_code(125).expect_stderr(&["user.max_user_namespaces is 0", "sysctl"]);
        assert!(output.stdout_text().contains("\"host\""), "{output}");
        assert!(fs::read_dir(lab.home()).unwrap().next().is_none(), "nothing was made");
        let output = without_namespaces(lab, &["doctor", "--json"]);
        let view: DoctorView = output.expect_code(6).json();
        let check = find(&view, "user-namespaces");
        assert_eq!(check.status, "missing");
        assert!(check.fix.as_ref().is_some_and(|fix| fix.contains("max_user_namespaces")), "{check:?}");
    });
}

fn find<'view>(view: &'view DoctorView, name: &str) -> &'view CheckView {
    let found = view.checks.iter().find(|check| check.name == name);
    found.unwrap_or_else(|| panic!("{name} is not looked at: {view:#?}"))
}

#[test]
fn the_doctor_and_show_say_what_stands_in_for_control_groups() {
    as_nobody(|lab| {
        let view = lab.doctor();
        assert_eq!(find(&view, "user-namespaces").status, "ok");
        assert!(find(&view, "user").found.contains(&NOBODY.to_string()));
        lab.python("print('x')", &["--cold"]).run().expect_code(0);
        let shown = lab.show(&lab.only_workload().id);
        let words = format!("rlimits stand in for control groups: none is delegated to uid {NOBODY}");
        if find(&view, "cgroup").status == "ok" {
            assert_eq!(shown.limited_by, None, "groups are delegated to this user");
        } else {
            assert_eq!(find(&view, "cgroup").found, format!("limits: {words}"));
            assert_eq!(shown.limited_by, Some(words));
        }
    });
}

#[test]
fn an_ordinary_user_who_wants_to_build_is_told_what_is_missing() {
    as_nobody(|lab| {
        let given = lab.file("subordinate", "");
        for file in ["/etc/subuid", "/etc/subgid"] {
            mount_bind(&given, file).unwrap();
        }
        let refused = || lab.outlast(&["image", "build", "vmm", "python"]);
        let ranges = "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 nobody";
        refused().expect_code(5).expect_stderr(&[
            "/etc/subuid gives uid 65534 no",
            ranges,
            "sudo outlast image",
        ]);
        fs::write(&given, "nobody:200000:65536\n").unwrap();
        mount_bind("/bin/false", "/usr/bin/newuidmap").unwrap();
        refused().expect_code(5).expect_stderr(&["no namespace can be made with the subordinate ids"]);
        for file in ["/usr/bin/newuidmap", "/etc/subgid", "/etc/subuid"] {
            unmount(file, UnmountFlags::empty()).unwrap();
        }
        let output = lab.outlast(&["image", "rm", "python"]);
        output.expect_code(5).expect_stderr(&["only reads"]);
        assert!(fs::read_dir(lab.places().library().path()).unwrap().next().is_none(), "nothing was made");
    });
}

/// In the test's own mount namespace another host's root has its home at the usual place.
#[test]
fn what_root_has_built_is_found_by_everybody_and_nothing_else_of_roots() {
    as_nobody(|lab| {
        let host = Path::new("/var/lib/outlast");
        fs::create_dir_all(host).unwrap();
        fs::create_dir("/run/outlast").unwrap();
        for path in [host, Path::new("/run/outlast")] {
            mount("tmpfs", path, "tmpfs", MountFlags::empty(), Some(c"mode=700")).unwrap();
        }
        fs::create_dir(host.join("library")).unwrap();
        for name in ["images", "vmm"] {
            let place = host.join("library").join(name);
            fs::create_dir(&place).unwrap();
            mount_bind(lab.read_library().join(name), &place).unwrap();
            mount_remount(&place, MountFlags::BIND | MountFlags::RDONLY, c"").unwrap();
        }
        let call = |arguments: &[&str], uid: u32| {
            let call = lab.call(arguments).env("OUTLAST_HOME", "").env("OUTLAST_LIBRARY", "").as_user(uid);
            call.env("XDG_RUNTIME_DIR", lab.path("")).run()
        };
        call(&["run", "--cold", "--image", "base", "--", "true"], NOBODY).expect_code(125);
        call(&["run", "--cold", "--image", "base", "--", "true"], 0).expect_code(0);
        call(&["run", "--cold", "--image", "base", "--", "true"], NOBODY).expect_code(0);
        for secret in ["incarnations", "outlast.db", "library/templates", "library/verified", "library/boot"]
        {
            let path = host.join(secret);
            if path.exists() {
                assert_eq!(fs::metadata(&path).unwrap().mode() & 0o077, 0, "{secret}");
            }
        }
        assert_eq!(fs::metadata(host).unwrap().mode() & 0o777, 0o711);
        let own = lab.home().join(".local/state/outlast");
        assert!(
            own.join("library/boot").is_dir(),
            "what is made for a user is made in the user's own library"
        );
        fs::remove_dir_all(lab.path("outlast")).unwrap();
        fs::remove_dir_all(lab.home().join(".local")).unwrap();
        let places = ["library/images", "library/vmm", ""].map(|name| host.join(name));
        for path in places.iter().map(PathBuf::as_path).chain([Path::new("/run/outlast")]) {
            unmount(path, UnmountFlags::empty()).unwrap();
        }
        // That of the test's own /run.
        fs::remove_dir("/run/outlast").unwrap();
    });
}
