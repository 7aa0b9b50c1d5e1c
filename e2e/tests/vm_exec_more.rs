//! What is known of programs in a VM afterwards, whom they run as, how long they are waited for; and what a VM uses.

use outlast_e2e::{on_lab, until};
use outlast_wire::view::LogsView;
use outlast_wire::vm_live_view::VmStatsView;
use rustix::process::Signal;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

#[test]
fn how_a_detached_program_ended_is_known_afterwards_and_outlives_its_vm() {
    on_lab(|lab| {
        lab.running_vm("web");
        let start = |script: &str| {
            let line = ["vm", "exec", "--detach", "web", "--", "sh", "-c", script];
            lab.outlast(&line).expect_code(0).stdout_text().trim().to_owned()
        };
        let logs = |number: &str, more: &[&str]| {
            lab.outlast(&[&["vm", "logs", "web", "--exec", number], more].concat())
        };
        let five = start("echo out; exit 5");
        let slow = start("echo begun; sleep 2; echo over");
        let endless = start("echo endless; exec sleep 1000");
        // Followed to the program's end, and not to the VM's.
        logs(&five, &["-f"]).expect_code(5).expect_stdout("out\n");
        logs(&slow, &["--follow"]).expect_code(0).expect_stdout("begun\nover\n");
        until("it has begun", SOON, || (logs(&endless, &[]).stdout_text() == "endless\n").then_some(()));
        logs(&endless, &[]).expect_code(0);
        let view: LogsView = logs(&five, &["--json"]).expect_code(5).json();
        assert_eq!((view.outcome.unwrap().exit_code, view.stdout.as_str()), (Some(5), "out\n"));
        let view: LogsView = logs(&endless, &["--json"]).expect_code(0).json();
        assert_eq!(view.outcome, None, "it runs");
        let (_runner, vmm) = lab.processes_of("web");
        vmm.signal(Signal::KILL);
        lab.until_vm("web", "stopped");
        logs(&five, &[]).expect_code(5).expect_stdout("out\n");
        logs(&endless, &[]).expect_code(125).expect_stdout("endless\n").expect_stderr(&["lost"]);
        let view: LogsView = logs(&endless, &["--json"]).expect_code(125).json();
        assert_eq!(view.outcome.unwrap().kind, "lost");
    });
}

/// Nobody was there to write its end down.
#[test]
fn a_detached_program_whose_runner_was_killed_is_lost() {
    on_lab(|lab| {
        lab.running_vm("web");
        let line = ["vm", "exec", "--detach", "web", "--", "sleep", "1000"];
        let number = lab.outlast(&line).expect_code(0).stdout_text().trim().to_owned();
        let (runner, _vmm) = lab.processes_of("web");
        runner.kill();
        lab.outlast(&["vm", "logs", "web", "--exec", &number]).expect_code(125).expect_stderr(&["lost"]);
    });
}

#[test]
fn a_guest_that_does_not_end_a_program_in_time_is_not_waited_for() {
    on_lab(|lab| {
        lab.running_vm("web");
        let line = ["vm", "exec", "--timeout", "2s", "web", "--", "sh", "-c", "echo up; exec sleep 1000"];
        let mut call = lab.call(&line).start();
        call.line(0, SOON);
        let (_runner, vmm) = lab.processes_of("web");
        vmm.signal(Signal::STOP);
        call.limit_from_now(Duration::from_secs(30));
        call.wait().expect_code(125).expect_stderr(&["its time was over"]);
        vmm.signal(Signal::CONT);
        // The guest heard of it all the same, and goes on.
        until("the program is gone", SOON, || {
            (lab.sh("web", "! pgrep -f 'sleep 100[0]'").code() == Some(0)).then_some(())
        });
    });
}

#[test]
fn users_are_those_that_the_guest_knows_with_their_groups_and_homes() {
    on_lab(|lab| {
        lab.running_vm("web");
        let users = "echo 'ann:x:4001:4002:Ann:/srv/ann:/bin/sh' >> /etc/passwd; \
                     printf 'anns:x:4002:\\ntools:x:4003:bob,ann\\nother:x:4004:bob\\n' >> /etc/group";
        lab.sh("web", users).expect_code(0);
        let who = |user: &str| {
            let script = "echo $(id -u) $(id -g) $(id -G) $HOME";
            lab.outlast(&["vm", "exec", "--user", user, "web", "--", "sh", "-c", script])
        };
        who("ann").expect_code(0).expect_stdout("4001 4002 4002 4003 /srv/ann\n");
        who("4001").expect_code(0).expect_stdout("4001 4002 4002 4003 /srv/ann\n");
        who("ann:other").expect_code(0).expect_stdout("4001 4004 4004 /srv/ann\n");
        who("5005:6006").expect_code(0).expect_stdout("5005 6006 6006 /\n");
        who("root").expect_code(0).expect_stdout("0 0 0 /root\n");
        who("nobody-knows")
            .expect_code(125)
            .expect_stderr(&["did not start", "knows no user 'nobody-knows'"]);
        who("ann:nobodies").expect_code(125).expect_stderr(&["knows no group 'nobodies'"]);
        let line =
            ["vm", "exec", "--user", "ann", "--env", "HOME=/own", "web", "--", "sh", "-c", "echo $HOME"];
        lab.outlast(&line).expect_code(0).expect_stdout("/own\n");
    });
}

#[test]
fn what_a_vm_uses_is_told_by_host_and_guest() {
    on_lab(|lab| {
        lab.running_vm("web");
        let stats =
            || -> VmStatsView { lab.outlast(&["vm", "stats", "--json", "web"]).expect_code(0).json() };
        let used = stats();
        let guest = used.guest.expect("it answers");
        let memory = guest.memory_bytes.expect("it says its memory");
        assert!(memory > 64 << 20 && memory < 128 << 20 && guest.memory_available_bytes < Some(memory));
        let disk = (guest.root_bytes.unwrap(), guest.root_free_bytes.unwrap());
        assert!(disk.0 > 40 << 20 && disk.0 < 64 << 20 && disk.1 < disk.0, "the VM's own disk: {disk:?}");
        lab.sh("web", "head -c 20000000 /dev/zero > /srv/twenty").expect_code(0);
        let less = stats().guest.unwrap().root_free_bytes.unwrap();
        assert!(disk.1 - less > 15_000_000, "{disk:?} {less}");
        if let Some(cgroup) = used.cgroup {
            assert!(cgroup.memory_bytes > Some(16 << 20) && cgroup.threads > Some(1), "{cgroup:?}");
        }
        let text = lab.outlast(&["vm", "stats", "web"]);
        for word in ["guest memory", "guest load", "guest disk", "control group"] {
            assert!(text.stdout_text().contains(word), "{text}");
        }
        lab.outlast(&["vm", "pause", "web"]).expect_code(0);
        assert_eq!(stats().guest, None, "nobody is asked who cannot answer");
        let shown = lab.outlast(&["vm", "show", "web"]).expect_code(0).stdout_text();
        assert!(shown.lines().all(|line| line.trim_end() == line), "{shown:?}");
    });
}
