//! Programs that run when a snapshot of their VM is taken: which go on after a restore, and when.

use outlast_e2e::deadline::until;
use outlast_e2e::{Lab, on_lab};
use outlast_wire::vm_view::VmStoppedView;
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// A program that draws randomness and looks at the clock all the time has neither that of the snapshot, nor that of
/// another restore of it, from its first moment on.
#[test]
fn no_program_of_a_restored_vm_runs_before_its_guest_is_certified() {
    on_lab(|lab| {
        lab.running_vm("web");
        let script = "while :; do echo $(cat /proc/sys/kernel/random/uuid) $(date +%s); done";
        let exec = detached(lab, script);
        lines_of(lab, &exec, 3);
        for (name, paused) in [("running", false), ("paused", true)] {
            lab.sh("web", "date -s @$(($(date +%s) - 3600))").expect_code(0);
            if paused {
                lab.outlast(&["vm", "pause", "web"]).expect_code(0);
            }
            lab.snapshot("web", name);
            if paused {
                lab.outlast(&["vm", "resume", "web"]).expect_code(0);
            }
        }
        let mut drawn = Vec::new();
        for name in ["running", "running", "paused", "paused"] {
            lab.outlast(&["vm", "stop", "--force", "web"]).expect_code(0);
            let before = now();
            lab.restore("web", name);
            // The first line may have been begun before the snapshot was taken.
            for line in lines_of(lab, "1", 6).iter().skip(1).take(4) {
                let (uuid, told) = line.split_once(' ').expect("two words");
                let told: u64 = told.parse().expect("a time");
                assert!(told + 1 >= before && told <= now() + 1, "{name}: {told}, and it is {}", now());
                drawn.push(uuid.to_owned());
            }
        }
        let different: BTreeSet<_> = drawn.iter().collect();
        assert_eq!(different.len(), drawn.len(), "{drawn:?}");
    });
}

#[test]
fn a_program_with_a_client_ends_and_a_detached_one_goes_on_with_a_log_of_its_own() {
    on_lab(|lab| {
        lab.running_vm("web");
        let told = "trap 'echo ended; exit 3' TERM; echo $$ > /run/alone; n=0; \
                    while :; do n=$((n+1)); echo $n; sleep 0.02; done";
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
        // Numbered anew, in the order in which they were begun; the log begins where the snapshot was taken.
        let first: u32 = lines_of(lab, "2", 3)[0].parse().expect("a number");
        assert!(first > 1 && first <= before + 1, "{first}, and {before} in the VM that went on");
        assert_eq!(
            detached(lab, "echo new"),
            "5",
            "those of this incarnation come after them, clients' included"
        );

        // What goes on ends like any other.
        let stopped: VmStoppedView = lab.outlast(&["vm", "stop", "--json", "web"]).expect_code(0).json();
        assert_eq!(stopped.rung.as_deref(), Some("agent"));
        assert_eq!(lines_of(lab, "2", 3).last().map(String::as_str), Some("ended"));
    });
}
