//! A host that this one is not, as a machine of its own: one on which KVM works, with nothing but cgroup v2. And the lab itself: what must turn it red does.

use outlast_e2e::guest_lab::cases::cgroup::a_vmm_killed_for_want_of_memory;
use outlast_e2e::guest_lab::{Suite, run};
use outlast_e2e::on_lab;

#[track_caller]
fn green(suite: Suite) {
    run(suite, |judged| {
        if let Err(error) = judged {
            panic!("suite {} is not green: {error:#}", suite.name());
        }
    });
}

#[test]
fn long_guests_run_on_kvm_where_it_works() {
    green(Suite::Kvm);
}

#[test]
fn a_planted_failure_in_a_guest_turns_the_lab_red() {
    run(Suite::Red, |judged| {
        let error = judged.expect_err("a case was planted to fail").to_string();
        assert_eq!(error, "a_planted_case_that_fails: planted");
    });
}

#[test]
fn a_guest_that_goes_away_in_the_middle_is_never_green() {
    run(Suite::Silent, |judged| {
        let error = judged.expect_err("the machine went away").to_string();
        assert!(error.starts_with("case a_case_in_which_the_machine_goes_away is not told"), "{error}");
    });
}

/// On this host, whatever its control groups are.
#[test]
fn a_vmm_that_the_host_kills_for_want_of_memory_is_named_so_with_the_count() {
    on_lab(a_vmm_killed_for_want_of_memory);
}
