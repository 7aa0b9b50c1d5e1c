//! Pruning and eviction: what is of no more use goes, what is in use stays, and doing it twice or being killed in the
//! middle changes nothing. Every test has a library of its own; what it borrows of the shared one is never pruned.

use outlast_e2e::{Lab, Setup};
use outlast_wire::view::{PruneView, PrunedView, RunView};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

fn run(lab: &Lab, arguments: &[&str]) -> RunView {
    let mut all = vec!["--json"];
    all.extend(arguments);
    lab.python("print('ran')", &all).run().expect_code(0).json()
}

#[track_caller]
fn prune(lab: &Lab, arguments: &[&str]) -> PruneView {
    lab.outlast(&[arguments, &["--json"]].concat()).expect_code(0).json()
}

fn of_kind<'a>(view: &'a PruneView, kind: &str) -> Vec<&'a PrunedView> {
    view.found.iter().filter(|found| found.kind == kind).collect()
}

/// The directory of the one template there is.
fn template(lab: &Lab) -> PathBuf {
    match lab.templates().as_slice() {
        [one] => one.clone(),
        others => panic!("one template is there, not {others:?}"),
    }
}

#[test]
fn a_run_in_progress_keeps_its_template_and_image_and_evidence_through_a_prune() {
    Setup::new().own_library().run(|lab| {
        let id = lab.detached_python("import time\nwhile True: print('alive', flush=True); time.sleep(0.2)");
        let running = lab.until_state(&id, "running", LIMIT);
        let kept = template(lab);
        for arguments in [["template", "prune"].as_slice(), &["prune"]] {
            let view = prune(lab, &[arguments, &["--older-than", "0", "--keep-size", "1"]].concat());
            let found = of_kind(&view, "template");
            assert!(matches!(&found[..], [one] if !one.removed && one.kept_because.is_some()), "{view:#?}");
            assert!(
                of_kind(&view, "evidence").iter().all(|one| one.name != running.incarnation),
                "{view:#?}"
            );
        }
        assert!(kept.join("memory").exists());
        assert_eq!(lab.show(&id).state, "running");
        lab.outlast(&["kill", &id]).expect_code(0);
        lab.expect_nothing_left();
        let looked = prune(lab, &["template", "prune", "--older-than", "0", "--dry-run"]);
        assert!(looked.dry_run && looked.bytes > 0 && kept.exists(), "{looked:#?}");
        let view = prune(lab, &["template", "prune", "--older-than", "0"]);
        assert!(of_kind(&view, "template")[0].removed && view.bytes > 0, "{view:#?}");
        assert!(lab.templates().is_empty());
        let again = prune(lab, &["template", "prune", "--older-than", "0"]);
        assert_eq!(again.found, [], "twice is as good as once");
        assert_eq!(run(lab, &[]).started_from.as_deref(), Some("clone"), "it is made again");
    });
}

#[test]
fn a_new_template_evicts_those_unused_for_longest_and_none_that_runs() {
    Setup::new().own_library().run(|lab| {
        run(lab, &[]);
        let first = template(lab);
        // The smallest limit: only what is new or in use may stay.
        let sleeper = lab
            .python("import time; time.sleep(600)", &["--detach", "--vcpus", "2"])
            .env("OUTLAST_KEEP_TEMPLATES", "1M")
            .run();
        let id = sleeper.expect_code(0).stdout_text().trim().to_owned();
        lab.until_state(&id, "running", LIMIT);
        assert!(!first.exists(), "nobody used it");
        let second = template(lab);
        let view: RunView = lab
            .python("print('ran')", &["--json", "--vcpus", "3"])
            .env("OUTLAST_KEEP_TEMPLATES", "1M")
            .run()
            .expect_code(0)
            .json();
        assert_eq!(view.started_from.as_deref(), Some("clone"));
        assert!(second.join("memory").exists(), "a clone of it runs");
        assert_eq!(lab.templates().len(), 2);
        assert_eq!(lab.show(&id).state, "running");
        lab.outlast(&["kill", &id]).expect_code(0);
    });
}

#[test]
fn templates_of_an_image_that_was_replaced_are_useless_and_go_at_once() {
    Setup::new().own_library().run(|lab| {
        run(lab, &[]);
        let manifest = template(lab).join("manifest.json");
        let text = fs::read_to_string(&manifest).unwrap();
        let digest = text.split("\"image_digest\": \"").nth(1).unwrap()[..64].to_owned();
        fs::remove_file(&manifest).unwrap();
        fs::write(&manifest, text.replace(&digest, &"0".repeat(64))).unwrap();
        let view = prune(lab, &["template", "prune"]);
        let found = of_kind(&view, "template");
        assert!(matches!(&found[..], [one] if one.removed && one.why.contains("image")), "{view:#?}");
    });
}

