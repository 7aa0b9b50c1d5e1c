//! ps, show, logs and kill: what they print, and for whom.

use outlast_e2e::on_lab;
use outlast_wire::view::{ErrorView, WorkloadView};
use std::time::Duration;

#[test]
fn ps_lists_what_lives_and_ps_a_lists_all_newest_first() {
    on_lab(|lab| {
        lab.python("print('first')", &[]).run().expect_code(0);
        let id = lab.detached_python("import time; time.sleep(600)");
        lab.until_state(&id, "running", Duration::from_secs(60));
        let living: Vec<WorkloadView> = lab.outlast(&["ps", "--json"]).expect_code(0).json();
        assert_eq!(living.iter().map(|view| view.id.as_str()).collect::<Vec<_>>(), [id.as_str()]);
        let all = lab.workloads();
        assert_eq!((all.len(), all[0].id.as_str()), (2, id.as_str()));
        let table = lab.outlast(&["ps"]);
        table.expect_code(0);
        // A table may shorten ids, but never below what names one.
        assert!(
            table.stdout_text().contains(&id[..10]) && table.stdout_text().contains("running"),
            "{table}"
        );
        assert!(!table.stdout_text().contains("completed"), "{table}");
        let table = lab.outlast(&["ps", "-a"]);
        assert!(table.expect_code(0).stdout_text().contains("completed"), "{table}");
        lab.outlast(&["kill", &id]).expect_code(0);
        lab.until_over(&id, Duration::from_secs(10));
    });
}

#[test]
fn ps_of_a_fresh_home_is_an_empty_list() {
    on_lab(|lab| {
        let nothing: Vec<WorkloadView> = lab.outlast(&["ps", "--json"]).expect_code(0).json();
        assert!(nothing.is_empty());
        assert!(lab.workloads().is_empty());
    });
}

#[test]
fn show_tells_everything_about_one() {
    on_lab(|lab| {
        let arguments = ["--vcpus", "2", "--memory", "256M", "--timeout", "45s", "--env", "TOKEN=hunter2"];
        lab.python("import sys; sys.exit(9)", &arguments).run().expect_code(9);
        let view = lab.only_workload();
        assert_eq!(view, lab.show(&view.id), "ps -a --json and show --json agree");
        assert_eq!((view.vcpus, view.memory, view.timeout_ms), (2, 256 << 20, 45_000));
        assert!(
            view.machine_memory > view.memory && view.machine_memory % (64 << 20) == 0,
            "{}",
            view.machine_memory
        );
        assert_eq!(
            (view.state.as_str(), view.image.as_str(), view.backend.as_str()),
            ("failed", "python", "qemu")
        );
        assert!(view.argv[0].contains("python3"), "{:?}", view.argv);
        assert!(view.ended_unix_ns.unwrap() > view.created_unix_ns);
        assert_eq!(view.runner_pid, None, "it lives no more");
        assert_eq!(view.outcome.as_ref().unwrap().exit_code, Some(9));
        let death = view.death.as_ref().unwrap();
        assert_eq!((death.cause.as_str(), death.by.as_str()), ("stopped", "runner"));
        assert!(std::path::Path::new(&view.evidence).join("journal.jsonl").exists(), "{}", view.evidence);
        let text = lab.outlast(&["show", &view.id]);
        text.expect_code(0);
        for word in [view.id.as_str(), "exit code 9", "python", "stopped"] {
            assert!(text.stdout_text().contains(word), "'{word}' is missing: {text}");
        }
        let json = lab.outlast(&["show", "--json", &view.id]).stdout_text();
        assert!(
            !text.stdout_text().contains("hunter2") && !json.contains("hunter2"),
            "a value may be a secret"
        );
    });
}

