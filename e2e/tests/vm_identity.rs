//! A recorded pid that belongs to another process by now: whoever has it is never signalled, whatever is asked.

use outlast_e2e::{Lab, on_lab};
use rusqlite::{Connection, params};
use std::process::{Child, Command};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

/// A process of nobody's concern. It is killed when the test is over.
struct Bystander(Child);

impl Bystander {
    fn start() -> Self {
        Self(Command::new("sleep").arg("1000").spawn().expect("a process can be started"))
    }

    #[track_caller]
    fn expect_unharmed(&mut self, after: &str) {
        let ended = self.0.try_wait().expect("it is our own child");
        assert_eq!(ended, None, "the bystander is dead after {after}");
        let state = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("it lives");
        let state = state.lines().find(|line| line.starts_with("State:")).unwrap_or_default();
        assert!(state.contains("(sleeping)"), "it was stopped by {after}: {state}");
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the store says of an incarnation that is not over.
#[derive(Debug, Clone, Copy)]
enum Forgery {
    /// The pid of the bystander, the start time of who had it before.
    Pid,
    /// The same, and it is to die.
    Dying,
    /// The same of another boot of the host, with the bystander's own start time.
    Rebooted,
}

impl Forgery {
    const ALL: [Self; 3] = [Self::Pid, Self::Dying, Self::Rebooted];

    fn forge(self, lab: &Lab, bystander: &Bystander) {
        let store = Connection::open(lab.places().database()).expect("the store can be opened");
        store.busy_timeout(SOON).expect("a timeout can be set");
        let pid = bystander.0.id();
        let change = match self {
            Self::Pid => "runner_pid = ?1, vmm_pid = ?1",
            Self::Dying => "runner_pid = ?1, vmm_pid = ?1, state = 'dying', dying = '[\"stood still\"]'",
            Self::Rebooted => {
                "runner_pid = ?1, vmm_pid = ?1, runner_boot_id = 'another', vmm_boot_id = 'another', \
                 runner_start_time = ?2, vmm_start_time = ?2"
            }
        };
        let change = format!("UPDATE incarnations SET {change} WHERE state <> 'ended'");
        let forged = match self {
            Self::Rebooted => store.execute(&change, params![pid, start_of(pid)]),
            Self::Pid | Self::Dying => store.execute(&change, params![pid]),
        };
        assert_eq!(forged.expect("the store can be written"), 1, "{self:?}");
    }
}

fn start_of(pid: u32) -> i64 {
    let line = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let (_, fields) = line.rsplit_once(')').expect("a name in brackets");
    fields.split_whitespace().nth(19).and_then(|field| field.parse().ok()).expect("a start time")
}

/// Kills the VM's runner and writes the bystander in its place.
fn replace(lab: &Lab, forgery: Forgery, bystander: &Bystander) {
    lab.processes_of("web").0.kill();
    forgery.forge(lab, bystander);
}

#[test]
fn whoever_has_the_pid_of_a_dead_runner_or_vmm_is_never_signalled() {
    on_lab(|lab| {
        let mut bystander = Bystander::start();
        lab.create_vm("web");
        let commands: [&[&str]; 9] = [
            &["vm", "stop", "web"],
            &["vm", "stop", "--force", "web"],
            &["vm", "ls"],
            &["doctor", "--fix"],
            &["vm", "ping", "web"],
            &["vm", "exec", "web", "--", "true"],
            &["vm", "pause", "web"],
            &["vm", "stats", "web"],
            &["vm", "rm", "--force", "web"],
        ];
        for forgery in Forgery::ALL {
            for command in commands {
                // A removal needs a VM again.
                if lab.vms().is_empty() {
                    lab.create_vm("web");
                }
                lab.start_vm("web");
                replace(lab, forgery, &bystander);
                let output = lab.outlast(command);
                bystander.expect_unharmed(&format!("{forgery:?} and {command:?}"));
                let states: Vec<_> = lab.vms().into_iter().map(|vm| vm.state).collect();
                assert!(states.is_empty() || states == ["stopped"], "{forgery:?}: {states:?} after {output}");
            }
        }
        bystander.expect_unharmed("everything");
    });
}
