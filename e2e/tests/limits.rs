//! Limits: time, memory, vCPUs, processes, and the runner's own size.

use outlast_e2e::{on_lab, process, until};
use outlast_wire::view::RunView;
use std::time::{Duration, Instant};

/// The published limit on the time after the deadline.
const GONE_WITHIN: Duration = Duration::from_secs(1);

#[test]
fn alone_a_limit_of_five_seconds_ends_a_sleep_of_ten_by_six() {
    on_lab(|lab| {
        // Makes the template, should there be none yet: what is measured is a clone, and nothing else.
        lab.python("pass", &[]).run().expect_code(0);
        let program = lab.example("sleep10.py");
        let started = Instant::now();
        let arguments = ["run", "--json", "--timeout", "5s", program.to_str().unwrap()];
        let output = lab.call(&arguments).run();
        let view: RunView = output.expect_code(124).json();
        until("every process of it is gone", Duration::from_secs(2), || {
            (process::runners().is_empty() && process::named("qemu-system-x86_64").is_empty()).then_some(())
        });
        let gone = started.elapsed();
        assert_eq!(view.outcome.kind, "timed_out");
        assert_eq!(view.started_from.as_deref(), Some("clone"), "{:?}", view.fell_back);
        assert_eq!(view.stdout, "going to sleep for ten seconds\n");
        let (ready, exec) = (view.timings_ms.ready.unwrap(), view.timings_ms.exec.unwrap());
        assert!((5000.0..6000.0).contains(&exec), "the program had its five seconds and no more: {exec} ms");
        // The time counts from the start of the program: the clone comes before it.
        let before = Duration::from_secs_f64(ready / 1000.0);
        let limit = Duration::from_secs(5) + GONE_WITHIN;
        eprintln!("gone {:?} after it was ready (limit {limit:?})", gone.saturating_sub(before));
        assert!(gone <= before + limit, "gone after {gone:?}, ready after {before:?}");
    });
}

#[test]
fn a_program_that_ignores_sigterm_ends_at_its_limit_all_the_same() {
    on_lab(|lab| {
        let code = "import signal, time\nfor s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):\n    signal.signal(s, signal.SIG_IGN)\nprint('deaf')\nwhile True: time.sleep(1)\n";
        let output = lab.python(code, &["--timeout", "2s"]).run();
        output.expect_code(124).expect_stdout("deaf\n");
    });
}

#[test]
fn memory_of_a_program_is_the_limit_it_was_given() {
    on_lab(|lab| {
        let script = "cat /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/memory.max";
        let output = lab.outlast(&["run", "--image", "base", "--memory", "64M", "--", "sh", "-c", script]);
        output.expect_code(0).expect_stdout("67108864\n");
    });
}

#[test]
fn a_fork_bomb_hits_the_limit_on_processes_and_harms_nobody() {
    on_lab(|lab| {
        let code = "import os, time\nmade = 0\ntry:\n    while True:\n        if os.fork() == 0:\n            time.sleep(1000)\n        made += 1\nexcept OSError as error:\n    print('stopped', made < 2000)\n";
        let output = lab.python(code, &["--timeout", "120s", "--memory", "512M"]).run();
        output.expect_code(0).expect_stdout("stopped True\n");
    });
}

#[test]
fn the_root_file_system_can_be_written_and_nothing_of_it_stays() {
    on_lab(|lab| {
        let code = "import os\nprint(os.path.exists('/tmp/mark'))\nopen('/tmp/mark', 'w').write('x')\n";
        lab.python(code, &[]).run().expect_code(0).expect_stdout("False\n");
        lab.python(code, &[]).run().expect_code(0).expect_stdout("False\n");
    });
}

#[test]
fn alone_a_runner_at_rest_takes_no_more_than_eight_mebibytes() {
    on_lab(|lab| {
        let running = lab.python("import time\nprint('up')\ntime.sleep(600)", &[]).start();
        let mut running = running;
        running.line(0, Duration::from_secs(120));
        let runner = lab.runner();
        let kib = |field: &str| {
            let text = runner.status(field).expect("a living process has a status");
            text.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB")
        };
        let (resident, anonymous) = (kib("VmRSS"), kib("RssAnon"));
        eprintln!("runner resident: {resident} KiB, of which anonymous {anonymous} KiB");
        assert!(resident <= 8 * 1024, "the runner takes {resident} KiB");
        let id = lab.only_workload().id;
        lab.outlast(&["kill", &id]).expect_code(0);
        running.wait().expect_code(137);
    });
}

#[test]
fn alone_a_cold_boot_is_ready_within_five_seconds() {
    on_lab(|lab| {
        let view: RunView = lab.python("print('x')", &["--cold", "--json"]).run().expect_code(0).json();
        let ready = view.timings_ms.ready.expect("it was ready");
        eprintln!("cold boot ready after {ready} ms");
        assert!(ready < 5000.0, "ready after {ready} ms");
    });
}
