//! What goes into a run and what comes back: standard input, environment, arguments, archives, files.

use outlast_e2e::archive::Archive;
use outlast_e2e::file::sha256;
use outlast_e2e::on_lab;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

#[test]
fn standard_input_comes_from_the_file_that_is_named() {
    on_lab(|lab| {
        let input = lab.file("input", "one\ntwo\n");
        let program = lab.file(
            "main.py",
            "import sys\nfor line in sys.stdin: print(line.strip().upper())\nprint('end')\n",
        );
        let output =
            lab.outlast(&["run".as_ref(), "--stdin".as_ref(), input.as_os_str(), program.as_os_str()]);
        output.expect_code(0).expect_stdout("ONE\nTWO\nend\n");
    });
}

#[test]
fn a_large_standard_input_arrives_whole() {
    on_lab(|lab| {
        let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let digest = sha256(&bytes);
        let input = lab.file("input", &bytes);
        let code = "import sys, hashlib\nprint(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())\n";
        let program = lab.file("main.py", code);
        let output =
            lab.outlast(&["run".as_ref(), "--stdin".as_ref(), input.as_os_str(), program.as_os_str()]);
        output.expect_code(0).expect_stdout(&format!("{digest}\n"));
    });
}

#[test]
fn without_standard_input_a_program_that_reads_sees_its_end() {
    on_lab(|lab| {
        let program = lab.file("main.py", "import sys; print(repr(sys.stdin.read()))");
        lab.outlast(&["run".as_ref(), program.as_os_str()]).expect_code(0).expect_stdout("''\n");
    });
}

#[test]
fn the_environment_is_what_was_asked_for_and_not_that_of_the_host() {
    on_lab(|lab| {
        let code = "import os\nprint(os.environ['A'], os.environ['B'], os.environ.get('OUTLAST_HOME'), 'SECRET' in os.environ)";
        let call = lab.python(code, &["--env", "A=1", "--env", "B=x=y z"]).env("SECRET", "hunter2");
        call.run().expect_code(0).expect_stdout("1 x=y z None False\n");
    });
}

#[test]
fn arguments_arrive_one_by_one_whatever_is_in_them() {
    on_lab(|lab| {
        let code = "import sys, json; print(json.dumps(sys.argv[1:]))";
        let arguments = ["--", "a b", "--json", "", "ü", "$(x)"];
        lab.python(code, &arguments)
            .run()
            .expect_code(0)
            .expect_stdout("[\"a b\", \"--json\", \"\", \"\\u00fc\", \"$(x)\"]\n");
    });
}

#[test]
fn an_archive_is_unpacked_and_its_entry_run() {
    on_lab(|lab| {
        let archive = Archive::new()
            .file("app/main.py", b"import helper\nprint(helper.word, open('data/text').read())\n")
            .file("app/helper.py", b"word = 'from the archive'\n")
            .file("data/text", b"and its data")
            .link(tar::EntryType::Symlink, "data/alias", "text")
            .bytes();
        let path = lab.file("source.tar.gz", archive);
        let path = path.to_str().unwrap();
        let output =
            lab.outlast(&["run", "--runtime", "python", "--archive", path, "--entry", "app/main.py"]);
        output.expect_code(0).expect_stdout("from the archive and its data\n");
    });
}

#[test]
fn an_archive_without_an_entry_runs_the_runtimes_own_file_name() {
    on_lab(|lab| {
        let path = lab.file("source.tar.gz", Archive::new().file("main.py", b"print('main')").bytes());
        let output = lab.outlast(&["run", "--runtime", "python", "--archive", path.to_str().unwrap()]);
        output.expect_code(0).expect_stdout("main\n");
    });
}

#[test]
fn an_entry_that_is_not_in_the_archive_is_bad_input() {
    on_lab(|lab| {
        let path = lab.file("source.tar.gz", Archive::new().file("main.py", b"print('main')").bytes());
        let arguments =
            ["run", "--runtime", "python", "--archive", path.to_str().unwrap(), "--entry", "other.py"];
        lab.outlast(&arguments).expect_code(125).expect_stderr(&["other.py"]);
        assert!(lab.workloads().is_empty());
    });
}

#[test]
fn files_left_for_us_come_back_and_nothing_else_does() {
    on_lab(|lab| {
        let code = "import os\nos.makedirs('/outlast/out/deep/er')\n\
                    open('/outlast/out/a.txt', 'w').write('alpha')\n\
                    open('/outlast/out/deep/er/b.bin', 'wb').write(bytes(range(256)) * 4096)\n\
                    open('/tmp/not-this', 'w').write('x')\n";
        let back = lab.path("back");
        lab.python(code, &["--output-dir", back.to_str().unwrap()]).run().expect_code(0);
        let mut found = BTreeMap::new();
        collect(&back, &back, &mut found);
        let bytes: Vec<u8> = (0..=255).cycle().take(256 * 4096).collect();
        assert_eq!(found.keys().map(String::as_str).collect::<Vec<_>>(), ["a.txt", "deep/er/b.bin"]);
        assert_eq!(found["a.txt"], b"alpha");
        assert!(found["deep/er/b.bin"] == bytes, "a megabyte comes back unchanged");
    });
}

#[test]
fn files_come_back_from_a_program_that_failed_too() {
    on_lab(|lab| {
        let code = "import sys\nopen('/outlast/out/why', 'w').write('because')\nsys.exit(4)\n";
        let back = lab.path("back");
        lab.python(code, &["--output-dir", back.to_str().unwrap()]).run().expect_code(4);
        assert_eq!(fs::read_to_string(back.join("why")).unwrap(), "because");
    });
}

#[test]
fn a_link_that_a_program_leaves_cannot_make_the_host_write_or_read_elsewhere() {
    on_lab(|lab| {
        let victim = lab.file("victim", "untouched");
        let code = format!(
            "import os\nos.symlink('{0}', '/outlast/out/link')\nos.symlink('/etc', '/outlast/out/etc')\n\
             open('/outlast/out/plain', 'w').write('plain')\n",
            victim.display()
        );
        let back = lab.path("back");
        let output = lab.python(&code, &["--output-dir", back.to_str().unwrap()]).run();
        assert_eq!(output.code(), Some(0), "{output}");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        assert_eq!(fs::read_to_string(back.join("plain")).unwrap(), "plain");
        for name in ["link", "etc"] {
            let leads_out = fs::canonicalize(back.join(name)).is_ok_and(|to| !to.starts_with(&back));
            assert!(!leads_out, "{name} leads out of the output directory");
        }
    });
}

fn collect(root: &Path, directory: &Path, into: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(directory).expect("the output directory was made").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(root, &path, into);
        } else {
            let name = path.strip_prefix(root).expect("it lies below").display().to_string();
            into.insert(name, fs::read(&path).expect("it can be read"));
        }
    }
}
