//! Templates: made on demand, cloned, checked, set aside and made again.

use outlast_e2e::file::{flip_a_bit, sha256};
use outlast_e2e::{Lab, Setup, on_lab};
use outlast_wire::template::TemplateManifest;
use outlast_wire::view::RunView;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

fn run(lab: &Lab, arguments: &[&str]) -> RunView {
    let mut all = vec!["--json"];
    all.extend(arguments);
    let view: RunView = lab.python("print('ran')", &all).run().expect_code(0).json();
    assert_eq!(view.stdout, "ran\n");
    view
}

#[track_caller]
fn assert_cloned(view: &RunView) {
    let started = (view.started_from.as_deref(), view.fell_back.as_deref());
    assert_eq!(started, (Some("clone"), None));
}

/// The directory of the one template there is.
fn template(lab: &Lab) -> PathBuf {
    match lab.templates().as_slice() {
        [one] => one.clone(),
        others => panic!("one template is there, not {others:?}"),
    }
}

#[test]
fn a_run_is_a_clone_and_cold_is_a_boot() {
    on_lab(|lab| {
        assert_cloned(&run(lab, &[]));
        let cold = run(lab, &["--cold"]);
        assert_eq!(cold.started_from.as_deref(), Some("boot"));
        assert_eq!(cold.fell_back, None, "it was asked for");
        let shown = lab.show(&cold.id);
        assert_eq!(shown.started_from.as_deref(), Some("boot"));
    });
}

#[test]
fn a_template_is_made_on_the_first_run_read_only_and_as_its_manifest_says() {
    Setup::new().own_library().run(|lab| {
        assert_cloned(&run(lab, &[]));
        let template = template(lab);
        let manifest = fs::read(template.join("manifest.json")).unwrap();
        let manifest: TemplateManifest = serde_json::from_slice(&manifest).unwrap();
        assert_eq!(template.file_name().unwrap().to_str(), Some(manifest.key.as_str()));
        assert_eq!(manifest.ingredients.image, "python");
        for (name, digest) in [("memory", &manifest.memory_sha256), ("state", &manifest.state_sha256)] {
            let path = template.join(name);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o444, "{name}");
            assert_eq!(&sha256(&fs::read(&path).unwrap()), digest, "{name}");
        }
        // A clone writes to its own memory only.
        run(lab, &[]);
        assert_eq!(sha256(&fs::read(template.join("memory")).unwrap()), manifest.memory_sha256);
    });
}

#[test]
fn another_size_of_machine_is_another_template() {
    Setup::new().own_library().run(|lab| {
        run(lab, &[]);
        let first = template(lab);
        run(lab, &["--vcpus", "2"]);
        assert_eq!(lab.templates().into_iter().filter(|path| *path != first).count(), 1);
    });
}

#[test]
fn a_flipped_byte_in_the_memory_of_a_template_is_found_and_the_run_boots_and_says_so() {
    corrupted("memory");
}

#[test]
fn a_flipped_byte_in_the_state_of_a_template_is_found_and_the_run_boots_and_says_so() {
    corrupted("state");
}

#[track_caller]
fn corrupted(file: &str) {
    Setup::new().own_library().run(|lab| {
        assert_cloned(&run(lab, &[]));
        flip_a_bit(&template(lab).join(file));
        let fallen = run(lab, &[]);
        assert_eq!(fallen.started_from.as_deref(), Some("boot"), "the run itself goes on, by a boot");
        let reason = fallen.fell_back.expect("the fact is shown");
        assert!(reason.contains("template"), "{reason}");
        assert_eq!(lab.show(&fallen.id).fell_back.as_deref(), Some(reason.as_str()));
        let again = run(lab, &[]);
        assert_eq!(again.started_from.as_deref(), Some("clone"), "it was made again: {:?}", again.fell_back);
        assert_eq!(again.fell_back, None);
    });
}

#[test]
fn a_truncated_template_is_found() {
    Setup::new().own_library().run(|lab| {
        run(lab, &[]);
        let memory = template(lab).join("memory");
        fs::set_permissions(&memory, fs::Permissions::from_mode(0o644)).unwrap();
        OpenOptions::new().write(true).open(&memory).unwrap().set_len(4096).unwrap();
        assert_eq!(run(lab, &[]).started_from.as_deref(), Some("boot"));
        assert_cloned(&run(lab, &[]));
    });
}

#[test]
fn a_template_with_half_its_files_is_found() {
    Setup::new().own_library().run(|lab| {
        for missing in ["memory", "state", "manifest.json"] {
            run(lab, &[]);
            fs::remove_file(template(lab).join(missing)).unwrap();
            run(lab, &[]);
            assert_eq!(run(lab, &[]).started_from.as_deref(), Some("clone"), "after {missing} was lost");
        }
    });
}

#[test]
fn a_template_that_was_removed_is_made_again() {
    Setup::new().own_library().run(|lab| {
        run(lab, &[]);
        fs::remove_dir_all(template(lab)).unwrap();
        run(lab, &[]);
        assert_cloned(&run(lab, &[]));
    });
}

#[test]
fn templates_are_listed_and_removed_by_name() {
    Setup::new().own_library().run(|lab| {
        run(lab, &[]);
        let key = template(lab).file_name().unwrap().to_str().unwrap().to_owned();
        let listed = lab.outlast(&["template", "ls"]);
        assert!(listed.expect_code(0).stdout_text().contains("python"), "{listed}");
        let json: serde_json::Value = lab.outlast(&["template", "ls", "--json"]).expect_code(0).json();
        let list = json.as_array().expect("a list");
        assert_eq!(list.len(), 1);
        assert_eq!(list[0]["key"], key.as_str());
        lab.outlast(&["template", "rm", &key]).expect_code(0);
        let json: serde_json::Value = lab.outlast(&["template", "ls", "--json"]).expect_code(0).json();
        assert_eq!(json, serde_json::json!([]));
        lab.outlast(&["template", "rm", &key]).expect_code(3);
    });
}