#[test]
fn a_unique_beginning_of_an_id_is_enough_and_an_unknown_one_is_not_found() {
    on_lab(|lab| {
        lab.python("print('x')", &[]).run().expect_code(0);
        let id = lab.only_workload().id;
        assert_eq!(lab.show(&id[..20]).id, id);
        assert_eq!(lab.show(&id.to_uppercase()).id, id);
        for command in ["show", "logs", "kill"] {
            let output = lab.outlast(&[command, "01arz3ndektsv4rrffq69g5fav"]);
            output.expect_code(3).expect_stderr(&["01arz3ndektsv4rrffq69g5fav"]);
            let view: ErrorView =
                lab.outlast(&[command, "--json", "01arz3ndektsv4rrffq69g5fav"]).expect_code(3).json();
            assert_eq!(view.error.kind, "not_found");
        }
    });
}

#[test]
fn killing_what_is_over_is_a_conflict_and_changes_nothing() {
    on_lab(|lab| {
        lab.python("print('x')", &[]).run().expect_code(0);
        let before = lab.only_workload();
        lab.outlast(&["kill", &before.id]).expect_code(4).expect_stderr(&["completed"]);
        assert_eq!(lab.only_workload(), before);
    });
}

#[test]
fn killing_twice_at_once_kills_once() {
    on_lab(|lab| {
        let id = lab.detached_python("import time; time.sleep(600)");
        lab.until_state(&id, "running", Duration::from_secs(60));
        let kills: Vec<_> = (0..3).map(|_| lab.call(&["kill", &id]).start()).collect();
        let codes: Vec<_> = kills.into_iter().map(|kill| kill.wait().code()).collect();
        assert!(codes.contains(&Some(0)), "one of them did it: {codes:?}");
        assert!(codes.iter().all(|code| [Some(0), Some(4)].contains(code)), "{codes:?}");
        assert_eq!(lab.until_over(&id, Duration::from_secs(10)).state, "killed");
    });
}

#[test]
fn the_runner_and_its_vmm_are_those_that_the_store_names() {
    on_lab(|lab| {
        let id = lab.detached_python("import time; time.sleep(600)");
        let view = lab.until_state(&id, "running", Duration::from_secs(60));
        let runner = lab.runner();
        assert_eq!(view.runner_pid, Some(runner.pid()), "the pid as the host sees it, never 1");
        let run_directory = lab.places().run().join(&view.incarnation);
        let mode = |path: &std::path::Path| {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::symlink_metadata(path).expect("it exists while it lives").permissions().mode() & 0o777
        };
        assert_eq!(mode(&run_directory), 0o700);
        for entry in std::fs::read_dir(&run_directory).unwrap().flatten() {
            assert_eq!(mode(&entry.path()) & 0o077, 0, "{:?} is for its owner only", entry.path());
        }
        assert_eq!(mode(lab.home()) & 0o077, 0);
        lab.vmm(&runner);
        lab.outlast(&["kill", &id]).expect_code(0);
        lab.until_over(&id, Duration::from_secs(10));
    });
}

#[test]
fn facts_go_to_standard_output_and_words_to_standard_error() {
    on_lab(|lab| {
        let output = lab.python("print('x')", &[]).run();
        output.expect_code(0).expect_stdout("x\n");
        let detached = lab.python("print('y')", &["--detach"]).run();
        let id = detached.expect_code(0).stdout_text();
        assert_eq!((id.lines().count(), id.trim().len()), (1, 26), "the id and nothing else: {detached}");
        lab.until_over(id.trim(), Duration::from_secs(60));
    });
}

#[test]
fn help_and_version_say_what_they_are() {
    on_lab(|lab| {
        let version = lab.outlast(&["--version"]);
        assert!(version.expect_code(0).stdout_text().starts_with("outlast "), "{version}");
        let help = lab.outlast(&["--help"]);
        for command in ["run", "ps", "show", "logs", "kill", "image", "template", "doctor", "audit"] {
            assert!(help.expect_code(0).stdout_text().contains(command), "{command} is missing: {help}");
        }
        lab.outlast(&["no-such-command"]).expect_code(2);
    });
}
