//! KVM for real: the canary chooses it, and guests on it boot, are cloned, run, and end as they should.

use super::{PATIENCE, SOON, detached, expect_end, shell};
use crate::Lab;
use crate::guest_lab::suite::Case;
use outlast_wire::view::RunView;

/// In this order: the first finds out about KVM, a later one makes the template.
pub const CASES: &[Case] = &[
    Case { name: "the_canary_chooses_kvm", run: the_canary_chooses_kvm },
    Case { name: "a_cold_boot_on_kvm_runs_and_is_certified", run: a_cold_boot },
    Case { name: "a_clone_on_kvm_runs_and_is_certified", run: a_clone },
    Case { name: "a_program_on_kvm_is_over_at_its_time", run: a_timeout },
    Case { name: "a_program_on_kvm_is_killed_on_request", run: a_kill },
    Case { name: "a_killed_vmm_on_kvm_is_lost_with_its_signal", run: a_killed_vmm },
];

fn the_canary_chooses_kvm(lab: &Lab) {
    let doctor = lab.doctor();
    let check = doctor.checks.iter().find(|check| check.name == "kvm").expect("the doctor looks at KVM");
    assert_eq!(check.status, "ok", "{check:#?}");
}

/// Without `--accel`: what is chosen is what the canary said.
#[track_caller]
fn run_on_kvm(lab: &Lab, options: &[&str], from: &str) {
    let options = [&["--json"], options].concat();
    let view: RunView = shell(lab, &options, "echo hello").expect_code(0).json();
    assert_eq!((view.accelerator.as_str(), view.started_from.as_deref()), ("kvm", Some(from)), "{view:#?}");
    assert_eq!(view.stdout, "hello\n", "{view:#?}");
    let certificate = view.certificate.expect("what runs is certified");
    assert!(certificate.entropy_bytes > 0, "{certificate:#?}");
}

fn a_cold_boot(lab: &Lab) {
    run_on_kvm(lab, &["--cold"], "boot");
}

fn a_clone(lab: &Lab) {
    run_on_kvm(lab, &[], "clone");
    run_on_kvm(lab, &[], "clone");
}

fn a_timeout(lab: &Lab) {
    shell(lab, &["--timeout", "2s"], "sleep 600").expect_code(124);
    expect_end(&lab.only_workload(), "timed_out", "timed_out");
}

fn a_kill(lab: &Lab) {
    let id = detached(lab, "echo up; sleep 600");
    lab.outlast(&["kill", &id]).expect_code(0);
    expect_end(&lab.until_over(&id, SOON), "killed", "stopped");
}

fn a_killed_vmm(lab: &Lab) {
    let id = detached(lab, "echo up; sleep 600");
    lab.vmm(&lab.runner()).kill();
    let view = lab.until_over(&id, PATIENCE);
    expect_end(&view, "lost", "vmm_signalled");
    assert_eq!(view.death.and_then(|death| death.signal), Some(9));
}
