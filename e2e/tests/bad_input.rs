//! Bad input gets a clear error, exit code 125, and nothing is made: no row, no directory, no process.

use outlast_e2e::archive::Archive;
use outlast_e2e::call::Call;
use outlast_e2e::{Lab, Output, Setup, on_lab};
use outlast_wire::view::ErrorView;
use std::fs;
use tar::EntryType;

/// The call is refused with these words, and leaves no trace.
#[track_caller]
fn refused(lab: &Lab, call: Call<'_>, words: &[&str]) -> Output {
    let output = call.run();
    output.expect_code(125).expect_stderr(words);
    assert!(output.stdout.is_empty(), "facts on standard output, where there are none: {output}");
    nothing_made(lab);
    output
}

#[track_caller]
fn nothing_made(lab: &Lab) {
    assert!(lab.workloads().is_empty(), "no row is written for what was refused");
    assert!(lab.incarnations().is_empty(), "no incarnation is made for what was refused");
    lab.expect_nothing_left();
}

#[track_caller]
fn run_refused(arguments: &[&str], words: &[&str]) {
    on_lab(|lab| {
        let mut all = vec!["run"];
        all.extend(arguments);
        refused(lab, lab.call(&all).stdin("print('never')"), words);
    });
}

#[test]
fn an_unknown_runtime_is_refused_with_the_list() {
    run_refused(&["--runtime", "cobol", "-"], &["cobol", "python", "node", "go"]);
}

#[test]
fn an_unknown_image_is_refused_with_the_list_and_the_command_that_builds_it() {
    run_refused(&["--image", "nope", "--", "true"], &["nope", "python", "outlast image build"]);
}

#[test]
fn a_file_name_that_says_no_runtime_is_refused() {
    on_lab(|lab| {
        let file = lab.file("program.xyz", "x");
        let call = lab.call(&["run".as_ref(), file.as_os_str()]);
        refused(lab, call, &["program.xyz", "--runtime"]);
    });
}

#[test]
fn a_missing_file_is_refused_by_name() {
    run_refused(&["/no/such/hello.py"], &["/no/such/hello.py", "no such file"]);
}

#[test]
fn a_directory_in_the_place_of_a_file_is_refused() {
    on_lab(|lab| {
        let directory = lab.path("directory.py");
        fs::create_dir(&directory).unwrap();
        let call = lab.call(&["run".as_ref(), directory.as_os_str()]);
        refused(lab, call, &["directory.py"]);
    });
}

#[test]
fn an_empty_source_is_refused() {
    on_lab(|lab| {
        refused(lab, lab.call(&["run", "--runtime", "python", "-"]).stdin(""), &["empty"]);
        let file = lab.file("empty.py", "");
        refused(lab, lab.call(&["run".as_ref(), file.as_os_str()]), &["empty.py", "empty"]);
    });
}

#[test]
fn memory_below_the_minimum_of_the_image_is_refused_with_the_number() {
    run_refused(&["--runtime", "python", "--memory", "16M", "-"], &["16M", "python", "minimum", "M"]);
}

#[test]
fn memory_beyond_that_of_the_host_is_refused() {
    run_refused(&["--runtime", "python", "--memory", "64T", "-"], &["64T", "host"]);
}

#[test]
fn memory_that_is_no_number_is_refused() {
    run_refused(&["--runtime", "python", "--memory", "lots", "-"], &["lots"]);
    run_refused(&["--runtime", "python", "--memory", "0", "-"], &["zero"]);
}

#[test]
fn zero_and_too_many_vcpus_are_refused_with_the_range() {
    run_refused(&["--runtime", "python", "--vcpus", "0", "-"], &["vcpus", "0"]);
    run_refused(&["--runtime", "python", "--vcpus", "999", "-"], &["999", "32"]);
    run_refused(&["--runtime", "python", "--vcpus", "-1", "-"], &["-1"]);
}

#[test]
fn a_timeout_of_zero_or_rubbish_is_refused() {
    run_refused(&["--runtime", "python", "--timeout", "0", "-"], &["timeout", "zero"]);
    run_refused(&["--runtime", "python", "--timeout", "soon", "-"], &["soon"]);
    run_refused(&["--runtime", "python", "--timeout", "9999d", "-"], &["9999d", "large"]);
}

