//! Options of later parts are refused by name: nothing is silently left out.

use outlast_e2e::on_lab;

#[test]
fn options_that_are_not_there_yet_are_refused_by_name() {
    let options: [&[&str]; 9] = [
        &["--network", "nat"],
        &["--network", "cni:lab"],
        &["--network-policy", "best-effort"],
        &["--allow", "example.org:443"],
        &["--volume", "/tmp:/data"],
        &["--volume", "/tmp:/data:ro"],
        &["--backend", "firecracker"],
        &["--backend", "cloud-hypervisor"],
        &["--backend", "wishful"],
    ];
    on_lab(|lab| {
        for option in options {
            let arguments = [&["run"], option, &["--runtime", "python", "-"]].concat();
            let output = lab.call(&arguments).stdin("print('never')").run();
            output.expect_code(125).expect_stderr(&[option[0]]);
            output.expect_stderr(&[option[1].split(':').next().unwrap()]);
            assert!(output.stdout.is_empty(), "{output}");
        }
        assert!(lab.workloads().is_empty() && lab.incarnations().is_empty());
    });
}

#[test]
fn the_words_for_what_is_there_today_are_taken() {
    on_lab(|lab| {
        let today = ["--network", "none", "--backend", "qemu", "--isolation", "microvm", "--accel", "tcg"];
        lab.python("print('today')", &today).run().expect_code(0).expect_stdout("today\n");
        lab.python("print('auto')", &["--isolation", "auto", "--accel", "auto"])
            .run()
            .expect_code(0)
            .expect_stdout("auto\n");
    });
}

#[test]
fn a_run_has_no_network_but_loopback() {
    on_lab(|lab| {
        let code = "import os\nprint(sorted(os.listdir('/sys/class/net')))";
        lab.python(code, &[]).run().expect_code(0).expect_stdout("['lo']\n");
    });
}
