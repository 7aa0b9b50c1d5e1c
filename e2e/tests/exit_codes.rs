//! How programs end, and what `outlast run` ends with then.

use outlast_e2e::on_lab;
use outlast_wire::view::RunView;

#[test]
fn exit_code_three_is_three_and_a_failure() {
    on_lab(|lab| {
        let output = lab.python("import sys; sys.exit(3)", &["--json"]).run();
        let view: RunView = output.expect_code(3).json();
        assert_eq!((view.outcome.kind.as_str(), view.outcome.exit_code), ("failed", Some(3)));
    });
}

#[test]
fn exit_code_zero_is_zero_and_completed() {
    on_lab(|lab| {
        let view: RunView = lab.python("pass\n", &["--json"]).run().expect_code(0).json();
        assert_eq!((view.outcome.kind.as_str(), view.outcome.exit_code), ("completed", Some(0)));
    });
}

#[test]
fn exit_code_255_is_not_success() {
    on_lab(|lab| {
        lab.python("import os; os._exit(255)", &[]).run().expect_code(255);
    });
}

#[test]
fn death_by_a_signal_is_128_and_the_signal() {
    on_lab(|lab| {
        let arguments = ["run", "--json", "--image", "base", "--", "sh", "-c", "kill -SEGV $$"];
        let view: RunView = lab.outlast(&arguments).expect_code(139).json();
        assert_eq!(
            (view.outcome.kind.as_str(), view.outcome.exit_code, view.outcome.signal),
            ("failed", None, Some(11))
        );
        let term = lab.outlast(&["run", "--image", "base", "--", "sh", "-c", "kill -TERM $$"]);
        term.expect_code(143);
    });
}

#[test]
fn a_program_that_kills_itself_with_kill_is_a_signal_and_not_a_kill_by_us() {
    on_lab(|lab| {
        let arguments = ["run", "--json", "--image", "base", "--", "sh", "-c", "kill -KILL $$"];
        let view: RunView = lab.outlast(&arguments).expect_code(137).json();
        assert_eq!((view.outcome.kind.as_str(), view.outcome.signal), ("failed", Some(9)));
    });
}

#[test]
fn a_program_beyond_its_memory_is_out_of_memory_and_the_guest_lives_to_say_so() {
    on_lab(|lab| {
        let code = "held = []\nwhile True:\n    held.append(bytearray(4 << 20))\n";
        let view: RunView = lab
            .python(code, &["--json", "--memory", "128M", "--timeout", "120s"])
            .run()
            .expect_code(137)
            .json();
        assert_eq!(view.outcome.kind, "out_of_memory");
    });
}

#[test]
fn a_program_that_is_not_in_the_image_never_started_and_says_so() {
    on_lab(|lab| {
        let output = lab.outlast(&["run", "--json", "--image", "base", "--", "/no/such/program"]);
        let view: RunView = output.expect_code(125).json();
        assert_eq!(view.outcome.kind, "not_started");
        assert!(view.outcome.cause.expect("a cause").contains("/no/such/program"));
    });
}

#[test]
fn standard_output_and_standard_error_stay_apart_and_whole() {
    on_lab(|lab| {
        let code =
            "import sys\nfor i in range(200):\n    print('o', i)\n    print('e', i, file=sys.stderr)\n";
        let output = lab.python(code, &[]).run();
        output.expect_code(0);
        let lines = |letter: &str| (0..200).fold(String::new(), |text, i| text + &format!("{letter} {i}\n"));
        output.expect_stdout(&lines("o"));
        // Human text of ours goes to standard error too, in whole lines around the program's.
        assert!(output.stderr_text().contains(&lines("e")), "{output}");
        assert!(!output.stderr_text().contains("o 1\n"));
    });
}

#[test]
fn bytes_that_are_not_text_come_through_unchanged() {
    on_lab(|lab| {
        let code = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 3)";
        let output = lab.python(code, &[]).run();
        output.expect_code(0);
        let expected: Vec<u8> = (0..=255).cycle().take(768).collect();
        assert_eq!(output.stdout, expected);
    });
}

#[test]
fn what_a_program_leaves_running_in_its_guest_does_not_hold_up_the_end() {
    on_lab(|lab| {
        let script = "sleep 1000 & echo done";
        let output = lab.outlast(&["run", "--timeout", "60s", "--image", "base", "--", "sh", "-c", script]);
        output.expect_code(0).expect_stdout("done\n");
    });
}
