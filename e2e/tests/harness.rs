//! The harness itself: isolation is real, orphans are reaped, and a leak or a lie makes a test red.

use outlast_e2e::{Lab, Setup, alone, process, until};
use outlast_prove::{Inventory, Kind, Scope};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The init program, as cargo built it for this package's tests.
const INIT: &str = env!("CARGO_BIN_EXE_outlast-e2e-init");

fn inside(script: &str) -> std::process::Output {
    let mut command = Command::new(INIT);
    command.args(["sh", "-c", script]).stdin(Stdio::null());
    command.output().expect("the init can be started")
}

#[test]
fn a_test_sees_only_its_own_processes_links_and_cgroups() {
    alone(|| {
        let comms: Vec<_> = process::all().into_iter().map(|entry| (entry.pid, entry.parent)).collect();
        assert_eq!(comms.len(), 2, "init and this test: {comms:?}");
        assert_eq!(comms.iter().find(|(pid, _)| *pid == 1), Some(&(1, 0)));
        let links = fs::read_to_string("/proc/self/net/dev").unwrap();
        assert_eq!(links.lines().skip(2).count(), 1, "only loopback: {links}");
        let inventory = Inventory::take(&Scope::new().with_cgroups("", &[])).unwrap();
        let cgroups: Vec<_> = inventory.items().filter(|item| item.kind() == Kind::Cgroup).collect();
        assert!(
            cgroups.iter().all(|cgroup| cgroup.to_string().starts_with("cgroup test in")),
            "at most its own leaf in version 2: {cgroups:?}"
        );
    });
}

#[test]
fn a_cgroup_made_inside_lies_in_the_tests_own_and_is_removed_with_it() {
    let name = format!("planted-{}", std::process::id());
    let script = format!(
        "d=$(awk '$3 ~ /^cgroup/ {{print $2; exit}}' /proc/mounts) && mkdir -p $d/{name}/a/b && cat /proc/1/cgroup"
    );
    let output = inside(&script);
    assert!(output.status.success(), "{output:?}");
    let seen = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        !seen.is_empty() && seen.lines().all(|line| line.ends_with(":/") || line.ends_with(":/test")),
        "{seen}"
    );
    let inventory = Inventory::take(&Scope::new().with_cgroups("", &[])).unwrap();
    let left: Vec<_> = inventory.items().filter(|item| item.to_string().contains(&name)).collect();
    assert!(left.is_empty(), "removed, and never in the host's own root: {left:?}");
}

#[test]
fn the_exit_code_and_the_signal_of_the_program_come_through() {
    assert_eq!(inside("exit 0").status.code(), Some(0));
    assert_eq!(inside("exit 3").status.code(), Some(3));
    assert_eq!(inside("kill -SEGV $$").status.code(), Some(139));
    let usage = Command::new(INIT).output().unwrap();
    assert_eq!(usage.status.code(), Some(125), "no program is an error, not a success");
}

#[test]
fn orphans_are_reaped_while_the_program_runs() {
    // The orphans' parent is gone at once. A PID 1 that does not wait would leave them in /proc as zombies;
    // only when all of them are reaped are init and this shell alone. The shell counts without starting anything.
    let script = "sh -c 'for i in 1 2 3 4 5; do sh -c : & done'; \
                  for i in $(seq 500); do set -- /proc/[0-9]*; [ $# -eq 2 ] && exit 0; sleep 0.01; done; exit 1";
    assert_eq!(inside(script).status.code(), Some(0));
}

#[test]
fn what_the_program_leaves_running_dies_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let beat = directory.path().join("beat");
    let script = format!(
        "(trap '' TERM; while :; do date +%N > {0}; sleep 0.01; done) & until [ -s {0} ]; do sleep 0.01; done",
        beat.display()
    );
    assert_eq!(inside(&script).status.code(), Some(0));
    let last = fs::read_to_string(&beat).unwrap();
    // Ten periods without a beat.
    let changed = outlast_e2e::deadline::within(Duration::from_millis(100), || {
        (fs::read_to_string(&beat).ok()? != last).then_some(())
    });
    assert_eq!(changed, None, "the orphan still beats");
}

#[test]
fn killing_the_outer_half_takes_the_inside_along() {
    let directory = tempfile::tempdir().unwrap();
    let marker = format!("{}/{}", directory.path().display(), "marker");
    let mut outer = Command::new(INIT)
        .args(["sh", "-c", &format!("echo > {marker}; exec sleep 1234567")])
        .spawn()
        .unwrap();
    let sleeper = || {
        process::named("sleep").into_iter().find(|entry| {
            fs::read(format!("/proc/{}/cmdline", entry.pid)).is_ok_and(|line| line == b"sleep\x001234567\x00")
        })
    };
    until("the inside runs", Duration::from_secs(10), || {
        (Path::new(&marker).exists() && sleeper().is_some()).then_some(())
    });
    outer.kill().unwrap();
    assert_eq!(outer.wait().unwrap().signal(), Some(9));
    until("the inside is gone", Duration::from_secs(2), || sleeper().is_none().then_some(()));
}

