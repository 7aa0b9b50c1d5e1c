//! What programs print: when it reaches its reader, in which order, and how much of it is kept.

use outlast_e2e::on_lab;
use outlast_wire::view::RunView;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The published limit: a line is with its reader this long after it was printed.
const STREAMED_WITHIN: Duration = Duration::from_secs(1);
/// A guest's clock is certified to be this close to ours.
const CLOCK_TOLERANCE: Duration = Duration::from_millis(50);

/// Prints its own clock, once a second, and then waits long enough to be seen running.
const TICKER: &str =
    "import time\nfor i in range(3):\n    print(i, time.time_ns())\n    time.sleep(1)\ntime.sleep(2)\n";

#[track_caller]
fn expect_prompt(line: &outlast_e2e::call::Line, number: usize) {
    let (index, printed) = line.text.split_once(' ').expect("index and time");
    assert_eq!(index, number.to_string());
    let printed = UNIX_EPOCH + Duration::from_nanos(printed.parse().expect("a time"));
    assert!(printed <= SystemTime::now() + CLOCK_TOLERANCE, "printed in the future: {line:?}");
    let late = line.read_at.duration_since(printed).unwrap_or_default();
    eprintln!("line {number} was read {late:?} after it was printed");
    assert!(late < STREAMED_WITHIN + CLOCK_TOLERANCE, "line {number} took {late:?}");
}

#[test]
fn alone_lines_reach_the_reader_within_a_second_while_the_program_runs() {
    on_lab(|lab| {
        let mut running = lab.python(TICKER, &[]).start();
        for number in 0..3 {
            let line = running.line(number, Duration::from_secs(120));
            assert!(running.is_running(), "the program is not over when its line arrives");
            expect_prompt(&line, number);
        }
        running.wait().expect_code(0);
    });
}

#[test]
fn alone_lines_reach_a_follower_of_the_log_within_a_second() {
    on_lab(|lab| {
        let id = lab.detached_python(TICKER);
        let mut follower = lab.call(&["logs", "-f", &id]).start();
        for number in 0..3 {
            let line = follower.line(number, Duration::from_secs(120));
            assert!(lab.show(&id).outcome.is_none(), "the program still runs");
            expect_prompt(&line, number);
        }
        // The follower ends by itself when the program has.
        follower.wait().expect_code(0);
        assert_eq!(lab.show(&id).state, "completed");
    });
}

#[test]
fn a_log_read_later_is_what_was_printed() {
    on_lab(|lab| {
        let output = lab.python("import sys\nprint('out')\nprint('err', file=sys.stderr)", &[]).run();
        output.expect_code(0);
        let id = lab.only_workload().id;
        let log = lab.outlast(&["logs", &id]);
        log.expect_code(0).expect_stdout("out\n");
        assert!(log.stderr_text().contains("err\n"), "{log}");
    });
}

/// Fifty million bytes in numbered lines of a thousand.
const LINES: usize = 50_000;
const LINE: usize = 1000;
const FLOOD: &str = "import sys\nfor i in range(50000):\n    sys.stdout.write(f'{i:0999d}\\n')\n";

fn flood() -> Vec<u8> {
    (0..LINES).flat_map(|i| format!("{i:0999}\n").into_bytes()).collect()
}

#[test]
fn alone_fifty_megabytes_are_cut_at_the_limit_in_order_and_the_cut_is_marked() {
    on_lab(|lab| {
        let output = lab.python(FLOOD, &["--timeout", "300s"]).run();
        output.expect_code(0);
        let (all, kept) = (flood(), output.stdout.len());
        assert!(output.stdout[..] == all[..kept], "what was kept is the beginning, in order");
        assert!(kept <= 16 << 20 && kept > 15 << 20, "kept {kept} of {}", LINES * LINE);
        let mark = format!("truncated, {} bytes dropped", all.len() - kept);
        output.expect_stderr(&[&mark]);
        assert_eq!(lab.only_workload().truncated_bytes, u64::try_from(all.len() - kept).unwrap());
    });
}

#[test]
fn alone_the_cut_is_in_the_json_too() {
    on_lab(|lab| {
        let view: RunView = lab
            .python(FLOOD, &["--json", "--timeout", "300s", "--output-limit", "1M"])
            .run()
            .expect_code(0)
            .json();
        assert_eq!(view.stdout.len() + usize::try_from(view.truncated_bytes).unwrap(), LINES * LINE);
        assert!(view.stdout.len() <= 1 << 20 && view.truncated_bytes > 0);
        assert_eq!(view.outcome.kind, "completed", "a program that talks too much is not killed for it");
    });
}

#[test]
fn alone_fifty_megabytes_come_whole_when_the_limit_allows_it() {
    on_lab(|lab| {
        let output = lab.python(FLOOD, &["--timeout", "300s", "--output-limit", "64M"]).run();
        output.expect_code(0);
        assert!(output.stdout == flood(), "fifty megabytes, in order: {output}");
        assert_eq!(lab.only_workload().truncated_bytes, 0);
        assert!(!output.stderr_text().contains("truncated"));
    });
}

#[test]
fn the_boot_messages_of_an_incarnation_are_kept_and_shown() {
    on_lab(|lab| {
        lab.python("print('x')", &["--cold"]).run().expect_code(0);
        let id = lab.only_workload().id;
        let console = lab.outlast(&["logs", "--console", &id]);
        console.expect_code(0);
        assert!(console.stdout.len() > 20, "a booted guest says something: {console}");
        let kept = std::fs::read(lab.incarnations().last().unwrap().console_log()).unwrap();
        assert_eq!(console.stdout, kept);
    });
}
