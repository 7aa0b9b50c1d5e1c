//! Hostile programs: what a program may do to its guest. Each time the right outcome within its deadlines, an agent
//! that answers meanwhile, and a host as before.

use outlast_e2e::call::Running;
use outlast_e2e::control::{Control, Probed};
use outlast_e2e::{Lab, on_lab, process, until};
use outlast_wire::view::{RunView, WorkloadView};
use std::path::Path;
use std::time::{Duration, Instant};

/// A template may have to be made first.
const STARTED: Duration = Duration::from_secs(250);
/// The published limit on the time after a program's deadline.
const GONE_WITHIN: f64 = 1000.0;
/// What a runner may take at its peak, in KiB, whatever its guest does.
const RUNNER_PEAK: u64 = 32 * 1024;

/// Starts a program that says `up` before it begins.
fn begin(lab: &Lab, code: &str, arguments: &[&str]) -> (Running, Control) {
    let mut arguments = arguments.to_vec();
    arguments.push("--json");
    let running = lab.python(&format!("print('up', flush=True)\n{code}"), &arguments).start();
    let view = until("it runs", STARTED, || {
        let running = |view: &WorkloadView| view.state == "running" || view.outcome.is_some();
        lab.workloads().into_iter().find(running)
    });
    assert_eq!(view.state, "running", "{view:#?}");
    let control = Control::connect(&lab.places().run().join(&view.incarnation));
    (running, control.expect("its runner listens"))
}

/// The same, with the guest probed until the program has ended.
fn probed(lab: &Lab, code: &str, arguments: &[&str]) -> (RunView, Probed) {
    let (running, mut control) = begin(lab, code, arguments);
    let probed = control.probe_while(|| running.is_running());
    let view: RunView = running.wait().json();
    assert!(probed.refused.is_empty(), "the agent was silent: {:?} of {:?}", probed.refused, view.outcome);
    let p95 = probed.round_trips.get(probed.round_trips.len() * 95 / 100);
    eprintln!("{:?} probes p95 {p95:?}, longest {:?}", probed.round_trips.len(), probed.longest());
    (view, probed)
}

#[track_caller]
fn expect_timed_out(view: &RunView, limit_ms: f64) {
    assert_eq!(view.outcome.kind, "timed_out", "{view:#?}");
    let exec = view.timings_ms.exec.expect("it was started");
    assert!((limit_ms..limit_ms + GONE_WITHIN).contains(&exec), "{exec} ms");
}

#[test]
fn a_program_that_eats_its_memory_is_killed_in_ten_seconds_and_the_agent_answers_throughout() {
    on_lab(|lab| {
        let code = "eaten = []\nwhile True:\n    eaten.append(bytearray(b'x' * (1 << 20)))\n";
        let (view, probed) = probed(lab, code, &["--timeout", "60s"]);
        assert_eq!(view.outcome.kind, "out_of_memory", "{view:#?}");
        assert!(view.timings_ms.exec.unwrap() <= 10_000.0, "{:?}", view.timings_ms);
        assert!(!probed.round_trips.is_empty());
    });
}

#[test]
fn a_program_that_forks_without_end_meets_its_deadline_and_the_agent_answers_throughout() {
    on_lab(|lab| {
        let code = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n";
        let (view, probed) = probed(lab, code, &["--timeout", "15s", "--memory", "512M"]);
        expect_timed_out(&view, 15_000.0);
        assert!(!probed.round_trips.is_empty());
    });
}

#[test]
fn a_program_that_forks_without_end_is_killed_on_request() {
    on_lab(|lab| {
        let code = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n";
        let (running, _control) = begin(lab, code, &["--timeout", "300s", "--memory", "512M"]);
        let began = Instant::now();
        lab.outlast(&["kill", &lab.only_workload().id]).expect_code(0);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        let view: RunView = running.wait().expect_code(137).json();
        assert_eq!(view.outcome.kind, "killed");
    });
}

#[test]
fn a_program_that_fills_its_disk_is_told_so_and_nothing_else_happens() {
    on_lab(|lab| {
        let code = "import errno, os\n\
            for place in ['/tmp', '/dev/shm', '.', '/outlast/out']:\n\
            \x20   path = os.path.join(place, 'much')\n\
            \x20   try:\n\
            \x20       with open(path, 'wb', buffering=0) as file:\n\
            \x20           while True:\n\
            \x20               file.write(bytes(1 << 20))\n\
            \x20   except OSError as error:\n\
            \x20       print(errno.errorcode[error.errno], flush=True)\n\
            \x20   os.unlink(path)\n";
        let (view, _) = probed(lab, code, &["--timeout", "120s", "--memory", "512M"]);
        assert_eq!(view.outcome.kind, "completed", "{view:#?}");
        assert_eq!(view.stdout, "up\nENOSPC\nENOSPC\nENOSPC\nENOSPC\n");
    });
}

#[test]
fn a_program_that_ignores_every_signal_ends_at_its_deadline() {
    on_lab(|lab| {
        let code = "import os, signal, time\n\
            for number in range(1, 65):\n\
            \x20   try:\n\
            \x20       signal.signal(number, signal.SIG_IGN)\n\
            \x20   except (OSError, ValueError):\n\
            \x20       pass\n\
            os.kill(os.getpid(), signal.SIGTERM)\n\
            print('still here', flush=True)\n\
            time.sleep(600)\n";
        let (view, _) = probed(lab, code, &["--timeout", "3s"]);
        expect_timed_out(&view, 3000.0);
        assert_eq!(view.stdout, "up\nstill here\n");
    });
}