#[test]
fn an_inside_whose_outer_half_is_gone_starts_nothing() {
    // Our parent is not PID 1, and who starts this is not it: as if `outside` had died before.
    let output = Command::new(INIT).args(["--as-pid-1", "1", "echo", "started"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(output.stdout.is_empty(), "nothing was started: {output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("the outer half, 1, is gone"), "{output:?}");
}

#[test]
#[should_panic(expected = "the test failed inside its namespaces")]
fn a_panic_inside_is_a_failure_outside() {
    alone(|| panic!("this text is expected"));
}

#[test]
#[should_panic(expected = "without having run the test")]
fn an_inner_run_that_ran_nothing_is_a_failure() {
    if std::env::var_os(outlast_e2e::init::INSIDE).is_some() {
        // Ends the inner run well, before the body: as if no test had been selected.
        std::process::exit(0);
    }
    alone(|| ());
}

/// A directory with a program that answers like an `outlast` that never did anything, but for these lines.
fn fake_outlast(first: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let script = format!(
        "#!/bin/sh\n{first}\ncase $1 in\n\
         ps) echo '[]' ;;\n\
         doctor) echo '{{\"checks\":[],\"leaks\":[]}}' ;;\n\
         vm) echo '[]' ;;\n\
         audit) exit 3 ;;\n\
         esac\n"
    );
    let path = directory.path().join("outlast");
    fs::write(&path, script).expect("the directory can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is our own");
    directory
}

/// What a lab with that fake says at the end of this body; empty when it is content.
fn verdict(first: &str, body: impl FnOnce(&Lab)) -> String {
    let fake = fake_outlast(first);
    let ended = Setup::new().binaries(fake.path()).verdict(body);
    ended.err().map_or_else(String::new, |panic| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(other) => {
            other.downcast::<&str>().map_or("a panic without words".to_owned(), |text| (*text).to_owned())
        }
    })
}

#[test]
fn a_lab_in_which_nothing_happened_is_content() {
    alone(|| assert_eq!(verdict("", |_| ()), ""));
}

#[test]
fn a_process_socket_or_file_left_behind_makes_a_lab_red_by_name() {
    alone(|| {
        let text = verdict("", |_| drop(Command::new("sleep").arg("1000").spawn().unwrap()));
        assert!(text.contains("appeared: process") && text.contains("(sleep)"), "{text}");
    });
    alone(|| {
        let text = verdict("", |lab| {
            fs::create_dir_all(lab.places().run().join("left")).unwrap();
            drop(std::os::unix::net::UnixListener::bind(lab.places().run().join("left/qmp.sock")).unwrap());
        });
        assert!(text.contains("appeared: directory") && text.contains("left/qmp.sock (socket)"), "{text}");
    });
}

#[test]
fn what_only_the_product_knows_makes_a_lab_red_too() {
    alone(|| {
        let leak = r#"{"checks":[],"leaks":[{"kind":"row","name":"planted","removed":false}]}"#;
        let text = verdict(&format!("[ $1 = doctor ] && echo '{leak}' && exit 0"), |_| ());
        assert!(text.contains("the doctor finds leaks") && text.contains("planted"), "{text}");
        let text = verdict("[ $1 = audit ] && exit 1", |_| ());
        assert!(text.contains("the exit code of") && text.contains("audit verify"), "{text}");
        let text = verdict("[ $1 = ps ] && exit 1", |_| ());
        assert!(text.contains("ps -a --json"), "{text}");
        let text = verdict("[ $1 = ps ] && echo '{}' && exit 0", |_| ());
        assert!(text.contains("standard output is not"), "{text}");
    });
}

#[test]
fn a_call_that_hangs_is_killed_and_told_and_one_that_leaves_its_pipe_behind_too() {
    alone(|| {
        let hangs = "[ $1 = hang ] && exec sleep 1000";
        let text = verdict(hangs, |lab| drop(lab.call(&["hang"]).within(Duration::from_millis(200)).run()));
        assert!(text.contains("outlast hang did not end within"), "{text}");
        let leaves = "[ $1 = leave ] && { sleep 1000 & exit 0; }";
        let text = verdict(leaves, |lab| drop(lab.outlast(&["leave"])));
        assert!(text.contains("somebody holds its standard output"), "{text}");
    });
}