#[test]
fn a_bad_environment_is_refused_without_repeating_its_value() {
    run_refused(&["--runtime", "python", "--env", "NOVALUE", "-"], &["NOVALUE", "KEY=VALUE"]);
    run_refused(&["--runtime", "python", "--env", "=x", "-"], &["name"]);
    on_lab(|lab| {
        let call = lab.call(&["run", "--runtime", "python", "--env", "1BAD=hunter2", "-"]).stdin("x");
        let output = refused(lab, call, &["1BAD"]);
        assert!(!output.stderr_text().contains("hunter2"), "a value may be a secret: {output}");
    });
}

#[test]
fn an_output_limit_beyond_the_most_is_refused() {
    run_refused(&["--runtime", "python", "--output-limit", "2T", "-"], &["2T"]);
}

#[test]
fn a_missing_standard_input_file_is_refused() {
    run_refused(&["--runtime", "python", "--stdin", "/no/such/input", "-"], &["/no/such/input"]);
}

#[test]
fn nothing_to_run_and_two_things_to_run_are_refused() {
    run_refused(&[], &["outlast run"]);
    run_refused(&["--image", "base"], &["command"]);
    run_refused(&["--image", "base", "--runtime", "python", "-"], &["--image", "--runtime"]);
}

#[test]
fn an_unknown_option_is_refused_with_125_because_1_could_be_the_programs() {
    run_refused(&["--no-such-option", "x.py"], &["--no-such-option"]);
}

#[test]
fn an_idempotency_key_that_is_too_long_or_empty_is_refused() {
    let long = "k".repeat(256);
    run_refused(&["--runtime", "python", "--idempotency-key", &long, "-"], &["idempotency", "255"]);
    run_refused(&["--runtime", "python", "--idempotency-key", "", "-"], &["idempotency"]);
}

#[test]
fn an_accelerator_or_isolation_that_does_not_exist_is_refused_with_the_list() {
    run_refused(&["--runtime", "python", "--accel", "warp", "-"], &["warp", "kvm", "tcg"]);
    run_refused(&["--runtime", "python", "--isolation", "wish", "-"], &["wish", "microvm"]);
}

#[test]
fn a_refusal_with_json_is_an_object_with_kind_message_and_hint() {
    on_lab(|lab| {
        let output = lab.call(&["run", "--json", "--image", "nope", "--", "true"]).run();
        let view: ErrorView = output.expect_code(125).json();
        assert!(["bad_input", "not_found"].contains(&view.error.kind.as_str()), "{view:?}");
        assert!(view.error.message.contains("nope"), "{view:?}");
        assert!(view.error.hint.expect("a hint").contains("outlast image build"));
        nothing_made(lab);
    });
}

fn archive_refused(name: &str, bytes: &[u8], words: &[&str]) {
    on_lab(|lab| {
        let path = lab.file(name, bytes);
        let arguments = ["run", "--runtime", "python", "--archive", path.to_str().expect("a plain path")];
        refused(lab, lab.call(&arguments), words);
        assert!(!std::path::Path::new("/tmp/outlast-planted").exists(), "nothing is written outside");
    });
}

fn good() -> Archive {
    Archive::new().file("main.py", b"print('never')")
}

#[test]
fn an_archive_that_is_not_a_tar_gz_is_refused() {
    archive_refused("a.tar.gz", b"this is not an archive", &["a.tar.gz", "tar.gz"]);
    archive_refused("a.tar.gz", b"", &["a.tar.gz"]);
    let gzip_of_rubbish = {
        use std::io::Write as _;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&[7; 2000]).unwrap();
        encoder.finish().unwrap()
    };
    archive_refused("a.tar.gz", &gzip_of_rubbish, &["a.tar.gz"]);
    let whole = good().zeros("data", 100_000).bytes();
    archive_refused("a.tar.gz", &whole[..whole.len() / 2], &["a.tar.gz"]);
}

#[test]
fn an_archive_over_ten_megabytes_is_refused_with_the_limit() {
    archive_refused("big.tar.gz", &vec![0; 10 * 1024 * 1024 + 1], &["big.tar.gz", "10"]);
}

