//! The main job: code goes in, its exact output comes out, from inside a VM.

use outlast_e2e::on_lab;
use outlast_wire::view::RunView;

#[test]
fn python_says_hello_exactly() {
    on_lab(|lab| {
        let output = lab.outlast(&["run".as_ref(), lab.example("hello.py").as_os_str()]);
        output.expect_code(0).expect_stdout("hello from python\n");
    });
}

#[test]
fn node_says_hello_exactly() {
    on_lab(|lab| {
        let output = lab.outlast(&["run".as_ref(), lab.example("hello.js").as_os_str()]);
        output.expect_code(0).expect_stdout("hello from node\n");
    });
}

#[test]
fn go_says_hello_exactly() {
    on_lab(|lab| {
        let output = lab.outlast(&["run".as_ref(), lab.example("hello.go").as_os_str()]);
        output.expect_code(0).expect_stdout("hello from go\n");
    });
}

#[test]
fn code_on_standard_input_runs_with_the_runtime_that_is_named() {
    on_lab(|lab| {
        lab.python("print(6 * 7)", &[]).run().expect_code(0).expect_stdout("42\n");
    });
}

#[test]
fn a_command_of_an_image_runs_on_one_vcpu_unless_more_are_asked_for() {
    on_lab(|lab| {
        lab.outlast(&["run", "--image", "base", "--", "nproc"]).expect_code(0).expect_stdout("1\n");
        let two = lab.outlast(&["run", "--image", "base", "--vcpus", "2", "--", "nproc"]);
        two.expect_code(0).expect_stdout("2\n");
    });
}

#[test]
fn it_runs_in_a_guest_and_not_on_this_host() {
    on_lab(|lab| {
        let host = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let output = lab.outlast(&["run", "--image", "base", "--", "uname", "-r"]);
        let guest = output.expect_code(0).stdout_text();
        let ours = |ending| guest.trim().ends_with(ending);
        assert!(ours("-outlast") || ours("cloud-amd64"), "the lean kernel or Debian's cloud kernel: {guest}");
        assert_ne!(guest.trim(), host.trim());
    });
}

#[test]
fn the_program_is_an_unprivileged_user_of_the_guest() {
    on_lab(|lab| {
        let output = lab.outlast(&[
            "run",
            "--image",
            "base",
            "--",
            "sh",
            "-c",
            "id -u; id -g; grep CapEff /proc/self/status",
        ]);
        let text = output.expect_code(0).stdout_text();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0] != "0" && lines[1] != "0", "neither uid nor gid 0: {text}");
        assert_eq!(lines[2].split_whitespace().last(), Some("0000000000000000"), "no capability: {text}");
    });
}

#[test]
fn a_run_with_json_prints_one_whole_object() {
    on_lab(|lab| {
        let output = lab.python("import sys; print('out'); print('err', file=sys.stderr)", &["--json"]).run();
        let view: RunView = output.expect_code(0).json();
        assert_eq!((view.stdout.as_str(), view.stderr.as_str()), ("out\n", "err\n"));
        assert_eq!(
            (view.runtime.as_deref(), view.image.as_str(), view.backend.as_str()),
            (Some("python"), "python", "qemu")
        );
        assert!(["kvm", "tcg"].contains(&view.accelerator.as_str()), "{}", view.accelerator);
        assert_eq!(
            (view.outcome.kind.as_str(), view.outcome.exit_code, view.outcome.signal),
            ("completed", Some(0), None)
        );
        assert_eq!(view.truncated_bytes, 0);
        let (ready, exec, total) = (view.timings_ms.ready, view.timings_ms.exec, view.timings_ms.total);
        let (ready, exec, total) = (ready.expect("ready"), exec.expect("exec"), total.expect("total"));
        assert!(ready > 0.0 && exec > 0.0 && total >= ready + exec, "{:?}", view.timings_ms);
        let certificate = view.certificate.expect("every run is certified");
        assert!(certificate.entropy_bytes >= 32, "{certificate:?}");
        let [low, high] = certificate.clock_offset_ns;
        assert!(low <= high && low >= -50_000_000 && high <= 50_000_000, "within 50 ms: {certificate:?}");
    });
}
