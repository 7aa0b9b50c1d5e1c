//! The doctor: what this host can do, and what belongs to nobody.

use outlast_e2e::{Lab, on_lab};
use outlast_wire::view::DoctorView;
use std::fs;
use std::path::PathBuf;

/// An id that no incarnation of a fresh home has.
const DEAD: &str = "01arz3ndektsv4rrffq69g5fav";

#[test]
fn a_healthy_host_has_checks_with_findings_and_no_leaks() {
    on_lab(|lab| {
        let output = lab.outlast(&["doctor", "--json"]);
        let view: DoctorView = output.expect_code(0).json();
        assert!(view.leaks.is_empty());
        assert!(view.checks.len() >= 5, "{view:#?}");
        for check in &view.checks {
            assert!(["ok", "warning", "missing", "unknown"].contains(&check.status.as_str()), "{check:?}");
            assert!(!check.name.is_empty() && !check.found.is_empty(), "{check:?}");
            assert!(
                check.status != "missing" || check.fix.is_some(),
                "what is missing has a remedy: {check:?}"
            );
        }
        let words: Vec<&str> = view.checks.iter().flat_map(|check| [&*check.name, &*check.found]).collect();
        let words = words.join("\n");
        for word in ["kvm", "qemu", "cgroup", "disk"] {
            assert!(words.to_lowercase().contains(word), "{word} is not looked at:\n{words}");
        }
        let text = lab.outlast(&["doctor"]);
        assert!(text.expect_code(0).stdout_text().to_lowercase().contains("qemu"), "{text}");
    });
}

#[track_caller]
fn expect_leak(lab: &Lab, kind: &str, name: &str, command: &[&str], removed: bool) {
    let view: DoctorView = lab.outlast(command).json();
    let found = view.leaks.iter().find(|leak| leak.kind == kind && leak.name.contains(name));
    let found = found.unwrap_or_else(|| panic!("no {kind} {name} in {:#?}", view.leaks));
    assert_eq!(found.removed, removed, "{found:?}");
}

#[test]
fn a_run_directory_of_nobody_is_listed_and_removed_only_when_asked() {
    on_lab(|lab| {
        lab.python("print('x')", &[]).run().expect_code(0);
        let planted = lab.places().run().join(DEAD);
        fs::create_dir(&planted).unwrap();
        fs::write(planted.join("heartbeat"), "").unwrap();
        expect_leak(lab, "run-directory", DEAD, &["doctor", "--json"], false);
        assert!(planted.exists(), "looking removes nothing");
        expect_leak(lab, "run-directory", DEAD, &["doctor", "--fix", "--json"], true);
        assert!(!planted.exists());
        assert!(lab.doctor().leaks.is_empty());
    });
}

#[test]
fn a_cgroup_of_nobody_is_found_and_one_of_another_store_is_never_touched() {
    on_lab(|lab| {
        let id = lab.detached_python("import time; time.sleep(600)");
        let view = lab.until_state(&id, "running", std::time::Duration::from_secs(60));
        // Our own store's directory is where the living incarnation's cgroup is.
        let ours: Vec<PathBuf> = cgroups_named(&view.incarnation);
        assert!(!ours.is_empty(), "a living incarnation has a cgroup of its own");
        let store = ours[0].parent().unwrap().to_owned();
        let planted = store.join(DEAD);
        let foreign = store.parent().unwrap().join("01arz3ndektsv4rrffq69g5faw").join(DEAD);
        fs::create_dir(&planted).unwrap();
        fs::create_dir_all(&foreign).unwrap();
        expect_leak(lab, "cgroup", DEAD, &["doctor", "--json"], false);
        expect_leak(lab, "cgroup", DEAD, &["doctor", "--fix", "--json"], true);
        assert!(!planted.exists());
        assert!(foreign.exists(), "that belongs to another store");
        assert!(ours.iter().all(|path| path.exists()), "that lives");
        assert_eq!(lab.show(&id).state, "running");
        fs::remove_dir(&foreign).unwrap();
        fs::remove_dir(foreign.parent().unwrap()).unwrap();
        lab.outlast(&["kill", &id]).expect_code(0);
        lab.until_over(&id, std::time::Duration::from_secs(10));
    });
}

fn cgroups_named(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts can be read");
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        if fields[2].starts_with("cgroup") {
            let stores =
                fs::read_dir(PathBuf::from(fields[1]).join("outlast")).into_iter().flatten().flatten();
            found.extend(stores.map(|store| store.path().join(name)).filter(|path| path.is_dir()));
        }
    }
    found
}

#[test]
fn something_that_is_no_incarnation_of_ours_is_not_removed() {
    on_lab(|lab| {
        lab.python("print('x')", &[]).run().expect_code(0);
        let foreign = lab.places().run().join("somebody-elses");
        fs::create_dir(&foreign).unwrap();
        lab.outlast(&["doctor", "--fix", "--json"]);
        assert!(foreign.exists(), "a name that is not an incarnation's is none of ours");
        fs::remove_dir(&foreign).unwrap();
    });
}
