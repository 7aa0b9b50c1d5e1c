//! Programs that run when a snapshot of their VM is taken: which go on after a restore, and when.

use outlast_e2e::deadline::until;
use outlast_e2e::{Lab, on_lab};
use outlast_wire::vm_view::VmStoppedView;
use std::collections::BTreeSet;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

/// Runs a program that nobody waits for, and gives its number.
#[track_caller]
fn detached(lab: &Lab, script: &str) -> String {
    let line = ["vm", "exec", "--detach", "web", "--", "sh", "-c", script];
    lab.outlast(&line).expect_code(0).stdout_text().trim().to_owned()
}

/// At least so many whole lines of what the program with this number wrote in the newest incarnation.
#[track_caller]
fn lines_of(lab: &Lab, exec: &str, least: usize) -> Vec<String> {
    until("it writes", SOON, || {
        let text = lab.outlast(&["vm", "logs", "--exec", exec, "web"]).expect_code(0).stdout_text();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        Some(whole.lines().map(str::to_owned).collect::<Vec<_>>()).filter(|lines| lines.len() >= least)
    })
}

/// A program that draws randomness as fast as it can has none of another restore of the same snapshot, from its first
/// moment on. (Some dozen of these draws fit between a guest's first instruction and its certification.)
#[test]
fn no_program_of_a_restored_vm_runs_before_its_guest_is_certified() {
    on_lab(|lab| {
        lab.running_vm("web");
        // Nothing of it makes a process, which would take longer than what is looked for.
        let script = "n=0; while [ $n -lt 100000 ]; do n=$((n+1)); \
                      read -r drawn < /proc/sys/kernel/random/uuid; echo $drawn; done; exec sleep 1000";
        let exec = detached(lab, script);
        lines_of(lab, &exec, 3);
        lab.snapshot("web", "running");
        lab.outlast(&["vm", "pause", "web"]).expect_code(0);
        lab.snapshot("web", "paused");
        for name in ["running", "paused"] {
            let mut drawn = Vec::new();
            for _ in 0..2 {
                lab.outlast(&["vm", "stop", "--force", "web"]).expect_code(0);
                lab.restore("web", name);
                // What had been drawn before, and was on its way, may come first.
                drawn.push(lines_of(lab, "1", 200).into_iter().skip(1).collect::<BTreeSet<_>>());
            }
            let both: Vec<_> = drawn[0].intersection(&drawn[1]).collect();
            assert!(both.is_empty(), "{name}: {} were drawn in both, such as {}", both.len(), both[0]);
        }
    });
}

#[test]
fn a_program_with_a_client_ends_and_a_detached_one_goes_on_with_a_log_of_its_own() {
    on_lab(|lab| {
        lab.running_vm("web");
        let told = "trap 'echo ended; exit 3' TERM; echo $$ > /run/alone; n=0; \
                    while :; do n=$((n+1)); echo $n; sleep 0.02; done";
        // So that theirs are not the first numbers.
        lab.sh("web", "true").expect_code(0);
        detached(lab, "sleep 1000");
        let exec = detached(lab, told);
        let client =
            lab.call(&["vm", "exec", "web", "--", "sh", "-c", "echo $$ > /run/attended; exec sleep 1000"]);
        let client = client.start();
        lab.sh("web", "until [ -s /run/attended ] && [ -s /run/alone ]; do sleep 0.02; done").expect_code(0);
        let lives = |file: &str| lab.sh("web", &format!("kill -0 $(cat /run/{file})"));
        lab.snapshot("web", "before");
        lives("attended").expect_code(0);
        let before: u32 = lines_of(lab, &exec, 1).last().expect("a line").parse().expect("a number");
        lab.outlast(&["vm", "stop", "--force", "web"]).expect_code(0);
        client.wait().expect_code(125);

        lab.restore("web", "before");
        lives("alone").expect_code(0);
        assert_ne!(lives("attended").code(), Some(0), "nobody would ever read what it says");
        // It has the number it had; the log begins where the snapshot was taken.
        let first: u32 = lines_of(lab, &exec, 3)[0].parse().expect("a number");
        assert!(first > 1 && first <= before + 1, "{first}, and {before} in the VM that went on");
        assert_eq!(
            detached(lab, "echo new"),
            "6",
            "those of this incarnation come after them, clients' included"
        );

        // What goes on ends like any other.
        let stopped: VmStoppedView = lab.outlast(&["vm", "stop", "--json", "web"]).expect_code(0).json();
        assert_eq!(stopped.rung.as_deref(), Some("agent"));
        let logs = lab.outlast(&["vm", "logs", "--exec", &exec, "web"]).expect_code(3).stdout_text();
        assert!(logs.ends_with("\nended\n"), "{logs}");
    });
}