#[test]
fn the_evidence_of_old_runs_goes_and_what_became_of_them_stays() {
    Setup::new().own_library().run(|lab| {
        let old = run(lab, &["--idempotency-key", "once"]);
        assert!(lab.outlast(&["logs", &old.id]).expect_code(0).stdout_text().contains("ran"));
        let view = prune(lab, &["prune", "--older-than", "0"]);
        assert!(!of_kind(&view, "evidence").is_empty(), "{view:#?}");
        assert_eq!(lab.incarnations().len(), 0);
        let shown = lab.show(&old.id);
        assert!(shown.evidence_pruned && shown.death.is_some(), "{shown:#?}");
        assert_eq!(shown.outcome.as_ref().map(|outcome| outcome.kind.as_str()), Some("completed"));
        lab.outlast(&["logs", &old.id]).expect_code(3).expect_stderr(&[&old.id, "pruned"]);
        assert_eq!(lab.workloads().len(), 1, "the row stays");
        // Asked for again by its key, it is not run again.
        let again = run(lab, &["--idempotency-key", "once"]);
        assert_eq!((again.id, again.stdout.as_str(), again.truncated_bytes), (old.id.clone(), "", 0));
        assert!(again.output_pruned);
        let told = lab.python("print('ran')", &["--idempotency-key", "once"]).run();
        told.expect_code(0).expect_stderr(&[&old.id, "pruned"]);
        assert!(!told.stderr_text().contains("truncated"), "{told}");
        assert!(lab.doctor().leaks.is_empty());
    });
}

#[test]
fn evidence_is_bounded_by_itself() {
    Setup::new().own_library().run(|lab| {
        for _ in 0..6 {
            lab.python("print('x')", &[]).env("OUTLAST_KEEP_RUNS", "2").run().expect_code(0);
        }
        assert!(lab.incarnations().len() <= 3, "{:?}", lab.incarnations());
        assert_eq!(lab.workloads().len(), 6, "rows stay");
    });
}

#[test]
fn a_prune_that_was_killed_is_finished_by_the_next_one() {
    Setup::new().own_library().run(|lab| {
        run(lab, &[]);
        let path = template(lab);
        let key = path.file_name().unwrap().to_str().unwrap().to_owned();
        // As it stands when the remover dies between its two steps.
        fs::rename(&path, path.with_file_name(format!(".set-aside-{key}-removed"))).unwrap();
        let evidence = lab.incarnations().remove(0).path().to_owned();
        let name = format!(".pruning-{}", evidence.file_name().unwrap().to_str().unwrap());
        fs::rename(&evidence, evidence.with_file_name(&name)).unwrap();
        let view = prune(lab, &["prune"]);
        assert!(of_kind(&view, "template").iter().any(|one| one.removed), "{view:#?}");
        assert!(of_kind(&view, "evidence").iter().any(|one| one.removed), "{view:#?}");
        assert!(!evidence.with_file_name(name).exists());
        assert_eq!(run(lab, &[]).started_from.as_deref(), Some("clone"));
        assert!(lab.doctor().leaks.is_empty());
    });
}

#[test]
fn a_prune_that_is_killed_at_any_moment_harms_nothing() {
    Setup::new().own_library().run(|lab| {
        for delay in [0u64, 2, 5, 10, 20, 40] {
            run(lab, &[]);
            let running = lab.call(&["prune", "--older-than", "0"]).start();
            outlast_e2e::deadline::within(Duration::from_millis(delay), || None::<()>);
            running.kill();
            assert_eq!(run(lab, &[]).started_from.as_deref(), Some("clone"), "after {delay} ms");
        }
        prune(lab, &["prune", "--older-than", "0"]);
        let again = prune(lab, &["prune", "--older-than", "0"]);
        assert_eq!(again.found, []);
        assert!(lab.doctor().leaks.is_empty());
    });
}

#[test]
fn runs_and_prunes_at_the_same_time_all_come_to_their_end() {
    Setup::new().own_library().run(|lab| {
        run(lab, &[]);
        std::thread::scope(|scope| {
            let pruner = scope.spawn(|| {
                for _ in 0..20 {
                    lab.outlast(&["template", "prune", "--older-than", "0"]).expect_code(0);
                }
            });
            for _ in 0..4 {
                let view = run(lab, &[]);
                assert_eq!((view.outcome.kind.as_str(), view.stdout.as_str()), ("completed", "ran\n"));
            }
            pruner.join().expect("every prune went well");
        });
    });
}

#[test]
fn sizes_and_ages_that_are_none_are_refused() {
    Setup::new().own_library().run(|lab| {
        lab.outlast(&["prune", "--older-than", "soon"])
            .expect_code(2)
            .expect_stderr(&["--older-than", "soon"]);
        lab.outlast(&["template", "prune", "--keep-size", "much"]).expect_code(2).expect_stderr(&["much"]);
    });
}