#[test]
fn an_archive_with_an_absolute_path_is_refused_by_that_path() {
    archive_refused(
        "a.tar.gz",
        &good().file("/tmp/outlast-planted", b"x").bytes(),
        &["/tmp/outlast-planted"],
    );
}

#[test]
fn an_archive_that_climbs_out_is_refused_by_that_path() {
    archive_refused("a.tar.gz", &good().file("../outlast-planted", b"x").bytes(), &["../outlast-planted"]);
    archive_refused(
        "a.tar.gz",
        &good().file("a/../../outlast-planted", b"x").bytes(),
        &["a/../../outlast-planted"],
    );
}

#[test]
fn an_archive_with_a_symbolic_link_out_is_refused() {
    archive_refused("a.tar.gz", &good().link(EntryType::Symlink, "out", "/etc").bytes(), &["out", "/etc"]);
    archive_refused("a.tar.gz", &good().link(EntryType::Symlink, "a/out", "../../x").bytes(), &["a/out"]);
    let through = good().link(EntryType::Symlink, "d", "/tmp").file("d/outlast-planted", b"x");
    archive_refused("a.tar.gz", &through.bytes(), &["d"]);
}

#[test]
fn an_archive_with_a_hard_link_out_is_refused() {
    archive_refused(
        "a.tar.gz",
        &good().link(EntryType::Link, "passwords", "/etc/shadow").bytes(),
        &["passwords"],
    );
    archive_refused("a.tar.gz", &good().link(EntryType::Link, "up", "../x").bytes(), &["up"]);
}

#[test]
fn an_archive_with_a_device_is_refused() {
    archive_refused("a.tar.gz", &good().link(EntryType::Char, "null", "").bytes(), &["null"]);
}

#[test]
fn an_archive_that_unpacks_to_more_than_half_the_memory_is_refused() {
    // 200 MB of zeros pack to some hundred kilobytes; half of the memory asked for is 128 MB.
    on_lab(|lab| {
        let path = lab.file("bomb.tar.gz", good().zeros("zeros", 200 << 20).bytes());
        assert!(fs::metadata(&path).unwrap().len() < 10 << 20, "it is small while packed");
        let arguments =
            ["run", "--runtime", "python", "--memory", "256M", "--archive", path.to_str().unwrap()];
        refused(lab, lab.call(&arguments), &["bomb.tar.gz", "memory"]);
    });
}

#[test]
fn a_home_without_space_is_refused_before_anything_is_made() {
    Setup::new().home_of_size("32m").run(|lab| {
        refused(lab, lab.python("print('never')", &[]), &["space"]);
    });
}

#[test]
fn a_disk_that_fills_up_while_code_runs_is_a_named_failure() {
    Setup::new().home_of_size("80m").run(|lab| {
        let flood = "import sys\nfor i in range(200000):\n    sys.stdout.write('x' * 999 + '\\n')\n";
        let output = lab.python(flood, &["--output-limit", "512M", "--timeout", "300s"]).run();
        output.expect_code(125).expect_stderr(&["space"]);
        let view = lab.only_workload();
        let outcome = view.outcome.expect("it is over");
        assert_eq!(outcome.kind, "lost", "it ran, and its output is not whole");
        assert!(outcome.cause.expect("a cause").to_lowercase().contains("space"));
    });
}

#[test]
fn a_library_without_images_is_refused_with_the_command_that_builds_them() {
    Setup::new().library_with_only(&["vmm", "canary"]).run(|lab| {
        refused(lab, lab.python("print('never')", &[]), &["python", "outlast image build python"]);
    });
}

#[test]
fn a_library_without_qemu_is_refused_with_the_command_that_installs_it() {
    Setup::new().library_with_only(&["images", "kernels", "boot"]).run(|lab| {
        refused(lab, lab.python("print('never')", &[]), &["qemu", "outlast image build vmm"]);
    });
}

#[test]
fn an_unreadable_file_is_refused_by_name() {
    // Root can read every file; what even root cannot read is one on /proc that answers with an error.
    on_lab(|lab| {
        let call = lab.call(&["run", "--runtime", "python", "/proc/self/mem"]);
        refused(lab, call, &["/proc/self/mem"]);
    });
}
