//! Programs in a VM: streams, input, codes, signals, terminals; alone, two at once, and cut off.

use outlast_e2e::{Lab, on_lab, until};
use outlast_wire::vm_live_view::{VmDetachedView, VmExecView};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn streams_come_apart_and_the_exit_code_is_the_programs() {
    on_lab(|lab| {
        lab.running_vm("web");
        let output = lab.sh("web", "echo out; echo err >&2; exit 3");
        output.expect_code(3).expect_stdout("out\n");
        assert_eq!(output.stderr_text(), "err\n", "nothing of ours among it");
        lab.sh("web", "true").expect_code(0).expect_stdout("");
        lab.sh("web", "kill -9 $$").expect_code(137);
        lab.sh("web", "kill -TERM $$").expect_code(143);
        let view: VmExecView = lab
            .outlast(&["vm", "exec", "--json", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 3"])
            .expect_code(3)
            .json();
        assert_eq!(
            (view.stdout.as_str(), view.stderr.as_str(), view.outcome.exit_code),
            ("out\n", "err\n", Some(3))
        );
    });
}

#[test]
fn a_program_gets_its_environment_directory_user_and_input() {
    on_lab(|lab| {
        lab.running_vm("web");
        let line = [
            "vm",
            "exec",
            "-i",
            "--env",
            "WORD=yes",
            "--workdir",
            "/tmp",
            "--user",
            "1000:1000",
            "web",
            "--",
            "sh",
            "-c",
            "echo $WORD; pwd; id -u; id -g; cat",
        ];
        let output = lab.call(&line).stdin("typed\n").run();
        output.expect_code(0).expect_stdout("yes\n/tmp\n1000\n1000\ntyped\n");
        // Without -i there is nothing to read, and nothing is waited for.
        lab.outlast(&["vm", "exec", "web", "--", "cat"]).expect_code(0).expect_stdout("");
        lab.outlast(&["vm", "exec", "web", "--", "/no/such/program"])
            .expect_code(125)
            .expect_stderr(&["did not start", "web"]);
        lab.outlast(&["vm", "exec", "--user", "nobody-knows", "web", "--", "true"])
            .expect_code(125)
            .expect_stderr(&["nobody-knows"]);
    });
}

#[test]
fn much_input_and_output_arrive_whole() {
    on_lab(|lab| {
        lab.running_vm("web");
        let data: Vec<u8> = (0..3_000_000u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let output = lab.call(&["vm", "exec", "-i", "web", "--", "cat"]).stdin(data.clone()).run();
        output.expect_code(0);
        assert!(output.stdout == data, "{} of {} bytes", output.stdout.len(), data.len());
    });
}

/// Its end may come together with its beginning.
#[test]
fn many_short_programs_all_end() {
    on_lab(|lab| {
        lab.running_vm("web");
        for _ in 0..40 {
            lab.call(&["vm", "exec", "web", "--", "true"]).within(SOON).run().expect_code(0);
        }
    });
}

#[test]
fn a_time_limit_ends_a_program_and_not_the_vm() {
    on_lab(|lab| {
        lab.running_vm("web");
        lab.outlast(&["vm", "exec", "--timeout", "1s", "web", "--", "sleep", "600"]).expect_code(124);
        lab.outlast(&["vm", "ping", "web"]).expect_code(0);
    });
}

#[test]
fn two_programs_at_once_never_mix() {
    on_lab(|lab| {
        lab.running_vm("web");
        let line = |word: &str| format!("i=0; while [ $i -lt 500 ]; do echo {word} $i; i=$((i+1)); done");
        let start = |word: &str| lab.call(&["vm", "exec", "web", "--", "sh", "-c", &line(word)]).start();
        let calls = [("a", start("a")), ("b", start("b")), ("c", start("c"))];
        for (word, call) in calls {
            let lines: Vec<String> = (0..500).map(|i| format!("{word} {i}")).collect();
            let expected = lines.join("\n") + "\n";
            call.wait().expect_code(0).expect_stdout(&expected);
        }
    });
}

#[test]
fn the_first_interrupt_is_the_programs_and_a_client_that_goes_takes_its_program_along() {
    on_lab(|lab| {
        lab.running_vm("web");
        let script = "trap 'echo caught; exit 7' INT; echo up; while :; do sleep 0.1; done";
        let mut call = lab.call(&["vm", "exec", "web", "--", "sh", "-c", script]).start();
        call.line(0, SOON);
        call.signal(Signal::INT);
        call.wait().expect_code(7).expect_stdout("up\ncaught\n");
        let mut call = lab.call(&["vm", "exec", "web", "--", "sh", "-c", "echo up; exec sleep 4321"]).start();
        call.line(0, SOON);
        call.kill();
        let gone =
            || lab.sh("web", "! pgrep -f 'sleep 432[1]' && ! ps | grep 'sleep 432[1]'").code() == Some(0);
        until("the program is gone with its client", SOON, || gone().then_some(()));
    });
}

#[test]
fn a_detached_program_goes_on_and_its_log_stays() {
    on_lab(|lab| {
        lab.running_vm("web");
        let line =
            ["vm", "exec", "--detach", "--json", "web", "--", "sh", "-c", "echo begun; sleep 1; echo done"];
        let view: VmDetachedView = lab.outlast(&line).expect_code(0).json();
        let number = view.exec.to_string();
        let log = || lab.outlast(&["vm", "logs", "web", "--exec", &number]).expect_code(0).stdout_text();
        until("it is done", SOON, || (log() == "begun\ndone\n").then_some(()));
        lab.outlast(&["vm", "logs", "web", "--exec", "99"]).expect_code(3).expect_stderr(&["program 99"]);
        lab.outlast(&["vm", "stop", "web"]).expect_code(0);
        assert_eq!(log(), "begun\ndone\n", "what was kept is there without the VM");
    });
}

#[test]
fn a_program_that_a_dying_vm_cuts_off_is_lost_and_does_not_hang() {
    on_lab(|lab| {
        for victim in ["vmm", "runner"] {
            lab.running_vm(victim);
            let mut call =
                lab.call(&["vm", "exec", victim, "--", "sh", "-c", "echo up; exec sleep 600"]).start();
            call.line(0, SOON);
            let (runner, vmm) = lab.processes_of(victim);
            let began = Instant::now();
            if victim == "vmm" {
                vmm.kill();
            } else {
                runner.kill();
            }
            call.wait().expect_code(125).expect_stdout("up\n").expect_stderr(&["lost"]);
            assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
        }
    });
}

/// A terminal, of which we hold the other end.
struct Terminal {
    ours: File,
    theirs: File,
}

impl Terminal {
    fn open(rows: u16, columns: u16) -> Self {
        let ours: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&ours).expect("it is ours");
        unlockpt(&ours).expect("it can be opened");
        let name = ptsname(&ours, Vec::new()).expect("it has a name");
        let theirs = File::options()
            .read(true)
            .write(true)
            .open(name.to_str().expect("a path of letters"))
            .expect("it is there");
        let terminal = Self { ours: File::from(ours), theirs };
        terminal.resize(rows, columns);
        terminal
    }

    fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.ours, size).expect("a terminal has a size");
    }

    fn is_cooked(&self) -> bool {
        tcgetattr(&self.theirs)
            .expect("it is a terminal")
            .local_modes
            .contains(LocalModes::ICANON | LocalModes::ISIG)
    }

    fn type_in(&mut self, keys: &str) {
        self.ours.write_all(keys.as_bytes()).expect("it can be typed on");
    }
}