#[test]
fn a_program_that_closes_its_descriptors_ends_as_it_ends() {
    on_lab(|lab| {
        let code = "import os, time\nos.closerange(0, 1024)\ntime.sleep(2)\nos._exit(7)\n";
        let (view, _) = probed(lab, code, &[]);
        assert_eq!((view.outcome.kind.as_str(), view.outcome.exit_code), ("failed", Some(7)), "{view:#?}");
    });
}

#[test]
fn a_program_that_kills_and_stops_all_it_may_harms_itself_alone() {
    on_lab(|lab| {
        let code = "import os, signal, time\n\
            for number in [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP]:\n\
            \x20   try:\n\
            \x20       os.kill(-1, number)\n\
            \x20   except OSError as error:\n\
            \x20       print(error.strerror)\n\
            \x20   try:\n\
            \x20       os.kill(1, number)\n\
            \x20   except OSError as error:\n\
            \x20       print(error.strerror)\n\
            print('alone', flush=True)\n\
            os.kill(os.getpid(), signal.SIGSTOP)\n";
        let (view, _) = probed(lab, code, &["--timeout", "5s"]);
        expect_timed_out(&view, 5000.0);
        assert!(view.stdout.ends_with("alone\n"), "{view:#?}");
        assert_eq!(view.stdout.matches("Operation not permitted").count(), 3, "{view:#?}");
    });
}

#[test]
fn sessions_that_a_program_leaves_behind_do_not_hold_its_end_up() {
    on_lab(|lab| {
        // Each child is in a session of its own, ignores what can be ignored, and holds the pipes open.
        let code = "import os, signal, time\n\
            for _ in range(40):\n\
            \x20   if os.fork() == 0:\n\
            \x20       os.setsid()\n\
            \x20       if os.fork() == 0:\n\
            \x20           for number in [signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE]:\n\
            \x20               signal.signal(number, signal.SIG_IGN)\n\
            \x20           while True:\n\
            \x20               time.sleep(1)\n\
            \x20       os._exit(0)\n\
            print('left', flush=True)\n\
            os._exit(5)\n";
        let (view, _) = probed(lab, code, &["--timeout", "60s"]);
        assert_eq!((view.outcome.kind.as_str(), view.outcome.exit_code), ("failed", Some(5)), "{view:#?}");
        assert_eq!(view.stdout, "up\nleft\n");
        assert!(view.timings_ms.exec.unwrap() < 20_000.0, "{:?}", view.timings_ms);
    });
}

#[test]
fn output_that_was_cut_says_so_although_the_runner_was_killed_after_the_cut() {
    on_lab(|lab| {
        let code = "import sys\nline = 'x' * 999 + '\\n'\nwhile True:\n    sys.stdout.write(line)\n";
        let id = lab
            .python(code, &["--detach", "--timeout", "300s", "--output-limit", "1M"])
            .run()
            .expect_code(0)
            .stdout_text();
        let id = id.trim();
        let log = || lab.incarnations().last().map(outlast_wire::paths::Evidence::output_log);
        until("the output is cut", STARTED, || {
            let length = std::fs::metadata(log()?).ok()?.len();
            (length > 1 << 20).then_some(())
        });
        lab.runner().kill();
        let view = lab.show(id);
        assert_eq!(view.outcome.as_ref().unwrap().kind, "lost", "{view:#?}");
        assert!(view.truncated_bytes > 0, "{view:#?}");
        let logs = lab.outlast(&["logs", id]);
        logs.expect_code(0).expect_stderr(&["truncated"]);
        assert!(logs.stdout.len() <= 1 << 20 && logs.stdout.len() > 1000 << 10, "{}", logs.stdout.len());
    });
}

/// Bytes of all files below a directory.
fn bytes_below(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

/// Floods standard output with so many bytes, the default limit kept.
fn flood(lab: &Lab, bytes: u64) {
    let count = bytes.to_string();
    let arguments =
        ["run", "--json", "--image", "base", "--timeout", "1500s", "--", "head", "-c", &count, "/dev/zero"];
    let running = lab.call(&arguments).within(Duration::from_secs(1600)).start();
    let (mut peak, mut disk) = (0, 0);
    until("it is over", Duration::from_secs(1600), || {
        let peaks = process::runners().into_iter().filter_map(|entry| {
            process::Process::hold(&entry)?.status("VmHWM")?.split_whitespace().next()?.parse::<u64>().ok()
        });
        peak = peak.max(peaks.max().unwrap_or(0));
        disk = disk.max(bytes_below(&lab.places().incarnations()));
        (!running.is_running()).then_some(())
    });
    let view: RunView = running.wait().expect_code(0).json();
    let limit = 16 << 20;
    eprintln!("{bytes} bytes in {:?} ms: peak {peak} KiB, evidence {disk} bytes", view.timings_ms.exec);
    assert_eq!(view.outcome.kind, "completed");
    assert_eq!(view.stdout.len() as u64 + view.truncated_bytes, bytes, "what is not kept is counted");
    assert!(view.stdout.len() as u64 <= limit && view.stdout.len() as u64 > limit - (1 << 20));
    assert!(disk < 2 * limit, "the evidence took {disk} bytes");
    assert!(peak > 0 && peak < RUNNER_PEAK, "the runner took {peak} KiB");
}

#[test]
fn a_flood_of_a_hundred_megabytes_takes_neither_disk_nor_memory() {
    on_lab(|lab| flood(lab, 100_000_000));
}

#[test]
fn long_a_flood_of_five_gigabytes_takes_neither_disk_nor_memory() {
    on_lab(|lab| flood(lab, 5_000_000_000));
}
