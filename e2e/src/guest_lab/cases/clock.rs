//! A host whose clock is stepped by an hour: no deadline moves, and every guest has the host's time before anything
//! runs in it. Only an emulated host may have its clock set.

use super::{PATIENCE, expect_end, shell};
use crate::guest_lab::suite::Case;
use crate::{Lab, until};
use outlast_wire::record::CertificateRecord;
use outlast_wire::view::RunView;
use rustix::time::{ClockId, clock_gettime, clock_settime};
use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// In this order: the first makes the template.
pub const CASES: &[Case] = &[
    Case { name: "a_clone_knows_the_time_of_a_host_that_is_an_hour_ahead_of_its_template", run: clone_ahead },
    Case { name: "a_clone_knows_the_time_of_a_host_that_is_an_hour_behind_its_template", run: clone_behind },
    Case { name: "a_boot_during_which_the_hosts_clock_is_stepped_knows_the_time", run: boots },
    Case { name: "a_program_is_over_at_its_time_whatever_the_hosts_clock_says", run: timeout },
    Case { name: "a_program_is_not_taken_for_dead_when_the_hosts_clock_is_stepped", run: left_alone },
];

const HOUR: i64 = 3600;
/// As published.
const TOLERANCE_NS: i64 = 50_000_000;
/// Long enough for a slow host to be asked twice meanwhile.
const LIMIT: Duration = Duration::from_secs(60);
/// What an emulated host may take to find out that a time is over. An hour is another thing.
const LATE: Duration = Duration::from_secs(60);

/// Sets this machine's clock forward, or back.
#[track_caller]
fn step(seconds: i64) {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    assert!(line.contains("outlast_lab="), "only the guest lab's clock may be set");
    let mut now = clock_gettime(ClockId::Realtime);
    now.tv_sec += seconds;
    clock_settime(ClockId::Realtime, now).expect("root sets the clock");
}

fn unix() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970")
}

#[track_caller]
fn expect_right(certificate: Option<CertificateRecord>) {
    let certificate = certificate.expect("what runs is certified");
    let [low, high] = certificate.clock_offset_ns;
    assert!(-TOLERANCE_NS <= low && low <= high && high <= TOLERANCE_NS, "{certificate:#?}");
}

/// A program asks its guest for the time, and is told the host's.
#[track_caller]
fn expect_the_time(lab: &Lab, options: &[&str], from: &str) {
    let options = [&["--json"], options].concat();
    let before = unix();
    let view: RunView = shell(lab, &options, "date +%s").expect_code(0).json();
    let after = unix();
    assert_eq!(view.started_from.as_deref(), Some(from), "{view:#?}");
    let told = Duration::from_secs(view.stdout.trim().parse().expect("seconds"));
    let second = Duration::from_secs(1);
    assert!(before <= told + second && told <= after + second, "{before:?} {told:?} {after:?}");
    expect_right(view.certificate);
}

fn clone_ahead(lab: &Lab) {
    expect_the_time(lab, &[], "clone");
    step(HOUR);
    expect_the_time(lab, &[], "clone");
}

fn clone_behind(lab: &Lab) {
    // Whatever the clock says now: the template is the one of the case before, or a new one.
    expect_the_time(lab, &[], "clone");
    step(-2 * HOUR);
    expect_the_time(lab, &[], "clone");
}

fn boots(lab: &Lab) {
    for seconds in [HOUR, -HOUR] {
        let options = ["run", "--json", "--cold", "--image", "base", "--", "true"];
        let running = lab.call(&options).within(PATIENCE).start();
        until("it boots", PATIENCE, || {
            lab.workloads().iter().any(|view| view.state == "starting").then_some(())
        });
        step(seconds);
        let view: RunView = running.wait().expect_code(0).json();
        assert_eq!(view.started_from.as_deref(), Some("boot"), "{view:#?}");
        expect_right(view.certificate);
    }
}

/// Starts a program that does nothing for long, and waits until it says that it runs.
#[track_caller]
fn begin(lab: &Lab) -> String {
    let limit = format!("{}s", LIMIT.as_secs());
    let output = shell(lab, &["--detach", "--timeout", &limit], "echo up; sleep 3600");
    let id = output.expect_code(0).stdout_text().trim().to_owned();
    until("the program prints", PATIENCE, || (!lab.outlast(&["logs", &id]).stdout.is_empty()).then_some(()));
    id
}

fn timeout(lab: &Lab) {
    for seconds in [HOUR, -HOUR] {
        let began = Instant::now();
        let id = begin(lab);
        let runs = Instant::now();
        step(seconds);
        let view = lab.until_over(&id, LIMIT + LATE);
        expect_end(&view, "timed_out", "timed_out");
        // It started between these two moments, by a clock that nobody sets.
        assert!(began.elapsed() >= LIMIT, "{:?}", began.elapsed());
        assert!(runs.elapsed() < LIMIT + LATE, "{:?}", runs.elapsed());
        let exec = view.timings_ms.exec.expect("it was started");
        let exec = Duration::from_secs_f64(exec / 1000.0);
        assert!(LIMIT <= exec && exec < LIMIT + LATE, "{exec:?}");
    }
}

fn left_alone(lab: &Lab) {
    let id = begin(lab);
    for seconds in [HOUR, -2 * HOUR, HOUR] {
        step(seconds);
        // Whoever asks looks after runners that have been silent for long.
        let view = lab.show(&id);
        assert_eq!(view.state, "running", "after {seconds} s: {view:#?}");
    }
    lab.outlast(&["kill", &id]).expect_code(0);
    expect_end(&lab.until_over(&id, PATIENCE), "killed", "stopped");
}