/// Reads a terminal until this was shown; what came so far is kept in `seen`.
fn until_shown(terminal: &mut Terminal, seen: &mut String, wanted: &str) {
    let mut buffer = [0; 1024];
    let deadline = Instant::now() + SOON;
    while !seen.contains(wanted) {
        assert!(Instant::now() < deadline, "'{wanted}' is not shown: {seen}");
        let mut wanted_of = [PollFd::new(&terminal.ours, PollFlags::IN)];
        let shown =
            poll(&mut wanted_of, Some(&Timespec { tv_sec: 1, tv_nsec: 0 })).expect("it can be waited for");
        if shown == 0 {
            continue;
        }
        let length = terminal.ours.read(&mut buffer).expect("the terminal is there");
        seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
}

fn on_terminal(lab: &Lab, terminal: &Terminal, words: &[&str]) -> std::process::Child {
    let stream = || Stdio::from(terminal.theirs.try_clone().expect("it is open"));
    let mut command = Command::new(lab.binaries().join("outlast"));
    command.args(words).env("OUTLAST_HOME", lab.home()).env("OUTLAST_LIBRARY", lab.places().library().path());
    command.stdin(stream()).stdout(stream()).stderr(stream());
    command.process_group(0);
    command.spawn().expect("outlast can be started")
}

#[test]
fn a_terminal_passes_keys_and_sizes_on_and_is_left_as_it_was() {
    on_lab(|lab| {
        lab.running_vm("web");
        let mut terminal = Terminal::open(33, 99);
        let mut child = on_terminal(lab, &terminal, &["vm", "exec", "-it", "web", "--", "sh"]);
        until("the terminal is raw", SOON, || (!terminal.is_cooked()).then_some(()));
        let mut seen = String::new();
        terminal.type_in("echo is$((6*7))there; stty size; tty -s && echo a-tty\n");
        until_shown(&mut terminal, &mut seen, "is42there");
        until_shown(&mut terminal, &mut seen, "33 99");
        until_shown(&mut terminal, &mut seen, "\na-tty");
        // Ctrl-C ends what runs in there, and neither the shell nor us. It goes to whoever is in the foreground when it
        // comes, so that must be seen to be the one that sleeps.
        terminal.type_in("sh -c 'echo sleeps$((1+1)); exec sleep 600'\n");
        until_shown(&mut terminal, &mut seen, "sleeps2");
        terminal.type_in("\u{3}");
        terminal.type_in("echo after$((1+1))\n");
        until_shown(&mut terminal, &mut seen, "after2");
        terminal.resize(50, 120);
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::WINCH).unwrap();
        let sized = |terminal: &mut Terminal, seen: &mut String| {
            terminal.type_in("stty size; echo sized\n");
            until_shown(terminal, seen, "\nsized");
            let shown = seen.contains("50 120");
            seen.clear();
            shown
        };
        until("the new size has arrived", SOON, || sized(&mut terminal, &mut seen).then_some(()));
        terminal.type_in("exit 5\n");
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(5));
        assert!(terminal.is_cooked(), "the terminal is left as it was");
        // And when it is told to go in the middle.
        let mut child = on_terminal(lab, &terminal, &["vm", "exec", "-it", "web", "--", "sh"]);
        until("the terminal is raw", SOON, || (!terminal.is_cooked()).then_some(()));
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(125));
        assert!(terminal.is_cooked());
    });
}

#[test]
fn a_console_shows_what_the_guest_says_and_is_left_by_its_key() {
    on_lab(|lab| {
        lab.running_vm("web");
        let mut terminal = Terminal::open(24, 80);
        let mut child = on_terminal(lab, &terminal, &["vm", "console", "web"]);
        until("the terminal is raw", SOON, || (!terminal.is_cooked()).then_some(()));
        lab.sh("web", "echo spoken > /dev/console").expect_code(0);
        let mut seen = String::new();
        until_shown(&mut terminal, &mut seen, "spoken");
        terminal.type_in("\u{1d}");
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert!(terminal.is_cooked());
        let logs = lab.outlast(&["vm", "logs", "web"]);
        assert!(logs.expect_code(0).stdout_text().contains("spoken"), "{logs}");
    });
}
